//! What the gateway finds in what it watches.

use super::*;
use crate::world::{ApiServerPod, SystemPod, Tracked as _};
use farplane_types::{Host, HostPlan, KubernetesCluster};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

const DOMAIN: &str = "hub.test";

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn meta(organization: &str, name: &str, uid: &str) -> Value {
    json!({ "name": name, "namespace": format!("org-{organization}"), "uid": uid, "generation": 1 })
}

fn host(organization: &str, name: &str, uid: &str, address: &str) -> Host {
    read(json!({
        "apiVersion": "farplane.io/v1alpha1", "kind": "Host",
        "metadata": meta(organization, name, uid),
        "spec": { "endpoint": "site" },
        "status": { "facts": {
            "agentVersion": "1", "operatingSystem": "test", "kernel": "6", "architecture": "x86_64",
            "vcpus": 1, "memoryBytes": 1, "nodeAddress": address, "cgroupVersion": 2,
            "hasSysResource": true, "hasSystemd": false
        } },
    }))
}

fn plan(organization: &str, name: &str, plane: &str) -> HostPlan {
    read(json!({
        "apiVersion": "farplane.io/v1alpha1", "kind": "HostPlan",
        "metadata": meta(organization, name, &format!("plan-of-{organization}-{name}")),
        "spec": {
            "plane": { "kind": "KubernetesCluster", "name": "c", "uid": plane },
            "reachable": ["10.96.0.0/16", "10.244.0.0/16"],
        },
    }))
}

fn cluster(organization: &str, name: &str, uid: &str) -> KubernetesCluster {
    read(json!({
        "apiVersion": "farplane.io/v1alpha1", "kind": "KubernetesCluster",
        "metadata": meta(organization, name, uid), "spec": {},
    }))
}

fn pod(namespace: &str, name: &str, ip: &str, ready: bool) -> Pod {
    read(json!({
        "metadata": { "name": name, "namespace": namespace },
        "status": {
            "phase": "Running", "podIP": ip,
            "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
        },
    }))
}

fn connected(mut host: Host, gateways: &[(&str, &str, u64, i64)]) -> Host {
    let entry = |(gateway, address, epoch, since): &(&str, &str, u64, i64)| {
        let since = k8s_openapi::jiff::Timestamp::from_second(*since).unwrap();
        read(
            json!({ "gateway": gateway, "address": address, "epoch": epoch, "since": since.to_string() }),
        )
    };
    let status = host.status.as_mut().unwrap();
    status.connections = gateways.iter().map(entry).collect();
    host
}

fn deleted<T: kube::Resource>(mut object: T) -> T {
    let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
    object.meta_mut().deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
    object
}

/// Organizations `a` (plane `pa`, hosts a1 and a2) and `b` (plane `pb`, host b1).
fn world() -> World {
    let mut world = World::new(DOMAIN);
    Host::insert(&mut world, host("a", "one", "a1", "192.168.0.1"));
    Host::insert(&mut world, host("a", "two", "a2", "192.168.0.2"));
    Host::insert(&mut world, host("b", "one", "b1", "192.168.9.1"));
    for (organization, name, plane) in [("a", "one", "pa"), ("a", "two", "pa"), ("b", "one", "pb")]
    {
        HostPlan::insert(&mut world, plan(organization, name, plane));
    }
    KubernetesCluster::insert(&mut world, cluster("a", "c", "pa"));
    KubernetesCluster::insert(&mut world, cluster("b", "c", "pb"));
    world
}

