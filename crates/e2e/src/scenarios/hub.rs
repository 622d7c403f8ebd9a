//! From an empty machine to a Ready cluster.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::world::{CLUSTER, ORG, World};

/// `farplane up` ends with a hub that answers.
pub fn comes_up(world: &World) -> Result<()> {
    world.farplane(&["up", "--name", &world.hub])?;
    let status: Value = serde_json::from_str(&world.farplane(&["status", "-o", "json"])?)
        .context("status as JSON")?;
    ensure!(
        status.to_string().contains("etcd"),
        "status does not tell of etcd: {status}"
    );
    let ready = world.hub_get(&["deployments", "-n", "farplane-system"])?;
    let items = ready["items"].as_array().map_or(0, Vec::len);
    ensure!(items >= 3, "expected three deployments, found {items}");
    Ok(())
}

/// An organization becomes a namespace with its labels.
pub fn organization(world: &World) -> Result<()> {
    world.farplane(&["org", "create", ORG])?;
    world.eventually(
        "namespace of the organization",
        Duration::from_secs(20),
        || world.hub_get(&["namespace", &format!("org-{ORG}")]),
    )?;
    let list = world.farplane(&["org", "list", "-o", "json"])?;
    ensure!(list.contains(ORG), "org list does not name it: {list}");
    world.farplane_refuses(&["org", "create", ORG], "already exists")
}

/// Two lab hosts enrol by token and connect.
pub fn lab_hosts_join(world: &World) -> Result<()> {
    for name in ["one", "two"] {
        world.farplane(&["lab", "add", name, "--org", ORG, "--endpoint", "lab"])?;
    }
    for name in ["one", "two"] {
        world.eventually(
            &format!("host {name} connected"),
            Duration::from_secs(60),
            || {
                let host =
                    world.hub_get(&["host.farplane.io", name, "-n", &format!("org-{ORG}")])?;
                condition(&host, "Connected")
            },
        )?;
    }
    let list = world.farplane(&["host", "list", "--org", ORG])?;
    ensure!(
        list.contains("one") && list.contains("two"),
        "host list lacks a host: {list}"
    );
    Ok(())
}

/// A cluster on both hosts becomes Ready, and so do its nodes.
pub fn cluster(world: &World) -> Result<()> {
    world.farplane(&[
        "cluster", "create", CLUSTER, "--org", ORG, "--hosts", "one,two", "--wait",
    ])?;
    let nodes = world.get(&["nodes"])?;
    let items = nodes["items"].as_array().cloned().unwrap_or_default();
    ensure!(
        items.len() == 2,
        "expected two nodes, found {}",
        items.len()
    );
    for node in &items {
        condition(node, "Ready")?;
    }
    world.eventually("CoreDNS available", Duration::from_secs(60), || {
        let dns = world.get(&["deployment", "coredns", "-n", "kube-system"])?;
        condition(&dns, "Available")
    })
}

/// `cluster describe` has a line per phase.
pub fn describe(world: &World) -> Result<()> {
    let text = world.farplane(&["cluster", "describe", CLUSTER, "--org", ORG])?;
    for phase in ["Keys", "Store", "ApiServer", "Nodes", "AddOns"] {
        ensure!(
            text.contains(phase),
            "describe does not tell of {phase}: {text}"
        );
    }
    Ok(())
}

/// Repeating `up` is harmless.
pub fn up_again(world: &World) -> Result<()> {
    let before = world.hub_get(&["deployments", "-n", "farplane-system"])?;
    world.farplane(&["up", "--name", &world.hub])?;
    let after = world.hub_get(&["deployments", "-n", "farplane-system"])?;
    let generations = |list: &Value| -> Vec<Value> {
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .map(|item| item["metadata"]["generation"].clone())
            .collect()
    };
    ensure!(
        generations(&before) == generations(&after),
        "up changed a deployment"
    );
    Ok(())
}

/// Wrong requests are refused with words that help.
pub fn refusals(world: &World) -> Result<()> {
    world.farplane_refuses(
        &["cluster", "create", CLUSTER, "--org", ORG],
        "already exists",
    )?;
    world.farplane_refuses(&["cluster", "create", "Bad_Name", "--org", ORG], "name")?;
    world.farplane_refuses(&["cluster", "describe", "absent", "--org", ORG], "absent")?;
    world.farplane_refuses(
        &[
            "cluster",
            "create",
            "x",
            "--org",
            ORG,
            "--control-plane-replicas",
            "2",
        ],
        "2",
    )?;
    world.farplane(&[
        "cluster", "create", "greedy", "--org", ORG, "--hosts", "one",
    ])?;
    world.eventually(
        "a cluster on a used host says so",
        Duration::from_secs(30),
        || says(world, "greedy", "one"),
    )?;
    world.farplane(&[
        "cluster",
        "create",
        "future",
        "--org",
        ORG,
        "--version",
        "1.99.0",
    ])?;
    world.eventually(
        "a cluster of an unknown version says so",
        Duration::from_secs(30),
        || says(world, "future", "1.99.0"),
    )?;
    for name in ["greedy", "future"] {
        world.farplane(&["cluster", "delete", name, "--org", ORG, "--yes", "--wait"])?;
    }
    Ok(())
}

/// The cluster is not Ready and its Ready condition mentions `text`.
fn says(world: &World, cluster: &str, text: &str) -> Result<()> {
    says_in(world, ORG, cluster, text)
}

/// A cluster of an organization is not Ready and a condition mentions `text`.
pub fn says_in(world: &World, org: &str, cluster: &str, text: &str) -> Result<()> {
    let object = world.hub_get(&["kubernetescluster", cluster, "-n", &format!("org-{org}")])?;
    let conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let found = conditions.iter().any(|condition| {
        condition["status"] == "False"
            && condition["message"]
                .as_str()
                .is_some_and(|message| message.contains(text))
    });
    ensure!(found, "no condition tells of {text}: {conditions:?}");
    Ok(())
}

/// A condition of an object is `True`.
pub fn condition(object: &Value, name: &str) -> Result<()> {
    let conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    match conditions
        .iter()
        .find(|condition| condition["type"] == name)
    {
        Some(condition) if condition["status"] == "True" => Ok(()),
        Some(condition) => bail!(
            "{name} is {}: {}",
            condition["status"],
            condition["message"]
        ),
        None => bail!("no condition {name} yet"),
    }
}
