//! `farplane status`

use anyhow::Result;
use farplane_embedded::HubStatus;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;

use crate::App;
use crate::engine;
use crate::failure::Failure;
use crate::hub::{self, Source};
use crate::view::cells::{Cell, Tone, table};

/// State of a hub, as it is printed.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Of a hub of this machine: its processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    hub: Option<HubStatus>,
    /// Farplane's own Deployments at the hub.
    parts: Vec<Part>,
    /// Why parts are not known; left out when they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
    /// True when everything is as it should be.
    ready: bool,
}

#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Part {
    name: String,
    wanted: i32,
    available: i32,
}

/// Tells how the hub is; fails when it is not ready.
pub(crate) async fn run(app: &App) -> Result<()> {
    let report = look(app).await?;
    app.out.value(&report, |color| render(&report, color))?;
    if let Some(reason) = &report.unknown {
        app.out.say(reason);
    }
    if report.ready {
        return Ok(());
    }
    Err(Failure::NotReady(match &report.hub {
        Some(hub) if !hub.running => {
            format!(
                "the hub {0} is stopped; `farplane up --name {0}` starts it",
                hub.name
            )
        }
        _ => "the hub is not ready".to_owned(),
    })
    .into())
}

async fn look(app: &App) -> Result<Report> {
    let hub = match hub::source_of(app) {
        Source::Embedded(name) => {
            let status = engine::status(&name).await?;
            if !status.exists {
                return Err(engine::no_such_hub(&name).into());
            }
            Some(status)
        }
        Source::File(_) | Source::Usual => None,
    };
    let asked = match &hub {
        Some(hub) if !hub.running => Ok(Vec::new()),
        _ => match hub::connect(app).await {
            Ok(client) => parts(client).await,
            // Without a hub on this machine there is nothing else to tell.
            Err(error) if hub.is_none() => return Err(error),
            Err(error) => Err(error),
        },
    };
    let (parts, unknown) = match asked {
        Ok(parts) => (parts, None),
        Err(error) => (Vec::new(), Some(crate::failure::text(&error))),
    };
    let ready = unknown.is_none()
        && hub.as_ref().is_none_or(|hub| hub.ready)
        && !parts.is_empty()
        && parts.iter().all(|part| part.available >= part.wanted);
    Ok(Report {
        hub,
        parts,
        unknown,
        ready,
    })
}

async fn parts(client: Client) -> Result<Vec<Part>> {
    let namespace = farplane_types::names::SYSTEM_NAMESPACE;
    let api = Api::<Deployment>::namespaced(client, namespace);
    let list = api.list(&ListParams::default()).await.map_err(|error| {
        let about = crate::failure::About {
            noun: "Deployment",
            command: "status",
            name: "",
            scope: crate::failure::Scope::Hub,
            verb: "list",
        };
        about.explain(error)
    })?;
    let mut parts: Vec<Part> = list
        .items
        .iter()
        .map(|deployment| Part {
            name: deployment.name_any(),
            wanted: deployment.spec.replicas.unwrap_or(1),
            available: deployment
                .status
                .as_ref()
                .and_then(|status| status.available_replicas)
                .unwrap_or(0),
        })
        .collect();
    parts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(parts)
}

fn render(report: &Report, color: bool) -> String {
    let mut text = String::new();
    if let Some(hub) = &report.hub {
        let mut head: Vec<Vec<Cell>> = vec![vec!["Hub:".into(), hub.name.to_string().into()]];
        if let Some(gateway) = hub.gateway_address {
            head.push(vec!["Gateway:".into(), gateway.to_string().into()]);
        }
        if let Some(domain) = &hub.hub_domain {
            head.push(vec!["Domain:".into(), domain.clone().into()]);
        }
        head.push(vec![
            "Kubeconfig:".into(),
            hub.kubeconfig.display().to_string().into(),
        ]);
        text.push_str(&table(&[], &head, color));
        text.push('\n');
        let rows: Vec<Vec<Cell>> = hub
            .processes
            .iter()
            .map(|process| {
                let tone = if process.ready { Tone::Good } else { Tone::Bad };
                vec![
                    process.name.clone().into(),
                    Cell::toned(process.state.clone(), tone),
                    Cell::or_dash(process.pid.map(|pid| pid.to_string())),
                ]
            })
            .collect();
        text.push_str(&table(&["PROCESS", "STATE", "PID"], &rows, color));
    }
    if !report.parts.is_empty() {
        if !text.is_empty() {
            text.push('\n');
        }
        let rows: Vec<Vec<Cell>> = report
            .parts
            .iter()
            .map(|part| {
                let tone = match part.available >= part.wanted {
                    true => Tone::Good,
                    false => Tone::Bad,
                };
                let count = format!("{}/{}", part.available, part.wanted);
                vec![part.name.clone().into(), Cell::toned(count, tone)]
            })
            .collect();
        text.push_str(&table(&["PART", "AVAILABLE"], &rows, color));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_show_how_many_of_the_wanted_answer() {
        let report = Report {
            hub: None,
            parts: vec![Part {
                name: "farplane-gateway".into(),
                wanted: 2,
                available: 1,
            }],
            unknown: None,
            ready: false,
        };
        assert_eq!(
            render(&report, false),
            "PART               AVAILABLE\nfarplane-gateway   1/2\n"
        );
    }
}
