//! Keys of a plane: made once, renewed when due, named as clients call them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;

use common::{MADE, plane_ca, with_addresses, with_keys, world};
use farplane_kubernetes::{KeyError, Keys, World, renew_keys};
use farplane_pki::{Inspected, inspect, is_issued_by};
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;

const DAY: i64 = 86_400;
const ONCE: [&str; 9] = [
    "ca.crt",
    "ca.key",
    "front-proxy-ca.crt",
    "front-proxy-ca.key",
    "etcd-ca.crt",
    "etcd-ca.key",
    "sa.key",
    "sa.pub",
    "encryption.yaml",
];

fn at(world: &World, second: i64) -> World {
    let mut world = world.clone();
    world.now = Timestamp::from_second(second).unwrap();
    world
}

fn changed(before: &Keys, after: &Keys) -> BTreeSet<String> {
    let names = before.contents().keys().chain(after.contents().keys());
    let names = names.filter(|name| before.contents().get(*name) != after.contents().get(*name));
    names.cloned().collect()
}

fn leaf(keys: &Keys, name: &str) -> Inspected {
    inspect(keys.text(&format!("{name}.crt"))).unwrap()
}

#[test]
fn nothing_changes_until_half_of_a_leafs_life() {
    let ca = plane_ca();
    let mut world = with_addresses(world());
    let keys = renew_keys(&world, &ca).unwrap();
    world.stored = keys.contents().clone();
    for day in [0, 1, 100, 181] {
        let later = renew_keys(&at(&world, MADE + day * DAY), &ca).unwrap();
        assert_eq!(changed(&keys, &later), BTreeSet::new(), "day {day}");
    }
    let later = renew_keys(&at(&world, MADE + 184 * DAY), &ca).unwrap();
    let changed = changed(&keys, &later);
    for name in ONCE {
        assert!(!changed.contains(name), "{name}");
    }
    for name in [
        "apiserver.crt",
        "apiserver.key",
        "etcd-0.crt",
        "user.crt",
        "admin.kubeconfig",
    ] {
        assert!(changed.contains(name), "{name}");
    }
}

#[test]
fn only_leaves_that_name_the_changed_address_are_made_anew() {
    let ca = plane_ca();
    let mut world = with_addresses(world());
    let keys = renew_keys(&world, &ca).unwrap();
    world.stored = keys.contents().clone();
    world
        .addresses
        .insert("etcd-0".to_owned(), [10, 43, 0, 200].into());
    let later = renew_keys(&world, &ca).unwrap();
    let expected = ["etcd-0.crt", "etcd-0.key"].map(str::to_owned);
    assert_eq!(changed(&keys, &later), BTreeSet::from(expected));
}

#[test]
fn another_authority_of_planes_renews_the_egress_certificate_only() {
    let (world, keys) = with_keys(world());
    let ca = plane_ca();
    let later = renew_keys(&world, &ca).unwrap();
    let expected = ["egress-client.crt", "egress-client.key"].map(str::to_owned);
    assert_eq!(changed(&keys, &later), BTreeSet::from(expected));
    assert!(is_issued_by(
        later.text("egress-client.crt"),
        ca.certificate_pem()
    ));
}

#[test]
fn certificates_name_what_clients_call() {
    let (_, keys) = with_keys(world());
    let api = leaf(&keys, "apiserver");
    for name in ["kubernetes.default.svc", "first.demo.k8s.farplane.internal"] {
        assert!(api.dns_names.iter().any(|it| it == name), "{name}");
    }
    let addresses: BTreeSet<String> = api.ip_addresses.iter().map(ToString::to_string).collect();
    let expected = ["10.43.0.101", "10.96.0.1", "127.0.0.1", "198.18.0.1"].map(str::to_owned);
    assert_eq!(addresses, BTreeSet::from(expected));
    assert_eq!(
        leaf(&keys, "egress-client").uris,
        ["farplane://plane/u-first"]
    );
    let user = leaf(&keys, "user");
    assert_eq!(user.organizations, ["farplane:cluster-admins"]);
    assert_eq!(
        leaf(&keys, "apiserver-kubelet-client").organizations,
        [""; 0]
    );
    assert_eq!(leaf(&keys, "admin").organizations, ["system:masters"]);
    for (name, authority) in [
        ("apiserver", "ca"),
        ("front-proxy-client", "front-proxy-ca"),
        ("etcd-0", "etcd-ca"),
        ("apiserver-etcd-client", "etcd-ca"),
    ] {
        let authority = keys.text(&format!("{authority}.crt"));
        assert!(
            is_issued_by(keys.text(&format!("{name}.crt")), authority),
            "{name}"
        );
    }
}

#[test]
fn the_admins_key_of_the_hub_is_in_no_mounted_secret() {
    let (world, keys) = with_keys(world());
    for secret in keys.secrets(&world).iter().skip(1) {
        let data = secret["data"].as_object().unwrap();
        for name in data.keys() {
            assert!(
                !name.starts_with("admin") && !name.starts_with("user"),
                "{secret}"
            );
        }
        // The cluster's authority signs for nodes; only who signs has it.
        let signs = secret["metadata"]["name"] == "controller-manager";
        assert_eq!(data.contains_key("ca.key"), signs);
    }
}

#[test]
fn what_is_made_once_is_never_made_again() {
    let (world, _) = with_keys(world());
    for name in ONCE {
        let mut lossy = world.clone();
        lossy.stored.remove(name);
        match renew_keys(&lossy, &plane_ca()) {
            Err(KeyError::Lost { name: lost }) => assert_eq!(lost, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let mut damaged = world.clone();
    damaged
        .stored
        .insert("ca.key".to_owned(), b"nonsense".to_vec());
    let refused = renew_keys(&damaged, &plane_ca());
    assert!(
        matches!(refused, Err(KeyError::Damaged { .. })),
        "{refused:?}"
    );
}

#[test]
fn keys_wait_for_the_addresses_of_the_services() {
    let refused = renew_keys(&world(), &plane_ca());
    assert!(
        matches!(refused, Err(KeyError::NoAddress { .. })),
        "{refused:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever leaves get lost, those are made anew and the rest is kept.
    #[test]
    fn lost_leaves_are_replaced_and_others_kept(lost in proptest::collection::btree_set(0_usize..10, 0..4)) {
        let ca = plane_ca();
        let mut world = with_addresses(world());
        let keys = renew_keys(&world, &ca).unwrap();
        world.stored = keys.contents().clone();
        let leaves: Vec<String> = keys
            .contents()
            .keys()
            .filter_map(|name| name.strip_suffix(".crt"))
            .filter(|name| !name.ends_with("ca"))
            .map(str::to_owned)
            .collect();
        let lost: Vec<&String> = lost.iter().filter_map(|&number| leaves.get(number)).collect();
        let mut expected = BTreeSet::new();
        for name in lost {
            world.stored.remove(&format!("{name}.crt"));
            expected.extend([format!("{name}.crt"), format!("{name}.key")]);
            if name == "admin" {
                expected.insert("admin.kubeconfig".to_owned());
            }
        }
        let later = renew_keys(&world, &ca).unwrap();
        prop_assert_eq!(changed(&keys, &later), expected);
    }
}
