//! What is told about a cluster.

use std::time::Duration;

use farplane_types::conditions::{self, READY};
use farplane_types::{
    HostSelection, KubernetesCluster, KubernetesClusterStatus, NetworkProvider, NodeStatus,
    PhaseStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::cells::{Cell, Tone, table};
use super::rows::{organization, phase};
use crate::failure::Failure;
use crate::time::{age, human};
use crate::wait::{State, Step, Verdict};

/// Everything about a cluster, for people.
pub(crate) fn describe(cluster: &KubernetesCluster, now: Timestamp, color: bool) -> String {
    let status = cluster.status.clone().unwrap_or_default();
    let mut text = table(&[], &head(cluster, &status, now), color);
    text.push_str("\nPhases\n");
    let rows: Vec<Vec<Cell>> = status
        .phases
        .iter()
        .map(|phase| phase_row(phase, now))
        .collect();
    match rows.is_empty() {
        true => text.push_str("  none has begun\n"),
        false => text.push_str(&table(&[], &rows, color)),
    }
    if !status.nodes.is_empty() {
        text.push_str("\nNodes\n");
        let rows: Vec<Vec<Cell>> = status.nodes.iter().map(node_row).collect();
        text.push_str(&table(&[], &rows, color));
    }
    text.push_str(&not_ready(&status.conditions, color));
    text
}

fn head(
    cluster: &KubernetesCluster,
    status: &KubernetesClusterStatus,
    now: Timestamp,
) -> Vec<Vec<Cell>> {
    let spec = &cluster.spec;
    let replicas = match spec.control_plane.replicas {
        1 => "1 replica".to_owned(),
        several => format!("{several} replicas"),
    };
    let network = match spec.network.provider {
        NetworkProvider::Flannel => "flannel",
        NetworkProvider::None => "none (bring your own)",
    };
    let field = |name: &str, value: String| vec![Cell::from(format!("{name}:")), value.into()];
    let mut rows = vec![
        field("Name", cluster.name_any()),
        field("Organization", organization(cluster)),
        field("Version", spec.version.clone()),
        vec!["Phase:".into(), phase(cluster)],
        field("Control plane", replicas),
        field("Hosts", selection(&spec.hosts)),
        field(
            "Network",
            format!(
                "{network}, Pods {}, Services {}",
                spec.network.pod_cidr, spec.network.service_cidr
            ),
        ),
        field(
            "Age",
            age(cluster.metadata.creation_timestamp.as_ref(), now),
        ),
    ];
    if let Some(server) = &status.server {
        let name = status.server_name.as_ref();
        let name = name.map(|name| format!(", server name {name}"));
        rows.push(field(
            "Server",
            format!("{server}{}", name.unwrap_or_default()),
        ));
    }
    if let Some(namespace) = &status.namespace {
        rows.push(field("At the hub", format!("namespace {namespace}")));
    }
    rows
}

/// Which hosts, in words.
fn selection(hosts: &HostSelection) -> String {
    match hosts {
        HostSelection::Names(names) if names.is_empty() => "none".to_owned(),
        HostSelection::Names(names) => names.join(", "),
        HostSelection::Count(count) => format!("any {count}"),
        HostSelection::All(all) => match &all.endpoint {
            Some(endpoint) => format!("all of endpoint {endpoint}"),
            None => "all".to_owned(),
        },
    }
}

fn phase_row(phase: &PhaseStatus, now: Timestamp) -> Vec<Cell> {
    let name = Cell::from(format!("  {}", phase.name));
    let running = phase.started_at.as_ref().map(|started| {
        let seconds = now.as_second() - started.0.as_second();
        human(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    });
    let (state, time) = match step(phase).state {
        State::Done(time) => (Cell::toned("done", Tone::Good), time.map(human)),
        State::Working(_) => (Cell::toned("working", Tone::Wait), running),
        State::Waiting(_) => (Cell::toned("waiting", Tone::Wait), None),
    };
    // A step that was done once may have something to say again.
    vec![
        name,
        state,
        time.unwrap_or_default().into(),
        phase.message.clone().into(),
    ]
}

fn node_row(node: &NodeStatus) -> Vec<Cell> {
    let ready = match node.ready {
        true => Cell::toned("ready", Tone::Good),
        false => Cell::toned("not ready", Tone::Bad),
    };
    vec![
        format!("  {}", node.host).into(),
        ready,
        Cell::or_dash(node.address.clone()),
        node.message.clone().into(),
    ]
}

/// What is not true, why, and what to do. Nothing when all is well.
pub(crate) fn not_ready(list: &[Condition], color: bool) -> String {
    let rows: Vec<Vec<Cell>> = list
        .iter()
        .filter(|condition| condition.status != "True")
        .map(|condition| {
            vec![
                format!("  {}", condition.type_).into(),
                Cell::toned(condition.reason.clone(), Tone::Bad),
                condition.message.clone().into(),
            ]
        })
        .collect();
    match rows.is_empty() {
        true => String::new(),
        false => format!("\nNot ready\n{}", table(&[], &rows, color)),
    }
}

/// A phase as a step to show.
fn step(phase: &PhaseStatus) -> Step {
    let state = match (&phase.finished_at, &phase.started_at) {
        (Some(_), _) => State::Done(
            phase
                .milliseconds
                .and_then(|milliseconds| u64::try_from(milliseconds).ok())
                .map(Duration::from_millis),
        ),
        (None, Some(_)) => State::Working(match phase.message.as_str() {
            "" => "under way".to_owned(),
            message => message.to_owned(),
        }),
        (None, None) => State::Waiting(phase.message.clone()),
    };
    Step::new(phase.name.clone(), state)
}

/// Whether a cluster is ready, and its steps.
pub(crate) fn judge(name: &str, cluster: Option<&KubernetesCluster>) -> Verdict {
    let Some(cluster) = cluster else {
        return Verdict::Failed(Failure::NotFound(format!(
            "cluster {name} was deleted meanwhile"
        )));
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        return Verdict::Failed(Failure::Refused(format!("cluster {name} is being deleted")));
    }
    let status = cluster.status.clone().unwrap_or_default();
    let mut steps: Vec<Step> = status.phases.iter().map(step).collect();
    let ready = conditions::get(&status.conditions, READY);
    let current = status.observed_generation >= cluster.metadata.generation;
    if current && ready.is_some_and(|ready| ready.status == "True") {
        return Verdict::Done(steps);
    }
    // The reason of the whole, unless a phase says the same.
    if let Some(ready) = ready.filter(|ready| ready.status != "True" && !ready.message.is_empty())
        && !status
            .phases
            .iter()
            .any(|phase| phase.message == ready.message)
    {
        steps.push(Step::new("cluster", State::Waiting(ready.message.clone())));
    }
    if steps.is_empty() {
        steps.push(Step::new(
            "cluster",
            State::Waiting("the hub's controllers take it up".to_owned()),
        ));
    }
    Verdict::Going(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> KubernetesCluster {
        serde_json::from_str(
            r#"{"apiVersion":"farplane.io/v1alpha1","kind":"KubernetesCluster",
            "metadata":{"name":"first","namespace":"org-demo","generation":1,"creationTimestamp":"2026-01-01T00:00:00Z"},
            "spec":{"version":"1.37.2","hosts":{"names":["one","two"]}},
            "status":{"observedGeneration":1,"phase":"Provisioning","namespace":"plane-u1",
            "server":"https://192.0.2.1:8443","serverName":"first.demo.k8s.farplane.internal",
            "phases":[
              {"name":"Keys","startedAt":"2026-01-01T00:00:00Z","finishedAt":"2026-01-01T00:00:00Z","milliseconds":280},
              {"name":"Nodes","startedAt":"2026-01-01T00:00:04Z","message":"waits for host two: its agent is away; start it there"},
              {"name":"AddOns"}],
            "nodes":[{"host":"one","address":"192.0.2.7","ready":true},
              {"host":"two","ready":false,"message":"the agent is away"}],
            "readyNodes":1,
            "conditions":[
              {"type":"Ready","status":"False","reason":"NodesNotReady","message":"1 of 2 nodes is ready","lastTransitionTime":"2026-01-01T00:00:00Z"},
              {"type":"Keys","status":"True","reason":"Done","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#,
        )
        .unwrap()
    }

    #[test]
    fn each_phase_has_its_time_and_what_is_not_ready_its_reason() {
        let now: Timestamp = "2026-01-01T00:00:16Z".parse().unwrap();
        let expected = include_str!("../../tests/golden/describe-cluster.txt");
        assert_eq!(describe(&sample(), now, false), expected);
    }

    #[test]
    fn a_cluster_is_waited_for_until_its_newest_wish_is_true() {
        let mut cluster = sample();
        let Verdict::Going(steps) = judge("first", Some(&cluster)) else {
            panic!("it is not ready");
        };
        assert_eq!(
            steps.last().unwrap().words(),
            "waits: 1 of 2 nodes is ready"
        );
        let status = cluster.status.as_mut().unwrap();
        status.conditions[0].status = "True".into();
        assert!(matches!(judge("first", Some(&cluster)), Verdict::Done(_)));
        cluster.metadata.generation = Some(2);
        assert!(matches!(judge("first", Some(&cluster)), Verdict::Going(_)));
    }
}
