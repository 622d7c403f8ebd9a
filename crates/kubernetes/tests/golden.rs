//! Everything that the blueprint decides, held in files. `UPDATE_GOLDEN=1` writes them anew;
//! what changed is then seen in the diff.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use common::{answered, host, names, with_addresses, with_keys, world};
use farplane_kubernetes::{
    Keys, Store, World, addons, choose_hosts, control_plane, controllers, host_plans,
    public_kubeconfig, renew_keys, services,
};
use farplane_types::NetworkProvider;
use serde_json::Value;

/// YAML with sorted keys, and without what is made by chance.
fn text(objects: &[Value]) -> String {
    let documents = objects
        .iter()
        .map(|object| serde_yaml_ng::to_string(&plain(object, "")).unwrap());
    documents.collect::<Vec<_>>().join("---\n")
}

fn plain(value: &Value, key: &str) -> serde_yaml_ng::Value {
    match value {
        Value::Object(fields) => {
            let is_secret = fields.get("kind").is_some_and(|kind| kind == "Secret");
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort();
            let fields = keys.into_iter().map(|key| {
                let value = match (is_secret, key.as_str()) {
                    (true, "data") => key_names(&fields[key]),
                    (_, name) => plain(&fields[key], name),
                };
                (key.as_str().into(), value)
            });
            serde_yaml_ng::Value::Mapping(fields.collect())
        }
        Value::Array(items) => items.iter().map(|item| plain(item, "")).collect(),
        Value::String(_) if key == "farplane.io/config" => "(hash)".into(),
        Value::String(text) => without_keys(text).into(),
        other => serde_yaml_ng::to_value(other).unwrap(),
    }
}

fn key_names(data: &Value) -> serde_yaml_ng::Value {
    let mut names: Vec<&str> = data
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    serde_yaml_ng::to_value(names).unwrap()
}

fn without_keys(text: &str) -> String {
    if text.starts_with("-----BEGIN") {
        return "(PEM)".to_owned();
    }
    let line = |line: &str| match line.split_once("-data: ") {
        Some((name, _)) => format!("{name}-data: (base64)"),
        None => line.to_owned(),
    };
    let lines: Vec<String> = text.split('\n').map(line).collect();
    lines.join("\n")
}

fn hold(name: &str, objects: &[Value]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{name}.yaml"));
    let found = text(objects);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = expected
        .lines()
        .zip(found.lines())
        .enumerate()
        .find(|(_, (old, new))| old != new);
    assert!(
        expected == found,
        "{} differs, first at {differs:?}; UPDATE_GOLDEN=1 writes it anew",
        path.display()
    );
}

fn plans(world: &World, keys: &Keys) -> Vec<Value> {
    let world = &answered(world.clone());
    let plans = host_plans(world, keys, &choose_hosts(world)).unwrap();
    plans
        .values()
        .map(|plan| serde_json::to_value(plan).unwrap())
        .collect()
}

fn small() -> World {
    let mut world = world();
    world.cluster.spec.hosts = names(&["one", "two"]);
    world.hosts = vec![host("one", "192.0.2.11"), host("two", "192.0.2.12")];
    world
}

fn workloads(world: &World, keys: &Keys) -> Vec<Value> {
    let mut all = control_plane(world, keys);
    all.push(controllers(world, keys));
    all
}

#[test]
fn a_cluster_of_one_replica() {
    let (world, keys) = with_keys(small());
    hold("one-services", &services(&world));
    hold("one-secrets", &keys.secrets(&world));
    hold("one-control-plane", &workloads(&world, &keys));
    hold("one-hosts", &plans(&world, &keys));
    hold("one-addons", &addons(&world));
    hold("one-kubeconfig", &[public_kubeconfig(&world, &keys)]);
}

#[test]
fn a_cluster_of_three_replicas_on_volumes() {
    let mut world = small();
    world.cluster.spec.control_plane.replicas = 3;
    world.hub.store = Store::StorageClass(Some("fast".to_owned()));
    let (world, keys) = with_keys(world);
    hold("three-services", &services(&world));
    hold("three-secrets", &keys.secrets(&world));
    hold("three-control-plane", &workloads(&world, &keys));
}

#[test]
fn a_cluster_with_a_network_of_its_own() {
    let mut world = small();
    world.cluster.spec.network.provider = NetworkProvider::None;
    world.cluster.spec.hosts = names(&["one"]);
    let (world, keys) = with_keys(world);
    hold("own-network-hosts", &plans(&world, &keys));
}

