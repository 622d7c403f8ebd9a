//! Which hosts become nodes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use common::{answered, host, names, plan, view, with_keys, world};
use farplane_kubernetes::{World, choose_hosts, host_plans, strays};
use farplane_types::kubernetes_cluster::AllHosts;
use farplane_types::{Host, HostSelection, Unit};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

fn asked(hosts: Vec<Host>, selection: HostSelection) -> World {
    let mut world = world();
    world.hosts = hosts;
    world.cluster.spec.hosts = selection;
    world
}

fn why(change: impl FnOnce(&mut World)) -> String {
    let mut world = asked(
        vec![host("a", "192.0.2.11"), host("b", "192.0.2.12")],
        names(&["a"]),
    );
    change(&mut world);
    let choice = choose_hosts(&world);
    assert_eq!(choice.hosts, [""; 0]);
    choice.refused["a"].clone()
}

#[test]
fn a_host_that_cannot_be_had_is_refused_in_words() {
    let facts = |world: &mut World, change: fn(&mut farplane_types::HostFacts)| {
        let status = world.hosts[0].status.as_mut().unwrap();
        change(status.facts.as_mut().unwrap());
    };
    let gone = |world: &mut World| world.hosts.clear();
    assert!(why(gone).contains("does not exist"));
    let used = |world: &mut World| world.plans.push(plan("a", "u-other"));
    assert!(why(used).contains("is used by cluster cluster-u-other"));
    let leaving = |world: &mut World| {
        let mut old = plan("a", "u-other");
        old.metadata.deletion_timestamp = Some(Time(world.now));
        world.plans.push(old);
    };
    assert!(why(leaving).contains("is being released"));
    let removed = |world: &mut World| {
        world.hosts[0].metadata.deletion_timestamp = Some(Time(world.now));
    };
    assert!(why(removed).contains("is being removed"));
    let reserved = |world: &mut World| world.hosts[0].status = None;
    assert!(why(reserved).contains("has not joined yet"));
    let off = |world: &mut World| world.hosts[0].spec.unschedulable = true;
    assert!(why(off).contains("kept off new clusters"));
    assert!(
        why(|world| facts(world, |it| it.missing = vec!["no overlay".into()]))
            .contains("no overlay")
    );
    assert!(
        why(|world| facts(world, |it| it.node_address = String::new())).contains("no usable IPv4")
    );
    let inside = why(|world| facts(world, |it| it.node_address = "10.244.3.4".into()));
    assert!(inside.contains("own range 10.244.0.0/16"), "{inside}");
    let twin = why(|world| {
        facts(world, |it| it.node_address = "192.0.2.12".into());
        world.plans.push(plan("b", "u-first"));
    });
    assert!(twin.contains("same address 192.0.2.12 as host b"), "{twin}");
    let limited = why(|world| world.limits.vcpus = Some(1));
    assert!(
        limited.contains("to 2 vCPUs, and it may use 1"),
        "{limited}"
    );
}

#[test]
fn too_few_free_hosts_are_a_shortage_and_those_there_are_serve() {
    let mut world = asked(
        vec![host("a", "192.0.2.11"), host("b", "192.0.2.12")],
        HostSelection::Count(2),
    );
    world.plans.push(plan("b", "u-other"));
    let choice = choose_hosts(&world);
    assert_eq!(choice.hosts, ["a"]);
    let shortage = choice.shortage.unwrap();
    assert_eq!(shortage.reason, "NoFreeHost");
    assert!(
        shortage
            .message
            .contains("2 hosts are wanted and 1 can be had")
    );
}

#[test]
fn nodes_without_a_host_of_the_cluster_are_strays() {
    let mut world = asked(
        vec![host("a", "192.0.2.11"), host("b", "192.0.2.12")],
        names(&["a", "b"]),
    );
    world.plans = vec![plan("a", "u-first"), plan("c", "u-other")];
    let nodes = ["a", "b", "c", "d"].map(|name| (name, "True", ""));
    world.view = Some(view(&nodes, 1));
    // b is taken at this very look.
    assert_eq!(strays(&world), ["c", "d"]);
}

/// Owner of a host: nobody, this cluster, another one.
fn owners() -> impl Strategy<Value = Vec<(u8, bool, bool)>> {
    proptest::collection::vec((0_u8..3, any::<bool>(), any::<bool>()), 0..12)
}

fn selections() -> impl Strategy<Value = HostSelection> {
    prop_oneof![
        (0_u32..12).prop_map(HostSelection::Count),
        proptest::collection::vec(0_usize..14, 0..14).prop_map(|list| {
            HostSelection::Names(list.into_iter().map(|it| format!("h{it}")).collect())
        }),
        proptest::option::of(Just("lab".to_owned()))
            .prop_map(|endpoint| HostSelection::All(AllHosts { endpoint })),
    ]
}

