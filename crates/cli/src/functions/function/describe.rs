//! `farplane fn describe`

use anyhow::Result;
use clap::Args;
use farplane_embedded::pod_reason;
use farplane_functions_types::package::Archive;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;

use crate::App;
use crate::arguments::Format;
use crate::functions::explain::{self, Finding, Health};
use crate::functions::facts::{self, Facts};
use crate::functions::kinds;
use crate::functions::place::Named;
use crate::time::age;
use crate::view::cells::{Cell, Tone, table};

/// Which function.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  farplane fn describe hello")]
pub(crate) struct DescribeArgs {
    #[command(flatten)]
    named: Named,
}

/// Tells everything about it.
pub(crate) async fn run(app: &App, args: DescribeArgs) -> Result<()> {
    let at = &args.named.at;
    let client = at.connect(app).await?;
    let facts = facts::gather(&client, &at.namespace, &args.named.name).await?;
    let findings = explain::findings(&facts, &|words| at.command(words));
    match app.out.format {
        Format::Json | Format::Yaml => {
            let mut function = facts.function.clone();
            function.metadata.managed_fields = None;
            let instances: Vec<String> =
                facts.instances.iter().map(ResourceExt::name_any).collect();
            let value = json!({
                "function": function, "findings": findings, "instances": instances,
                "routes": facts.routes.iter().map(kinds::path).collect::<Vec<_>>(),
            });
            app.out.value(&value, |_| String::new())
        }
        _ => app.out.object(&facts.function, |color| {
            render(&facts, &findings, Timestamp::now(), color)
        }),
    }
}

fn render(facts: &Facts, findings: &[Finding], now: Timestamp, color: bool) -> String {
    let mut text = table(&[], &head(facts, now), color);
    text.push_str("\nState\n");
    let rows: Vec<Vec<Cell>> = findings.iter().flat_map(finding_rows).collect();
    text.push_str(&table(&[], &rows, color));
    if !facts.instances.is_empty() {
        text.push_str("\nInstances\n");
        let rows: Vec<Vec<Cell>> = facts
            .instances
            .iter()
            .map(|pod| instance(pod, now))
            .collect();
        text.push_str(&table(&[], &rows, color));
    }
    if !facts.routes.is_empty() || !facts.timers.is_empty() {
        text.push_str("\nCalled by\n");
        text.push_str(&table(&[], &triggers(facts), color));
    }
    let next: Vec<String> = findings
        .iter()
        .filter(|finding| !finding.next.is_empty())
        .map(|finding| format!("  {}: {}\n", finding.part, finding.next))
        .collect();
    if !next.is_empty() {
        text.push_str("\nWhat to do\n");
        text.push_str(&next.concat());
    }
    text
}

fn head(facts: &Facts, now: Timestamp) -> Vec<Vec<Cell>> {
    let function = &facts.function;
    let spec = &function.spec;
    let field = |name: &str, value: String| vec![Cell::from(format!("{name}:")), value.into()];
    let mut rows = vec![
        field("Name", function.name_any()),
        field("Namespace", function.namespace().unwrap_or_default()),
        field("Executor", spec.executor_type().as_str().to_owned()),
    ];
    if !spec.environment.name.is_empty() {
        rows.push(field("Environment", spec.environment.name.clone()));
    }
    if let Some(package) = &facts.package {
        let archive = match package.spec.deployment.is_empty() {
            true => &package.spec.source,
            false => &package.spec.deployment,
        };
        rows.push(field(
            "Package",
            format!("{}, {}", package.name_any(), size(archive)),
        ));
    }
    if !spec.package.function_name.is_empty() {
        rows.push(field("Entry point", spec.package.function_name.clone()));
    }
    rows.push(field(
        "Limits",
        format!(
            "{} instances, {} calls each, {} s per call, idle {} s",
            spec.concurrency(),
            spec.requests_per_pod(),
            spec.timeout_seconds(),
            spec.idle_seconds()
        ),
    ));
    rows.push(field(
        "Age",
        age(function.metadata.creation_timestamp.as_ref(), now),
    ));
    rows
}

/// Where an archive is, and how large when that is known.
fn size(archive: &Archive) -> String {
    match (&archive.oci, archive.literal.len()) {
        (Some(oci), _) => format!("image {}", oci.image),
        (None, 0) if archive.url.is_empty() => "no code".to_owned(),
        (None, 0) => "in storage".to_owned(),
        (None, encoded) => format!(
            "{} bytes",
            encoded / 4 * 3
                - archive
                    .literal
                    .bytes()
                    .rev()
                    .take_while(|byte| *byte == b'=')
                    .count()
        ),
    }
}

/// A row for a finding, and one for each further line of its words.
fn finding_rows(finding: &Finding) -> Vec<Vec<Cell>> {
    let state = match finding.health {
        Health::Good => Cell::toned("good", Tone::Good),
        Health::Waiting => Cell::toned("waits", Tone::Wait),
        Health::Bad => Cell::toned("bad", Tone::Bad),
    };
    let mut lines = finding.words.lines();
    let first = lines.next().unwrap_or_default().to_owned();
    let mut rows = vec![vec![
        format!("  {}", finding.part).into(),
        state,
        first.into(),
    ]];
    rows.extend(lines.map(|line| vec!["".into(), "".into(), format!("  {line}").into()]));
    rows
}

fn instance(pod: &Pod, now: Timestamp) -> Vec<Cell> {
    let reason = match pod.metadata.deletion_timestamp {
        Some(_) => Some("is being ended".to_owned()),
        None => pod_reason(pod),
    };
    let state = match &reason {
        None => Cell::toned("ready", Tone::Good),
        Some(_) => Cell::toned("not ready", Tone::Wait),
    };
    let status = pod.status.clone().unwrap_or_default();
    vec![
        format!("  {}", pod.name_any()).into(),
        state,
        Cell::or_dash(status.pod_ip),
        age(pod.metadata.creation_timestamp.as_ref(), now).into(),
        reason.unwrap_or_default().into(),
    ]
}

fn triggers(facts: &Facts) -> Vec<Vec<Cell>> {
    let routes = facts.routes.iter().map(|route| {
        let conditions = route.status.clone().unwrap_or_default().conditions;
        vec![
            format!(
                "  {} {}",
                kinds::methods(route).join(","),
                kinds::path(route)
            )
            .into(),
            format!("route {}", route.name_any()).into(),
            kinds::verdict(&conditions, "Ready"),
        ]
    });
    let timers = facts.timers.iter().map(|timer| {
        let conditions = timer.status.clone().unwrap_or_default().conditions;
        vec![
            format!("  {}", timer.spec.cron).into(),
            format!("timer {}", timer.name_any()).into(),
            kinds::verdict(&conditions, "Ready"),
        ]
    });
    routes.chain(timers).collect()
}