#[test]
fn an_older_version_differs_by_its_artifact_only() {
    let (world, keys) = with_keys(small());
    let new = text(&plans(&world, &keys));
    let mut older = world;
    older.cluster.spec.version = "1.36.3".to_owned();
    let old = text(&plans(&older, &keys));
    assert_ne!(old, new);
    let replaced = new.replace("kubernetes-node-1.37.2", "kubernetes-node-1.36.3");
    assert_eq!(old, replaced);
}

#[test]
fn a_host_with_all_rights_and_cgroups_of_version_2() {
    let mut world = small();
    world.cluster.spec.hosts = names(&["one"]);
    let facts = world.hosts[0].status.as_mut().unwrap();
    let facts = facts.facts.as_mut().unwrap();
    facts.has_sys_resource = true;
    facts.cgroup_version = 2;
    let (world, keys) = with_keys(world);
    hold("able-host", &plans(&world, &keys));
}

#[test]
fn a_host_on_which_systemd_makes_the_cgroups() {
    let mut world = small();
    world.cluster.spec.hosts = names(&["one"]);
    let facts = world.hosts[0].status.as_mut().unwrap();
    let facts = facts.facts.as_mut().unwrap();
    facts.has_sys_resource = true;
    facts.has_systemd = true;
    facts.cgroup_version = 2;
    let (world, keys) = with_keys(world);
    hold("systemd-host", &plans(&world, &keys));
}

#[test]
fn equal_worlds_give_equal_objects() {
    let (world, keys) = with_keys(small());
    let mut turned = world.clone();
    turned.hosts.reverse();
    let all = |world: &World| {
        let mut all = services(world);
        all.extend(workloads(world, &keys));
        all.extend(keys.secrets(world));
        all.extend(addons(world));
        all.push(public_kubeconfig(world, &keys));
        all
    };
    assert_eq!(all(&world), all(&turned));
    assert_eq!(choose_hosts(&world), choose_hosts(&turned));
    assert_eq!(text(&plans(&world, &keys)), text(&plans(&turned, &keys)));
}

#[test]
fn a_plan_keeps_its_bootstrap_certificate() {
    let (mut world, keys) = with_keys(small());
    let first = host_plans(&world, &keys, &choose_hosts(&world)).unwrap();
    for (name, spec) in &first {
        let mut plan = common::plan(name, "u-first");
        plan.spec = spec.clone();
        world.plans.push(plan);
    }
    let again = host_plans(&world, &keys, &choose_hosts(&world)).unwrap();
    assert_eq!(first, again);
    // After more than half of its life it is made anew.
    world.now = k8s_openapi::jiff::Timestamp::from_second(common::MADE + 200 * 86_400).unwrap();
    let late = host_plans(&world, &keys, &choose_hosts(&world)).unwrap();
    assert_ne!(first["one"], late["one"]);
    assert_eq!(
        text(&[serde_json::to_value(&first["one"]).unwrap()]),
        text(&[serde_json::to_value(&late["one"]).unwrap()])
    );
}

#[test]
fn renewed_leaves_roll_no_pod_that_reads_them_anew() {
    let (mut world, keys) = with_keys(small());
    let ca = common::plane_ca();
    let templates = |keys: &Keys, world: &World| -> Vec<(String, String)> {
        let all = workloads(world, keys);
        all.iter()
            .filter(|object| !object["spec"]["template"].is_null())
            .map(|object| {
                (
                    object["metadata"]["name"].as_str().unwrap().to_owned(),
                    object["spec"]["template"].to_string(),
                )
            })
            .collect()
    };
    let before = templates(&keys, &world);
    world.now = k8s_openapi::jiff::Timestamp::from_second(common::MADE + 200 * 86_400).unwrap();
    let renewed = renew_keys(&with_addresses(world.clone()), &ca).unwrap();
    assert_ne!(keys.text("apiserver.crt"), renewed.text("apiserver.crt"));
    // All but the one certificate that the API server reads only once.
    let mut contents = renewed.contents().clone();
    for name in ["egress-client.crt", "egress-client.key"] {
        contents.insert(name.to_owned(), keys.text(name).as_bytes().to_vec());
    }
    assert_eq!(before, templates(&Keys::from_contents(contents), &world));
    let after = templates(&renewed, &world);
    let rolled: Vec<&String> = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before != after)
        .map(|(before, _)| &before.0)
        .collect();
    assert_eq!(rolled, ["apiserver"]);
}
