//! Two processes and one lease, on a scripted hub.

use std::time::Duration;

use farplane_control::leader::Election;
use kube::Api;

use crate::scripted::Hub;

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/s/leases/l";

fn election(hub: &Hub, identity: &str) -> Election {
    let pause = Duration::from_millis(10);
    Election::new(Api::namespaced(hub.client(), "s"), "l", identity)
        .looking_every(pause)
        .renewing_every(pause)
}

fn holder(hub: &Hub) -> String {
    let lease = hub.object(PATH).unwrap();
    lease["spec"]["holderIdentity"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn of_two_that_start_together_one_leads() {
    let hub = Hub::default();
    let (mut a, mut b) = (election(&hub, "a"), election(&hub, "b"));
    let (first, second) = tokio::join!(a.attempt(), b.attempt());
    let leads = [first.unwrap(), second.unwrap()];
    assert_eq!(leads.iter().filter(|leads| **leads).count(), 1, "{leads:?}");
}

#[tokio::test]
async fn a_released_lease_is_taken_at_once() {
    let hub = Hub::default();
    let (mut a, mut b) = (election(&hub, "a"), election(&hub, "b"));
    a.acquire().await;
    assert!(!b.attempt().await.unwrap());
    a.release().await;
    b.acquire().await;
    assert_eq!(holder(&hub), "b");
    // The old holder learns that it lost.
    let lost = a.hold().await;
    assert_eq!(lost.lease, "l", "{lost}");
}

#[tokio::test]
async fn an_outage_shorter_than_the_deadline_changes_nothing() {
    let hub = Hub::default();
    let mut a = election(&hub, "a");
    a.acquire().await;
    hub.set_down(true);
    assert!(a.attempt().await.is_err());
    hub.set_down(false);
    assert!(a.attempt().await.unwrap());
    assert_eq!(holder(&hub), "a");
}