fn target(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn clusters_of_the_same_name_in_two_organizations_stay_apart() {
    let world = world();
    let uid = |name| world.cluster_by_server_name(name).map(|it| it.uid.as_str());
    assert_eq!(uid("c.a.k8s.hub.test"), Some("pa"));
    assert_eq!(uid("c.b.k8s.hub.test"), Some("pb"));
    assert_eq!(uid("c.k8s.hub.test"), None);
    assert_eq!(uid("c.a.k8s.other.test"), None);
}

#[test]
fn ready_api_servers_come_before_running_ones() {
    let mut world = world();
    assert!(world.api_servers("pa").is_empty());
    ApiServerPod::insert(
        &mut world,
        ApiServerPod(pod("plane-pa", "x", "10.0.0.1", false)),
    );
    assert_eq!(world.api_servers("pa"), [target("10.0.0.1:6443")]);
    ApiServerPod::insert(
        &mut world,
        ApiServerPod(pod("plane-pa", "y", "10.0.0.2", true)),
    );
    assert_eq!(world.api_servers("pa"), [target("10.0.0.2:6443")]);
    let leaving = deleted(pod("plane-pa", "y", "10.0.0.2", true));
    ApiServerPod::insert(&mut world, ApiServerPod(leaving));
    assert_eq!(world.api_servers("pa").len(), 2);
}

#[test]
fn a_pod_with_the_label_elsewhere_is_nobodys_api_server() {
    let mut world = world();
    ApiServerPod::insert(
        &mut world,
        ApiServerPod(pod("org-b", "x", "10.0.0.9", true)),
    );
    assert!(world.api_servers("pa").is_empty());
    assert!(world.api_servers("pb").is_empty());
}

#[test]
fn a_host_reaches_the_api_of_its_own_plane_only() {
    let mut world = world();
    ApiServerPod::insert(
        &mut world,
        ApiServerPod(pod("plane-pa", "x", "10.0.0.1", true)),
    );
    assert_eq!(world.api_for_host("a1", Some("pa")).unwrap().len(), 1);
    for plane in [Some("pb"), Some(""), None, Some("../plane-pa")] {
        assert!(matches!(
            world.api_for_host("a1", plane),
            Err(Denied::OtherPlane { .. })
        ));
    }
    assert!(matches!(
        world.api_for_host("nobody", Some("pa")),
        Err(Denied::UnknownHost { .. })
    ));
}

#[test]
fn programs_of_a_host_are_offered_what_its_plan_lists_for_its_plane() {
    let mut world = world();
    let mut listed = plan("a", "one", "pa");
    listed.spec.listeners = vec![farplane_types::Listener {
        address: "127.0.0.1".into(),
        port: 1,
        service: "registry".into(),
    }];
    HostPlan::insert(&mut world, listed.clone());
    let offered =
        |world: &World, host, plane, service: &str| world.offered_to_programs(host, plane, service);
    assert_eq!(offered(&world, "a1", Some("pa"), "registry"), Ok(()));
    for service in ["api", "repo", ""] {
        assert!(matches!(
            offered(&world, "a1", Some("pa"), service),
            Err(Denied::NotOffered { .. })
        ));
    }
    for plane in [Some("pb"), Some(""), None] {
        assert!(matches!(
            offered(&world, "a1", plane, "registry"),
            Err(Denied::OtherPlane { .. })
        ));
    }
    // Its neighbour's plan lists nothing.
    assert!(offered(&world, "a2", Some("pa"), "registry").is_err());
    HostPlan::insert(&mut world, deleted(listed));
    assert!(matches!(
        offered(&world, "a1", Some("pa"), "registry"),
        Err(Denied::NoPlan { .. })
    ));
}

#[test]
fn a_plan_for_the_plane_of_another_organization_opens_nothing() {
    let mut world = world();
    HostPlan::insert(&mut world, plan("b", "one", "pa"));
    assert!(matches!(
        world.api_for_host("b1", Some("pa")),
        Err(Denied::OtherPlane { .. })
    ));
    assert!(matches!(
        world.egress("pa", target("192.168.9.1:10250")),
        Err(Denied::OutOfReach { .. })
    ));
}

#[test]
fn egress_finds_the_kubelet_of_the_plane() {
    let world = world();
    let routes = world.egress("pa", target("192.168.0.2:10250")).unwrap();
    assert_eq!(routes.len(), 1);
    assert_eq!(
        (routes[0].uid.as_str(), routes[0].service),
        ("a2", "kubelet")
    );
    assert_eq!(routes[0].target, None);
}

#[test]
fn egress_to_the_hub_or_to_others_is_refused() {
    let mut world = world();
    SystemPod::insert(
        &mut world,
        SystemPod(pod("farplane-system", "g", "10.0.0.7", true)),
    );
    ApiServerPod::insert(
        &mut world,
        ApiServerPod(pod("plane-pa", "x", "10.0.0.1", true)),
    );
    for out_of_reach in [
        "192.168.9.1:10250", // kubelet of another organization
        "192.168.0.1:22",    // another port of a node
        "10.0.0.7:8443",     // gateway
        "10.0.0.1:6443",     // API server Pod at the hub
        "10.0.0.7:10250",    // kubelet of the hub
        "127.0.0.1:10250",
        "169.254.169.254:80",
        "[::1]:10250",
        "[::ffff:10.96.0.1]:443",
        "0.0.0.0:10250",
    ] {
        assert!(
            matches!(
                world.egress("pa", target(out_of_reach)),
                Err(Denied::OutOfReach { .. })
            ),
            "{out_of_reach}"
        );
    }
}

#[test]
fn a_node_address_set_to_the_hubs_goes_to_that_hosts_agent_and_nowhere_else() {
    let mut world = world();
    Host::insert(&mut world, host("a", "two", "a2", "10.0.0.7"));
    let routes = world.egress("pa", target("10.0.0.7:10250")).unwrap();
    assert_eq!(
        (routes[0].uid.as_str(), routes[0].service),
        ("a2", "kubelet")
    );
    assert!(world.egress("pb", target("10.0.0.7:10250")).is_err());
}

#[test]
fn ranges_that_cover_the_machine_itself_do_not_open_it() {
    let mut world = world();
    let mut wide = plan("a", "one", "pa");
    wide.spec.reachable = vec!["0.0.0.0/0".into(), "::/0".into()];
    HostPlan::insert(&mut world, wide);
    for own in [
        "127.0.0.1:2379",
        "169.254.169.254:80",
        "[::1]:80",
        "[fe80::1]:80",
    ] {
        assert!(world.egress("pa", target(own)).is_err(), "{own}");
    }
}

#[test]
fn services_and_pods_go_over_connected_hosts_first() {
    let mut world = world();
    let two = connected(
        host("a", "two", "a2", "192.168.0.2"),
        &[("g", "10.0.0.7:8443", 1, 1)],
    );
    Host::insert(&mut world, two);
    let routes = world.egress("pa", target("10.96.0.10:443")).unwrap();
    let uids: Vec<_> = routes.iter().map(|it| it.uid.as_str()).collect();
    assert_eq!(uids, ["a2", "a1"]);
    assert!(routes.iter().all(|it| it.service == "net"));
    assert_eq!(routes[0].target.as_deref(), Some("10.96.0.10:443"));
}

#[test]
fn ranges_are_those_of_the_own_plane() {
    let mut world = world();
    let mut other = plan("b", "one", "pb");
    other.spec.reachable = vec!["10.97.0.0/16".into()];
    HostPlan::insert(&mut world, other);
    assert!(world.egress("pb", target("10.97.0.1:443")).is_ok());
    assert!(world.egress("pa", target("10.97.0.1:443")).is_err());
    assert!(world.egress("pb", target("10.96.0.1:443")).is_err());
    assert!(matches!(
        world.egress("px", target("10.96.0.1:443")),
        Err(Denied::UnknownPlane { .. })
    ));
}

#[test]
fn plan_states_follow_host_and_plan() {
    let mut world = world();
    assert!(matches!(
        world.plan_state("a1"),
        PlanState::Plan { generation: 1, .. }
    ));
    HostPlan::insert(&mut world, deleted(plan("a", "one", "pa")));
    assert_eq!(
        world.plan_state("a1"),
        PlanState::Nothing {
            releasing: Some("plan-of-a-one".into())
        }
    );
    assert!(world.api_for_host("a1", Some("pa")).is_err());
    let key = Key {
        namespace: "org-a".into(),
        name: "one".into(),
    };
    assert_eq!(HostPlan::remove(&mut world, &key), ["a1"]);
    assert_eq!(
        world.plan_state("a1"),
        PlanState::Nothing { releasing: None }
    );
    Host::insert(&mut world, deleted(host("a", "one", "a1", "192.168.0.1")));
    assert_eq!(world.plan_state("a1"), PlanState::Removed);
    assert_eq!(world.plan_state("never"), PlanState::Removed);
}

#[test]
fn a_new_object_of_the_same_name_is_another_host() {
    let mut world = world();
    let affected = Host::insert(&mut world, host("a", "one", "a9", "192.168.0.1"));
    assert_eq!(affected, ["a9", "a1"]);
    assert_eq!(world.plan_state("a1"), PlanState::Removed);
    assert!(world.api_for_host("a1", Some("pa")).is_err());
}

#[test]
fn a_new_listing_forgets_what_is_not_in_it() {
    let mut world = world();
    let affected = Host::replace(&mut world, vec![host("a", "one", "a1", "192.168.0.1")]);
    assert!(affected.contains(&"a2".to_owned()) && affected.contains(&"b1".to_owned()));
    assert!(world.host("a2").is_none());
    assert!(world.host("a1").is_some());
}

#[test]
fn other_gateways_are_found_by_their_pods_newest_first() {
    let mut world = world();
    for (name, ip) in [("g1", "10.0.0.7"), ("g2", "10.0.0.8")] {
        SystemPod::insert(
            &mut world,
            SystemPod(pod("farplane-system", name, ip, true)),
        );
    }
    let entries = [
        ("g1", "10.9.9.9:8443", 9, 1),
        ("g2", "10.0.0.8:8443", 1, 5),
        ("gone", "10.0.0.9:8443", 3, 9),
        ("own", "10.0.0.6:8443", 3, 9),
    ];
    let one = connected(host("a", "one", "a1", "192.168.0.1"), &entries);
    Host::insert(&mut world, one);
    // The address in the directory does not count, the Pod's does.
    assert_eq!(
        world.gateways_of("a1", "own"),
        [
            ("g2".to_owned(), target("10.0.0.8:8443")),
            ("g1".to_owned(), target("10.0.0.7:8443"))
        ]
    );
}

#[test]
fn a_hop_is_checked_like_a_request_of_our_own() {
    let world = world();
    let via = |organization: &str, uid: &str, service: &str| Via {
        organization: organization.into(),
        uid: uid.into(),
        service: service.into(),
    };
    let ok = world.via(&via("a", "a1", "net"), Some("pa"), Some("10.244.1.1:80"));
    assert_eq!(ok.unwrap().target.as_deref(), Some("10.244.1.1:80"));
    assert!(
        world
            .via(&via("a", "a1", "kubelet"), Some("pa"), None)
            .is_ok()
    );
    for (via, plane, target) in [
        (via("b", "a1", "kubelet"), Some("pa"), None),
        (via("a", "a1", "kubelet"), Some("pb"), None),
        (via("a", "a1", "kubelet"), None, None),
        (via("a", "a1", "plan"), Some("pa"), None),
        (via("a", "a1", "net"), Some("pa"), Some("10.0.0.1:6443")),
        (via("a", "a1", "net"), Some("pa"), Some("localhost:80")),
        (via("a", "a1", "net"), Some("pa"), None),
        (via("a", "zz", "kubelet"), Some("pa"), None),
    ] {
        assert!(
            world.via(&via, plane, target).is_err(),
            "{via} {plane:?} {target:?}"
        );
    }
}
