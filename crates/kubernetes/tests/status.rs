//! How far a cluster is, and what people are told.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;

use common::{MADE, host, names, plan, pod, ready, view, with_keys, world};
use farplane_kubernetes::{Refusal, World, choose_hosts, refused, status};
use farplane_types::{
    HostSelection, KubernetesClusterStatus, NetworkProvider, PhaseStatus, conditions,
};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

/// Looks at the world this many milliseconds after the cluster was made, and stores what
/// was said as the hub does: with whole seconds.
fn look(world: &mut World, after: i64) -> KubernetesClusterStatus {
    world.now = Timestamp::from_millisecond(MADE * 1000 + after).unwrap();
    keep(
        world,
        &status(world, &choose_hosts(world), &BTreeMap::new()),
    )
}

fn keep(world: &mut World, new: &KubernetesClusterStatus) -> KubernetesClusterStatus {
    let text = serde_json::to_string(new).unwrap();
    let stored: KubernetesClusterStatus = serde_json::from_str(&text).unwrap();
    world.cluster.status = Some(stored.clone());
    stored
}

fn phase<'a>(status: &'a KubernetesClusterStatus, name: &str) -> &'a PhaseStatus {
    status
        .phases
        .iter()
        .find(|phase| phase.name == name)
        .unwrap()
}

fn condition(status: &KubernetesClusterStatus, name: &str) -> (bool, String, String) {
    let it = conditions::get(&status.conditions, name).unwrap();
    (it.status == "True", it.reason.clone(), it.message.clone())
}

/// Two hosts that are chosen and claimed; nothing runs yet.
fn ordered() -> World {
    let (mut world, _) = with_keys(world());
    world.hosts = vec![host("one", "192.0.2.11"), host("two", "192.0.2.12")];
    world.cluster.spec.hosts = names(&["one", "two"]);
    world.plans = vec![plan("one", "u-first"), plan("two", "u-first")];
    world
}

fn running(world: &mut World) {
    world.pods = vec![
        pod("etcd", "etcd-0-0", ready()),
        pod("apiserver", "apiserver-x", ready()),
    ];
}

const BOTH: [(&str, &str, &str); 2] = [("one", "True", ""), ("two", "True", "")];

/// A cluster that is ready since 9 seconds after it was made.
fn whole() -> World {
    let mut world = ordered();
    look(&mut world, 250);
    world.pods = vec![pod("etcd", "etcd-0-0", ready())];
    look(&mut world, 1_900);
    running(&mut world);
    world.view = Some(view(&[], 0));
    look(&mut world, 3_100);
    world.view = Some(view(&BOTH, 0));
    look(&mut world, 7_400);
    world.view = Some(view(&BOTH, 1));
    look(&mut world, 9_000);
    world
}

#[test]
fn each_phase_has_its_exact_time() {
    let mut world = whole();
    let status = look(&mut world, 60_000);
    let times: Vec<(&str, i64)> = status
        .phases
        .iter()
        .map(|phase| (phase.name.as_str(), phase.milliseconds.unwrap()))
        .collect();
    let expected = [
        ("Keys", 250),
        ("Store", 1_650),
        ("ApiServer", 1_200),
        ("Nodes", 4_300),
        ("AddOns", 5_900),
    ];
    assert_eq!(times, expected);
    assert!(status.phases.iter().all(|phase| phase.message.is_empty()));
    assert_eq!(status.phase.as_deref(), Some("Ready"));
    assert_eq!(
        condition(&status, "Ready"),
        (true, "Done".into(), String::new())
    );
    assert_eq!(status.ready_nodes, 2);
    assert_eq!(status.server.as_deref(), Some("https://192.0.2.1:8443"));
    assert_eq!(
        status.kubeconfig_secret.as_deref(),
        Some("first-kubeconfig")
    );
    assert_eq!(status.observed_generation, Some(1));
    // Nothing new: nothing is written.
    assert_eq!(look(&mut world, 61_000), status);
}

