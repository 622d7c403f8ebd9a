//! What is told about a host.

use farplane_types::host::CONNECTED;
use farplane_types::{Host, conditions};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::cells::{Cell, Tone, table};
use super::rows::{organization, provider, truth};
use crate::failure::Failure;
use crate::time::age;
use crate::wait::{State, Step, Verdict};

/// Everything about a host, for people.
pub(crate) fn describe(host: &Host, now: Timestamp, color: bool) -> String {
    let status = host.status.clone().unwrap_or_default();
    let mut rows = vec![
        field("Name", host.name_any()),
        field("Organization", organization(host)),
        field("Endpoint", host.spec.endpoint.clone()),
        field("Kind", provider(host.spec.provider)),
        vec!["Connected:".into(), truth(&status.conditions, CONNECTED)],
        vec!["Cluster:".into(), Cell::or_dash(status.cluster.clone())],
        field("Age", age(host.metadata.creation_timestamp.as_ref(), now)),
    ];
    if host.spec.unschedulable {
        rows.push(field("Schedulable", "no"));
    }
    if let Some(end) = &status.certificate_not_after {
        rows.push(field("Certificate", format!("until {}", end.0)));
    }
    if let Some(facts) = &status.facts {
        let gib = facts.memory_bytes as f64 / f64::from(1 << 30);
        rows.push(field("Address", facts.node_address.clone()));
        rows.push(field("Agent", facts.agent_version.clone()));
        rows.push(field("System", facts.operating_system.clone()));
        rows.push(field(
            "Kernel",
            format!("{} {}", facts.kernel, facts.architecture),
        ));
        rows.push(field(
            "Size",
            format!("{} vCPU, {gib:.1} GiB memory", facts.vcpus),
        ));
        if !facts.missing.is_empty() {
            let missing = Cell::toned(facts.missing.join("; "), Tone::Bad);
            rows.push(vec!["Missing:".into(), missing]);
        }
    }
    let mut text = table(&[], &rows, color);
    if !status.connections.is_empty() {
        text.push_str("\nConnections\n");
        let rows: Vec<Vec<Cell>> = status
            .connections
            .iter()
            .map(|connection| {
                vec![
                    format!("  {}", connection.gateway).into(),
                    format!("since {}", age(Some(&connection.since), now)).into(),
                ]
            })
            .collect();
        text.push_str(&table(&[], &rows, color));
    }
    text.push_str(&super::cluster::not_ready(&status.conditions, color));
    text
}

fn field(name: &str, value: impl Into<Cell>) -> Vec<Cell> {
    vec![format!("{name}:").into(), value.into()]
}

/// Whether a host is connected.
pub(crate) fn judge(name: &str, host: Option<&Host>) -> Verdict {
    let Some(host) = host else {
        return Verdict::Failed(Failure::NotFound(format!(
            "host {name} was deleted meanwhile"
        )));
    };
    let status = host.status.clone().unwrap_or_default();
    let step = |state| vec![Step::new(format!("host {name}"), state)];
    match conditions::get(&status.conditions, CONNECTED) {
        Some(connected) if connected.status == "True" => Verdict::Done(step(State::Done(None))),
        Some(connected) if !connected.message.is_empty() => {
            Verdict::Going(step(State::Waiting(connected.message.clone())))
        }
        _ => Verdict::Going(step(State::Working("its machine starts".to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(status: &str) -> Host {
        serde_json::from_str(&format!(
            r#"{{"apiVersion":"farplane.io/v1alpha1","kind":"Host",
            "metadata":{{"name":"one","namespace":"org-demo","creationTimestamp":"2026-01-01T00:00:00Z"}},
            "spec":{{"endpoint":"site"}},"status":{status}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_host_that_lacks_something_says_what() {
        let host = host(
            r#"{"facts":{"agentVersion":"0.1.0","operatingSystem":"Debian","kernel":"6.1","architecture":"x86_64",
            "vcpus":2,"memoryBytes":4294967296,"nodeAddress":"192.0.2.7","cgroupVersion":2,"hasSysResource":true,
            "hasSystemd":true,"missing":["nft is not installed: apt-get install nftables"]},
            "conditions":[{"type":"Connected","status":"False","reason":"NoTunnel","message":"the agent is away since 5 minutes","lastTransitionTime":"2026-01-01T00:00:00Z"}]}"#,
        );
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let text = describe(&host, now, false);
        for expected in [
            "Age:            10m\n",
            "Size:           2 vCPU, 4.0 GiB memory\n",
            "Missing:        nft is not installed: apt-get install nftables\n",
            "\nNot ready\n  Connected   NoTunnel   the agent is away since 5 minutes\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        assert!(matches!(judge("one", Some(&host)), Verdict::Going(_)));
    }

    #[test]
    fn a_host_that_is_deleted_is_not_waited_for() {
        assert!(matches!(judge("one", None), Verdict::Failed(_)));
    }
}
