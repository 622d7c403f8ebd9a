//! `farplane env describe`

use anyhow::Result;
use clap::Args;
use farplane_embedded::pod_reason;
use farplane_functions_types::{Environment, Function, names::label};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::super::facts;
use super::super::place::Named;
use crate::App;
use crate::objects;
use crate::time::age;
use crate::view::cells::{Cell, Tone, table};

/// Which environment.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  farplane env describe python")]
pub(crate) struct DescribeArgs {
    #[command(flatten)]
    named: Named,
}

/// Tells everything about it.
pub(crate) async fn run(app: &App, args: DescribeArgs) -> Result<()> {
    let client = args.named.at.connect(app).await?;
    let (name, namespace) = (args.named.name.as_str(), args.named.at.namespace.as_str());
    let environment: Environment = objects::get(&client, Some(namespace), name).await?;
    let functions = objects::list::<Function>(&client, Some(namespace)).await?;
    let users: Vec<String> = functions
        .iter()
        .filter(|function| function.spec.environment.name == name)
        .map(ResourceExt::name_any)
        .collect();
    let selector = format!("{}={name}", label::ENVIRONMENT_NAME);
    let mut pods = facts::pods(&client, namespace, &selector).await?;
    pods.extend(facts::pods(&client, namespace, &format!("envName={name}")).await?);
    app.out.object(&environment, |color| {
        render(&environment, &users, &pods, Timestamp::now(), color)
    })
}

fn render(
    environment: &Environment,
    users: &[String],
    pods: &[Pod],
    now: Timestamp,
    color: bool,
) -> String {
    let spec = &environment.spec;
    let field = |name: &str, value: String| vec![Cell::from(format!("{name}:")), value.into()];
    let or_none = |text: &str| {
        if text.is_empty() {
            "none".to_owned()
        } else {
            text.to_owned()
        }
    };
    let head = [
        field("Name", environment.name_any()),
        field("Namespace", environment.namespace().unwrap_or_default()),
        field("Image", spec.runtime.image.clone()),
        field("Builder", or_none(&spec.builder.image)),
        field("Contract", format!("version {}", spec.version)),
        field("Pool", format!("{} Pods", spec.pool_size())),
        field("Grace", format!("{} s", spec.grace_seconds())),
        field("Functions", or_none(&users.join(", "))),
        field(
            "Age",
            age(environment.metadata.creation_timestamp.as_ref(), now),
        ),
    ];
    let mut text = table(&[], &head, color);
    text.push_str("\nPods\n");
    if pods.is_empty() {
        text.push_str("  none\n");
    }
    let rows: Vec<Vec<Cell>> = pods.iter().map(|pod| row(pod, now)).collect();
    text.push_str(&table(&[], &rows, color));
    text
}

fn row(pod: &Pod, now: Timestamp) -> Vec<Cell> {
    let reason = pod_reason(pod);
    let state = match &reason {
        None => Cell::toned("ready", Tone::Good),
        Some(_) => Cell::toned("not ready", Tone::Bad),
    };
    let labels = pod.labels();
    let role = match (labels.get(label::FUNCTION_NAME), labels.get("envName")) {
        (Some(function), _) => format!("function {function}"),
        (None, Some(_)) => "builder".to_owned(),
        (None, None) => "pool".to_owned(),
    };
    vec![
        format!("  {}", pod.name_any()).into(),
        role.into(),
        state,
        age(pod.metadata.creation_timestamp.as_ref(), now).into(),
        reason.unwrap_or_default().into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_that_lacks_its_image_says_so() {
        let environment: Environment = serde_json::from_value(json!({
            "metadata": { "name": "python", "namespace": "default" },
            "spec": { "version": 3, "runtime": { "image": "img" }, "builder": {} },
        }))
        .unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "labels": { "environmentName": "python" } },
            "status": { "containerStatuses": [{
                "name": "python", "image": "img", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "waiting": { "reason": "ErrImagePull" } },
            }] },
        }))
        .unwrap();
        let text = render(
            &environment,
            &["hello".into()],
            &[pod],
            Timestamp::UNIX_EPOCH,
            false,
        );
        assert!(text.contains("Functions:   hello\n"), "{text}");
        assert!(
            text.contains("  p   pool   not ready   -   python: the image img is missing\n"),
            "{text}"
        );
    }
}