#[test]
fn what_has_not_begun_says_what_it_waits_for() {
    let mut world = ordered();
    let status = look(&mut world, 250);
    assert_eq!(status.phase.as_deref(), Some("Provisioning"));
    assert_eq!(phase(&status, "Keys").milliseconds, Some(250));
    assert!(phase(&status, "Store").started_at.is_some());
    assert!(phase(&status, "Store").finished_at.is_none());
    let api = phase(&status, "ApiServer");
    assert_eq!(
        (&api.started_at, api.message.as_str()),
        (&None, "for the store")
    );
    assert_eq!(phase(&status, "AddOns").message, "for the API server");
    let (done, reason, message) = condition(&status, "Ready");
    assert_eq!((done, reason.as_str()), (false, "PodMissing"));
    // The command line leaves out what a phase says already.
    assert_eq!(message, phase(&status, "Store").message);
    assert_eq!(condition(&status, "Nodes").1, "Waiting");
}

#[test]
fn times_stay_when_something_fails_later() {
    let mut world = whole();
    let before = world.cluster.status.clone().unwrap();
    world.view = None;
    world.pods = vec![pod(
        "etcd",
        "etcd-0-0",
        json!({ "phase": "Running", "containerStatuses": [{
            "name": "etcd", "image": "i", "imageID": "", "ready": false, "restartCount": 7,
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } },
        }] }),
    )];
    let status = look(&mut world, 100_000);
    for (old, new) in before.phases.iter().zip(&status.phases) {
        assert_eq!(
            (&old.started_at, &old.finished_at, old.milliseconds),
            (&new.started_at, &new.finished_at, new.milliseconds)
        );
    }
    assert_eq!(status.phase.as_deref(), Some("Degraded"));
    let (done, reason, message) = condition(&status, "Ready");
    assert_eq!((done, reason.as_str()), (false, "Crashing"));
    assert!(
        message.contains("ended 7 times, last with out of memory"),
        "{message}"
    );
    assert!(
        message.contains("kubectl -n plane-u-first logs etcd-0-0 -c etcd --previous"),
        "{message}"
    );
    // Nodes work on without an API server.
    assert_eq!(status.ready_nodes, 2);
    let transition = |status: &KubernetesClusterStatus, name: &str| {
        let found = conditions::get(&status.conditions, name).unwrap();
        found.last_transition_time.0.as_second() - MADE
    };
    assert_eq!(transition(&status, "Ready"), 100);
    assert_eq!(transition(&status, "Keys"), 0);
    let later = look(&mut world, 101_000);
    assert_eq!(transition(&later, "Ready"), 100);
    running(&mut world);
    world.view = Some(view(&BOTH, 2));
    let healed = look(&mut world, 120_000);
    assert_eq!(healed.phase.as_deref(), Some("Ready"));
    assert_eq!(transition(&healed, "Ready"), 120);
    assert_eq!(healed.phases, before.phases);
}

