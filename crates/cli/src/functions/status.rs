//! `farplane functions status`

use anyhow::Result;
use clap::Args;
use farplane_embedded::lateness;
use farplane_functions_types::{Environment, Function, HTTPTrigger, names};
use kube::{Client, ResourceExt as _};
use serde::Serialize;

use super::catalogue;
use super::place::InCluster;
use super::platform;
use crate::App;
use crate::failure::Failure;
use crate::objects;
use crate::view::cells::{Cell, Tone, table};

/// Of which cluster.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  farplane functions status --cluster first --org demo")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    at: InCluster,
}

/// State of a platform, as it is printed.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Report {
    namespace: String,
    parts: Vec<Part>,
    languages: Vec<String>,
    environments: usize,
    functions: usize,
    routes: usize,
    ready: bool,
}

#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Part {
    name: String,
    wanted: i32,
    available: i32,
    image: String,
    /// Why it is not as wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Tells how it is; fails when it is not ready.
pub(crate) async fn run(app: &App, args: StatusArgs) -> Result<()> {
    let client = args.at.connect(app).await?;
    let report = look(&client, &args.at).await?;
    app.out.value(&report, |color| render(&report, color))?;
    match report.ready {
        true => Ok(()),
        false => Err(Failure::NotReady("the function platform is not ready".to_owned()).into()),
    }
}

async fn look(client: &Client, at: &InCluster) -> Result<Report> {
    let deployments = platform::deployments(client).await?;
    if deployments.is_empty() {
        return Err(Failure::NotFound(format!(
            "functions are not installed in this cluster; `{}` does it",
            at.command("functions install")
        ))
        .into());
    }
    let pods = platform::pods(client).await?;
    let parts: Vec<Part> = deployments
        .iter()
        .map(|deployment| {
            let name = deployment.name_any();
            let status = deployment.status.as_ref();
            let pod = deployment.spec.template.spec.as_ref();
            Part {
                wanted: deployment.spec.replicas.unwrap_or(1),
                available: status
                    .and_then(|status| status.available_replicas)
                    .unwrap_or(0),
                image: pod
                    .and_then(|pod| pod.containers.first()?.image.clone())
                    .unwrap_or_default(),
                reason: lateness(deployment, &platform::pods_of(&pods, &name)),
                name,
            }
        })
        .collect();
    let ready = parts.iter().all(|part| part.reason.is_none());
    Ok(Report {
        namespace: names::NAMESPACE.to_owned(),
        parts,
        languages: catalogue::read(client).await?.into_keys().collect(),
        environments: objects::list::<Environment>(client, None).await?.len(),
        functions: objects::list::<Function>(client, None).await?.len(),
        routes: objects::list::<HTTPTrigger>(client, None).await?.len(),
        ready,
    })
}

fn render(report: &Report, color: bool) -> String {
    let field = |name: &str, value: String| vec![Cell::from(format!("{name}:")), value.into()];
    let head = [
        field("Namespace", report.namespace.clone()),
        field("Languages", report.languages.join(", ")),
        field("Environments", report.environments.to_string()),
        field("Functions", report.functions.to_string()),
        field("Routes", report.routes.to_string()),
    ];
    let rows: Vec<Vec<Cell>> = report
        .parts
        .iter()
        .map(|part| {
            let tone = if part.reason.is_none() {
                Tone::Good
            } else {
                Tone::Bad
            };
            vec![
                part.name.clone().into(),
                Cell::toned(format!("{}/{}", part.available, part.wanted), tone),
                part.image.clone().into(),
                part.reason.clone().unwrap_or_default().into(),
            ]
        })
        .collect();
    format!(
        "{}\n{}",
        table(&[], &head, color),
        table(&["PART", "AVAILABLE", "IMAGE", ""], &rows, color)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_late_says_why() {
        let report = Report {
            namespace: "fission".into(),
            parts: vec![Part {
                name: "router".into(),
                wanted: 2,
                available: 1,
                image: "i".into(),
                reason: Some("router: the image i is missing".into()),
            }],
            languages: vec!["go".into(), "python".into()],
            environments: 1,
            functions: 2,
            routes: 3,
            ready: false,
        };
        let text = render(&report, false);
        assert!(text.contains("Languages:      go, python\n"), "{text}");
        assert!(
            text.contains("router   1/2         i       router: the image i is missing\n"),
            "{text}"
        );
    }
}