fn made(owners: &[(u8, bool, bool)], selection: HostSelection, vcpus: Option<u32>) -> World {
    let mut world = asked(vec![], selection);
    world.limits.vcpus = vcpus;
    for (number, (owner, connected, in_lab)) in owners.iter().enumerate() {
        let name = format!("h{number}");
        let mut one = host(&name, &format!("192.0.2.{}", number + 10));
        if !in_lab {
            one.spec.endpoint = "far".to_owned();
        }
        if !connected {
            one.status.as_mut().unwrap().conditions.clear();
        }
        world.hosts.push(one);
        match owner {
            1 => world.plans.push(plan(&name, "u-first")),
            2 => world.plans.push(plan(&name, "u-other")),
            _ => {}
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hosts_of_others_are_never_taken_and_own_ones_kept(
        owners in owners(),
        selection in selections(),
        vcpus in proptest::option::of(0_u32..20),
        turn in 0_usize..12,
    ) {
        let world = made(&owners, selection.clone(), vcpus);
        let choice = choose_hosts(&world);
        let owner = |name: &String| owners[name[1..].parse::<usize>().unwrap()].0;
        for name in &choice.hosts {
            prop_assert_ne!(owner(name), 2);
        }
        let own: Vec<String> = (0..owners.len())
            .filter(|&it| owners[it].0 == 1)
            .map(|it| format!("h{it}"))
            .collect();
        let chosen = |name: &String| choice.hosts.contains(name);
        match &selection {
            HostSelection::Names(names) => {
                prop_assert!(own.iter().filter(|it| names.contains(it)).all(chosen));
                prop_assert!(choice.hosts.iter().all(|it| names.contains(it)));
                for name in names {
                    prop_assert!(chosen(name) != choice.refused.contains_key(name));
                }
            }
            HostSelection::Count(count) => {
                let count = *count as usize;
                prop_assert!(choice.hosts.len() <= count);
                prop_assert_eq!(choice.shortage.is_some(), choice.hosts.len() < count);
                let kept = own.iter().filter(|it| chosen(it)).count();
                prop_assert_eq!(kept, own.len().min(count));
            }
            HostSelection::All(all) => {
                let fits = |name: &&String| {
                    all.endpoint.is_none() || owners[name[1..].parse::<usize>().unwrap()].2
                };
                prop_assert!(own.iter().filter(fits).all(chosen));
                prop_assert!(choice.hosts.iter().all(|it| fits(&it)));
            }
        }
        // The order in which the hub lists things means nothing.
        let mut turned = world;
        if !turned.hosts.is_empty() {
            let by = turn % turned.hosts.len();
            turned.hosts.rotate_left(by);
        }
        turned.plans.reverse();
        prop_assert_eq!(choose_hosts(&turned), choice);
    }

    /// What was chosen is chosen again once it is claimed; hosts that are given back for it
    /// may make room for more.
    #[test]
    fn a_choice_stands(owners in owners(), selection in selections(), vcpus in proptest::option::of(0_u32..20)) {
        let mut world = made(&owners, selection, vcpus);
        let first = choose_hosts(&world);
        world.plans.retain(|it| it.spec.plane.uid != "u-first");
        for name in &first.hosts {
            world.plans.push(plan(name, "u-first"));
        }
        let second = choose_hosts(&world).hosts;
        prop_assert!(first.hosts.iter().all(|name| second.contains(name)));
    }
}

#[test]
fn a_kubelet_starts_once_the_api_server_has_answered_and_stays() {
    let processes = |world: &World| {
        let (world, keys) = with_keys(world.clone());
        let plans = host_plans(&world, &keys, &choose_hosts(&world)).unwrap();
        let units = plans["a"].units.clone();
        let names = units.into_iter().filter_map(|unit| match unit {
            Unit::Process { name, .. } => Some(name),
            _ => None,
        });
        (names.collect::<Vec<_>>(), plans["a"].clone())
    };
    let new = asked(vec![host("a", "192.0.2.11")], names(&["a"]));
    assert_eq!(processes(&new).0, ["containerd"]);
    let (all, spec) = processes(&answered(new.clone()));
    assert_eq!(all, ["containerd", "kubelet", "kube-proxy", "flannel"]);
    // A status that was lost stops nothing.
    let mut lost = new;
    let mut present = plan("a", lost.cluster.metadata.uid.as_deref().unwrap());
    present.spec = spec;
    lost.plans.push(present);
    assert_eq!(processes(&lost).0, all);
}
