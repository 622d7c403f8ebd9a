//! Events of watches that break.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::*;

fn pod(name: &str, ip: &str, labels: &serde_json::Value, ready: Option<bool>) -> Pod {
    let conditions: Vec<_> = ready
        .map(|ready| json!({"type": "Ready", "status": if ready { "True" } else { "False" }}))
        .into_iter()
        .collect();
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": name, "labels": labels},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 9000}]}]},
        "status": {"podIP": ip, "conditions": conditions},
    }))
    .unwrap()
}

fn pool(served: &str) -> serde_json::Value {
    json!({
        "functionUid": "u", "executorType": "poolmgr", "fission.io/served": served,
        "fission.io/function-generation": "3",
    })
}

fn instance(address: &str) -> Event {
    Event::Instance {
        uid: "u".to_owned(),
        generation: 3,
        version: String::new(),
        address: address.to_owned(),
    }
}

fn gone(address: &str) -> Event {
    Event::InstanceGone {
        address: address.to_owned(),
    }
}

#[test]
fn a_pool_pod_is_told_once_it_has_its_code() {
    let mut known = Known::<Pod>::default();
    let apply = |pod| Ok(watcher::Event::Apply(pod));
    let ready = Some(true);
    assert_eq!(
        known.next(apply(pod("a", "10.0.0.1", &pool("false"), ready))),
        []
    );
    let served = pod("a", "10.0.0.1", &pool("true"), ready);
    assert_eq!(
        known.next(apply(served.clone())),
        [instance("10.0.0.1:8888")]
    );
    let crashed = pod("a", "10.0.0.1", &pool("true"), Some(false));
    assert_eq!(known.next(apply(crashed.clone())), [gone("10.0.0.1:8888")]);
    assert_eq!(known.next(apply(crashed)), []);
    let mut deleting = served.clone();
    deleting.metadata.deletion_timestamp = Some(Time(Default::default()));
    assert_eq!(known.next(apply(deleting)), [gone("10.0.0.1:8888")]);
    let deleted = Ok(watcher::Event::Delete(served));
    assert_eq!(known.next(deleted), [gone("10.0.0.1:8888")]);
}

/// The executor may have named it before the watch did.
#[test]
fn a_pod_that_was_never_told_is_told_as_gone() {
    let mut known = Known::<Pod>::default();
    let deleted = Ok(watcher::Event::Delete(pod(
        "a",
        "10.0.0.1",
        &pool("false"),
        None,
    )));
    assert_eq!(known.next(deleted), [gone("10.0.0.1:8888")]);
}

#[test]
fn a_new_list_tells_what_vanished() {
    let mut known = Known::<Pod>::default();
    let labels = pool("true");
    let list = |known: &mut Known<Pod>, pods: Vec<Pod>| {
        let mut told = known.next(Ok(watcher::Event::Init));
        for pod in pods {
            told.extend(known.next(Ok(watcher::Event::InitApply(pod))));
        }
        told.extend(known.next(Ok(watcher::Event::InitDone)));
        told
    };
    let (a, b) = (
        pod("a", "fd00::1", &labels, None),
        pod("b", "10.0.0.2", &labels, None),
    );
    assert!(!known.listed);
    assert_eq!(
        list(&mut known, vec![a, b.clone()]),
        [instance("[fd00::1]:8888"), instance("10.0.0.2:8888")]
    );
    assert!(known.listed);
    assert_eq!(
        list(&mut known, vec![b]),
        [instance("10.0.0.2:8888"), gone("[fd00::1]:8888")]
    );
}

#[test]
fn deployments_serve_when_ready_and_images_of_users_at_their_port() {
    let labels = |executor: &str| json!({"functionUid": "u", "executorType": executor});
    for (executor, address) in [
        ("newdeploy", "10.0.0.1:8888"),
        ("container", "10.0.0.1:9000"),
    ] {
        let labels = labels(executor);
        for (ready, serve) in [(None, false), (Some(false), false), (Some(true), true)] {
            let pod = pod("a", "10.0.0.1", &labels, ready);
            assert_eq!(serves(&pod), serve, "{executor} {ready:?}");
            assert_eq!(super::address(&pod).as_deref(), Some(address));
        }
    }
}

#[test]
fn only_ready_routers_are_told() {
    let mut known = Known::<RouterPod>::default();
    let mut told = |ready| {
        let pod = pod("r", "10.0.0.9", &json!({"svc": "router"}), ready);
        known.next(Ok(router_event(watcher::Event::Apply(pod))))
    };
    let gone = Event::RouterGone {
        name: "r".to_owned(),
    };
    let router = Event::Router {
        name: "r".to_owned(),
        address: "10.0.0.9:8889".to_owned(),
    };
    assert_eq!(told(None), std::slice::from_ref(&gone));
    assert_eq!(told(Some(true)), [router]);
    assert_eq!(told(Some(false)), [gone]);
}