#[test]
fn pods_that_cannot_run_say_why() {
    let waiting = |reason: &str| {
        json!({ "phase": "Pending", "containerStatuses": [{
            "name": "etcd", "image": "hub/etcd:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": reason, "message": "because" } },
        }] })
    };
    let unplaced = json!({ "phase": "Pending", "conditions": [
        { "type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient cpu" },
    ] });
    for (status, reason, words) in [
        (
            waiting("ImagePullBackOff"),
            "ImageMissing",
            "image hub/etcd:1 of Pod etcd-0-0",
        ),
        (
            waiting("CreateContainerConfigError"),
            "CannotStart",
            "because",
        ),
        (
            waiting("ContainerCreating"),
            "PodStarting",
            "the Pods of etcd start",
        ),
        (
            unplaced,
            "NoRoom",
            "Insufficient cpu; add a node to the hub",
        ),
        (
            json!({ "phase": "Failed", "message": "disk is full" }),
            "PodFailed",
            "disk is full",
        ),
    ] {
        let mut world = ordered();
        world.pods = vec![pod("etcd", "etcd-0-0", status)];
        let (done, found, message) = condition(&look(&mut world, 500), "Store");
        assert_eq!((done, found.as_str()), (false, reason));
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_majority_of_three_serves_and_the_missing_one_is_named() {
    let mut world = ordered();
    world.cluster.spec.control_plane.replicas = 3;
    world.pods = (0..3)
        .map(|it| pod("apiserver", &format!("apiserver-{it}"), ready()))
        .chain((0..2).map(|it| pod("etcd", &format!("etcd-{it}-0"), ready())))
        .collect();
    world.view = Some(view(&BOTH, 1));
    let status = look(&mut world, 5_000);
    let (done, _, message) = condition(&status, "Store");
    assert!(
        done && message.starts_with("2 of 3 members run; "),
        "{message}"
    );
    assert!(condition(&status, "Ready").0);
    assert_eq!(status.phase.as_deref(), Some("Degraded"));
}

/// What is said of host `two` while host `one` is a node.
fn of_two(change: impl FnOnce(&mut World)) -> (bool, String) {
    let mut world = ordered();
    running(&mut world);
    world.view = Some(view(&[("one", "True", "")], 1));
    change(&mut world);
    let status = look(&mut world, 9_000);
    let node = status.nodes.iter().find(|node| node.host == "two").unwrap();
    (condition(&status, "Nodes").0, node.message.clone())
}

#[test]
fn a_host_that_is_no_node_says_why() {
    let reported = |units: serde_json::Value| {
        move |world: &mut World| {
            let report = json!({ "observedGeneration": 1, "units": units });
            world.plans[1].status = serde_json::from_value(report).unwrap();
        }
    };
    let away = |world: &mut World| {
        world.hosts[1].status.as_mut().unwrap().conditions.clear();
    };
    let failed =
        json!([{ "unit": "process/containerd", "state": "failed", "message": "no overlay" }]);
    let busy = json!([{ "unit": "artifact/cni", "state": "applying", "message": "3 of 9 MB" }]);
    let unready = |world: &mut World| {
        world.view = Some(view(
            &[("one", "True", ""), ("two", "False", "disk pressure")],
            1,
        ));
    };
    let denied = |world: &mut World| {
        let request = json!({
            "metadata": { "name": "csr-7" },
            "spec": { "request": "", "signerName": "s", "username": "farplane:bootstrap:two" },
            "status": { "conditions": [
                { "type": "Denied", "status": "True", "message": "not its name" }] },
        });
        let view = world.view.as_mut().unwrap();
        view.requests = vec![serde_json::from_value(request).unwrap()];
    };
    let used = |world: &mut World| world.plans[1] = plan("two", "u-other");
    let none = |_: &mut World| {};
    assert!(of_two(none).1.contains("has not taken up its plan"));
    assert!(of_two(away).1.contains("its agent is away; start it there"));
    assert!(
        of_two(reported(failed))
            .1
            .contains("process/containerd failed: no overlay")
    );
    assert!(
        of_two(reported(busy))
            .1
            .contains("prepares artifact/cni: 3 of 9 MB")
    );
    assert!(
        of_two(reported(json!([])))
            .1
            .contains("its agent works on its plan")
    );
    assert!(
        of_two(unready)
            .1
            .contains("its kubelet says: disk pressure")
    );
    let limping = |world: &mut World| {
        world.view = Some(view(&[("one", "True", ""), ("two", "True", "")], 1));
        reported(
            json!([{ "unit": "process/flannel", "state": "failed", "message": "no iptables" }]),
        )(world);
    };
    let (done, message) = of_two(limping);
    assert!(
        !done && message.contains("process/flannel failed: no iptables"),
        "{message}"
    );
    assert!(of_two(denied).1.contains("csr-7 was denied: not its name"));
    let (done, message) = of_two(used);
    assert!(
        !done && message.contains("is used by cluster cluster-u-other"),
        "{message}"
    );
}

#[test]
fn a_host_that_another_cluster_took_first_is_not_ready() {
    let mut world = ordered();
    running(&mut world);
    world.view = Some(view(&BOTH, 1));
    let lost = BTreeMap::from([("two".to_owned(), "is used by cluster x".to_owned())]);
    let status = status(&world, &choose_hosts(&world), &lost);
    assert_eq!(status.ready_nodes, 1);
    let (done, reason, message) = condition(&status, "Ready");
    assert_eq!((done, reason.as_str()), (false, "NodesNotReady"));
    assert_eq!(
        message,
        "1 of 2 nodes are ready; host two is used by cluster x"
    );
}

#[test]
fn no_free_host_is_the_reason_of_the_whole() {
    let mut world = ordered();
    running(&mut world);
    world.cluster.spec.hosts = HostSelection::Count(3);
    world.view = Some(view(&BOTH, 1));
    let status = look(&mut world, 9_000);
    let (done, reason, message) = condition(&status, "Ready");
    assert_eq!((done, reason.as_str()), (false, "NoFreeHost"));
    assert!(
        message.contains("3 hosts are wanted and 2 can be had"),
        "{message}"
    );
    world.plans.clear();
    world.hosts.clear();
    world.cluster.spec.hosts = HostSelection::All(Default::default());
    assert_eq!(condition(&look(&mut world, 9_500), "Ready").1, "NoFreeHost");
}

#[test]
fn a_cluster_without_nodes_is_ready_when_its_api_server_is() {
    let mut world = ordered();
    running(&mut world);
    world.plans.clear();
    world.cluster.spec.hosts = names(&[]);
    world.view = Some(view(&[], 0));
    assert_eq!(look(&mut world, 4_000).phase.as_deref(), Some("Ready"));
}

#[test]
fn a_network_of_ones_own_is_waited_for_by_its_owner_only() {
    let mut world = ordered();
    running(&mut world);
    world.cluster.spec.network.provider = NetworkProvider::None;
    let why =
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady";
    world.view = Some(view(&[("one", "False", why), ("two", "False", why)], 0));
    let status = look(&mut world, 9_000);
    assert_eq!(status.phase.as_deref(), Some("Ready"));
    assert_eq!(status.ready_nodes, 0);
    let (done, _, message) = condition(&status, "Nodes");
    assert!(
        done && message.contains("for you to install a network plugin"),
        "{message}"
    );
    // With flannel the same is not ready.
    world.cluster.spec.network.provider = NetworkProvider::Flannel;
    assert!(!condition(&look(&mut world, 9_500), "Nodes").0);
}

#[test]
fn what_was_refused_begins_when_it_is_admitted() {
    let mut world = ordered();
    let no = Refusal::new("QuotaExceeded", "delete one");
    let status = refused(&world, &no);
    let status = keep(&mut world, &status);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(
        condition(&status, "Ready"),
        (false, "QuotaExceeded".into(), "delete one".into())
    );
    assert!(status.phases.iter().all(|phase| phase.started_at.is_none()));
    assert_eq!(phase(&status, "Keys").message, "for admission");
    let status = look(&mut world, 3_600_000);
    assert_eq!(phase(&status, "Keys").milliseconds, Some(0));
    // One that was whole keeps what it has.
    let mut world = whole();
    let before = world.cluster.status.clone().unwrap();
    let status = refused(&world, &no);
    assert_eq!(status.phase.as_deref(), Some("Degraded"));
    assert_eq!(
        (&status.phases, &status.nodes),
        (&before.phases, &before.nodes)
    );
    keep(&mut world, &status);
    assert_eq!(look(&mut world, 90_000).phase.as_deref(), Some("Ready"));
}
