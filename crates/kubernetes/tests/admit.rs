//! What is refused, why, and what people are told to do.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use common::{MADE, cluster, names, with_keys, world};
use farplane_kubernetes::{World, admit};
use farplane_types::HostSelection;

fn refusal(change: impl FnOnce(&mut World)) -> Option<(&'static str, String)> {
    let mut world = world();
    change(&mut world);
    admit(&world).err().map(|it| (it.reason, it.message))
}

fn pods(range: &str) -> Option<(&'static str, String)> {
    refusal(|world| world.cluster.spec.network.pod_cidr = range.to_owned())
}

fn services(range: &str) -> Option<(&'static str, String)> {
    refusal(|world| world.cluster.spec.network.service_cidr = range.to_owned())
}

#[test]
fn what_can_be_had_is_admitted() {
    assert_eq!(refusal(|_| {}), None);
    assert_eq!(pods("172.16.0.0/12"), None);
    assert_eq!(pods("10.244.7.0/24"), None);
    assert_eq!(services("10.96.0.0/27"), None);
    let older = |world: &mut World| world.cluster.spec.version = "1.36.3".to_owned();
    assert_eq!(refusal(older), None);
}

#[test]
fn ranges_are_refused_with_their_field_and_a_way_out() {
    for (found, words) in [
        (
            pods("fd00::/64"),
            "podCidr \"fd00::/64\" is not an IPv4 CIDR",
        ),
        (pods("10.244.0.1/16"), "write 10.244.0.0/16"),
        (pods("10.244.0.0/25"), "no room for a node"),
        (pods("10.0.0.0/7"), "at least /8"),
        (pods("10.96.128.0/17"), "overlap"),
        (pods("198.18.0.0/16"), "overlaps 198.18.0.0/15"),
        (pods("127.0.0.0/16"), "which hosts use themselves"),
        (
            pods("192.0.2.0/24"),
            "holds the hub's own address 192.0.2.1:8443",
        ),
        (services("nonsense"), "serviceCidr \"nonsense\""),
        (services("10.0.0.0/11"), "from /12 to /27"),
        (services("10.96.0.0/28"), "from /12 to /27"),
        (services("10.244.0.0/24"), "overlap"),
        (
            services("224.0.0.0/16"),
            "serviceCidr 224.0.0.0/16 overlaps 224.0.0.0/3",
        ),
    ] {
        let (reason, message) = found.expect(words);
        assert_eq!(reason, "InvalidNetwork");
        assert!(message.contains(words), "{message:?} lacks {words:?}");
    }
}

#[test]
fn more_hosts_than_the_range_has_room_for_are_refused() {
    let ask = |hosts: HostSelection| {
        refusal(|world| {
            world.cluster.spec.network.pod_cidr = "10.244.0.0/23".to_owned();
            world.cluster.spec.hosts = hosts;
        })
    };
    assert_eq!(ask(HostSelection::Count(2)), None);
    let (_, message) = ask(HostSelection::Count(3)).unwrap();
    assert!(message.contains("room for 2 nodes"), "{message}");
    assert!(ask(names(&["a", "b", "c"])).is_some());
}

#[test]
fn an_unknown_version_is_answered_with_those_there_are() {
    let (reason, message) =
        refusal(|world| world.cluster.spec.version = "1.20.0".to_owned()).unwrap();
    assert_eq!(reason, "UnknownVersion");
    assert!(
        message.ends_with("set spec.version to one of: 1.36.3, 1.37.2"),
        "{message}"
    );
    let (_, message) = refusal(|world| world.hub.artifacts.clear()).unwrap();
    assert!(message.contains("artifacts are missing"), "{message}");
}

#[test]
fn of_more_clusters_than_the_limit_the_oldest_are_had() {
    let limited = |others: &[i64]| {
        refusal(|world| {
            world.limits.clusters = Some(1);
            for made in others {
                world
                    .clusters
                    .push(cluster("other", &format!("u-{made}"), *made));
            }
        })
    };
    assert_eq!(limited(&[]), None);
    assert_eq!(limited(&[MADE + 1]), None);
    let (reason, message) = limited(&[MADE - 1]).unwrap();
    assert_eq!(reason, "QuotaExceeded");
    assert!(
        message.contains("demo may have 1 clusters and has 1 older"),
        "{message}"
    );
    // One made in the same second goes by its name, so that just one of both is had.
    assert_eq!(limited(&[MADE]), None);
}

#[test]
fn a_lower_limit_takes_no_cluster_away() {
    let (mut world, _) = with_keys(world());
    world.limits.clusters = Some(0);
    assert_eq!(admit(&world), Ok(()));
}
