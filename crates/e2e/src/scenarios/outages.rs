//! What is cut, replaced or lost beside single processes: the network, the agent's binary,
//! one of three control plane replicas, a limit.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::scenarios::bad_days::{containers, works_again};
use crate::scenarios::hub::{condition, says_in};
use crate::scenarios::security::uid_of;
use crate::scenarios::workloads::logs_exec_port_forward;
use crate::world::{ORG, World};

const MINUTE: Duration = Duration::from_secs(60);
/// Name of the agent's process.
const AGENT: &str = "farplane-agent";
/// Drops every packet between a host and the hub.
const CUT: &str = "nft -f - <<'END'\ntable ip cut {\n  chain out { type filter hook output priority 0; tcp dport 8443 drop; }\n  chain in { type filter hook input priority 0; tcp sport 8443 drop; }\n}\nEND";
/// Ends it.
const MEND: &str = "nft delete table ip cut";

fn connected(world: &World, host: &str, wanted: bool) -> Result<()> {
    let object = world.hub_get(&["host.farplane.io", host, "-n", &format!("org-{ORG}")])?;
    let is = condition(&object, "Connected").is_ok();
    ensure!(is == wanted, "Connected of {host} is {is}");
    Ok(())
}

/// Every packet between one host and the hub is dropped, then passes again.
pub fn network_cut(world: &World) -> Result<()> {
    let before = containers(world)?;
    world.on_host("one", CUT, None)?;
    let noticed = world.eventually("the hub notices", MINUTE, || connected(world, "one", false));
    world.on_host("one", MEND, None)?;
    noticed?;
    world.eventually("the host is back", MINUTE, || connected(world, "one", true))?;
    works_again(world)?;
    ensure!(containers(world)? == before, "containers were restarted");
    Ok(())
}

/// The whole site is cut off until the cluster knows it: no node may be about to lose its Pods,
/// which it would after five minutes.
pub fn site_cut_off(world: &World) -> Result<()> {
    let before = containers(world)?;
    let hosts = ["one", "two"];
    for host in hosts {
        world.on_host(host, CUT, None)?;
    }
    let kept = (|| {
        let nodes = || world.get(&["nodes"]).map(|it| it["items"].clone());
        world.eventually("every node is away", 3 * MINUTE, || {
            for node in nodes()?.as_array().into_iter().flatten() {
                ensure!(
                    ready_of(node) == "Unknown",
                    "not away: {}",
                    node["metadata"]["name"]
                );
            }
            Ok(())
        })?;
        world.eventually("no node is about to lose its Pods", MINUTE, || {
            let evicts = |taint: &Value| {
                taint["effect"] == "NoExecute" && taint["key"] == "node.kubernetes.io/unreachable"
            };
            let tainted = |node: &Value| {
                node["spec"]["taints"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(evicts))
            };
            let nodes = nodes()?;
            let found = nodes
                .as_array()
                .into_iter()
                .flatten()
                .find(|node| tainted(node));
            ensure!(found.is_none(), "tainted: {found:?}");
            Ok(())
        })
    })();
    for host in hosts {
        world.on_host(host, MEND, None)?;
    }
    kept?;
    works_again(world)?;
    ensure!(containers(world)? == before, "containers were restarted");
    Ok(())
}

fn ready_of(node: &Value) -> &str {
    let conditions = node["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let ready = conditions.find(|one| one["type"] == "Ready");
    ready
        .and_then(|one| one["status"].as_str())
        .unwrap_or_default()
}

/// Another binary of the agent takes the place of the running one.
pub fn agent_upgraded(world: &World) -> Result<()> {
    let before = containers(world)?;
    let pid = world.on_host("two", &format!("pgrep -o -x {AGENT}"), None)?;
    // Bytes behind the end make it another file with the same behaviour.
    let line = format!(
        "cd /usr/local/bin && cp farplane-agent new && printf upgraded >> new && mv new farplane-agent && kill -TERM $(pgrep -o -x {AGENT})"
    );
    world.on_host("two", &line, None)?;
    world.eventually("the new agent runs", MINUTE, || {
        let line = format!("p=$(pgrep -o -x {AGENT}) && echo $p && tail -c 8 /proc/$p/exe");
        let now = world.on_host("two", &line, None)?;
        let fresh = now.lines().next() != pid.lines().next();
        ensure!(fresh && now.ends_with("upgraded"), "still {now}");
        Ok(())
    })?;
    works_again(world)?;
    ensure!(containers(world)? == before, "containers were restarted");
    Ok(())
}

/// Three replicas: one API server and one member of the store die, and it answers on.
pub fn three_replicas(world: &World) -> Result<()> {
    world.farplane(&[
        "cluster",
        "create",
        "sturdy",
        "--org",
        ORG,
        "--control-plane-replicas",
        "3",
        "--wait",
    ])?;
    let config = world.kubeconfig(ORG, "sturdy")?;
    let kubectl = |arguments: &[&str]| {
        let what = format!("kubectl (sturdy) {}", arguments.join(" "));
        world.kubectl_with(&config, arguments, None)?.success(&what)
    };
    kubectl(&["create", "configmap", "survivor"])?;
    let namespace = format!("plane-{}", uid_of(world, ORG, "sturdy")?);
    let pods = world.hub_get(&["pods", "-n", &namespace])?;
    let items = pods["items"].as_array().cloned().unwrap_or_default();
    for component in ["apiserver", "etcd"] {
        let of = items
            .iter()
            .filter(|pod| pod["metadata"]["labels"]["farplane.io/component"] == component);
        let names: Vec<&str> = of.filter_map(|p| p["metadata"]["name"].as_str()).collect();
        ensure!(names.len() == 3, "{component} has the Pods {names:?}");
        world.hub_kubectl(&[
            "delete",
            "pod",
            "-n",
            &namespace,
            names[0],
            "--force",
            "--grace-period=0",
        ])?;
        world.eventually("it answers", MINUTE / 2, || {
            kubectl(&["get", "configmap", "survivor"])
        })?;
        kubectl(&["create", "configmap", &format!("after-{component}")])?;
    }
    let arguments = [
        "cluster", "delete", "sturdy", "--org", ORG, "--yes", "--wait",
    ];
    world.farplane(&arguments).map(drop)
}

/// The second cluster of an organization that may have one waits, and goes on once it may.
pub fn quota(world: &World) -> Result<()> {
    let org = "modest";
    world.farplane(&["org", "create", org, "--max-clusters", "1"])?;
    world.farplane(&["cluster", "create", "fits", "--org", org, "--wait"])?;
    world.farplane(&["cluster", "create", "exceeds", "--org", org])?;
    world.eventually("the cluster beyond the limit says so", MINUTE, || {
        says_in(world, org, "exceeds", "limit")
    })?;
    let pods = world.hub_kubectl(&["get", "namespaces", "-o", "name"])?;
    let uid = uid_of(world, org, "exceeds")?;
    ensure!(!pods.contains(&uid), "it was begun all the same");
    world.farplane(&["cluster", "delete", "fits", "--org", org, "--yes", "--wait"])?;
    world.eventually("it is begun once it fits", MINUTE, || {
        world.hub_get(&["namespace", &format!("plane-{uid}")])
    })?;
    world.farplane(&[
        "cluster", "delete", "exceeds", "--org", org, "--yes", "--wait",
    ])?;
    world
        .farplane(&["org", "delete", org, "--yes", "--wait"])
        .map(drop)
}

/// A host that is away when its cluster is deleted cleans itself when it is back.
pub fn host_away_at_deletion(world: &World) -> Result<()> {
    let names = ["lab", "add", "late", "--org", ORG, "--endpoint", "lab"];
    world.farplane(&names)?;
    world.farplane(&[
        "cluster", "create", "brief", "--org", ORG, "--hosts", "late", "--wait",
    ])?;
    let line = format!("pkill -STOP -x {AGENT}; pgrep -c kubelet");
    let running = world.on_host("late", &line, None)?;
    ensure!(running.trim() != "0", "no kubelet runs on the host");
    let deleted = world.farplane(&[
        "cluster",
        "delete",
        "brief",
        "--org",
        ORG,
        "--yes",
        "--wait",
        "--timeout",
        "180s",
    ]);
    world.on_host("late", &format!("pkill -CONT -x {AGENT}"), None)?;
    deleted.context("delete a cluster whose host is away")?;
    world.eventually("the host cleans itself", MINUTE, || {
        let left = world.on_host("late", "pgrep -l 'kubelet|containerd|flanneld|kube-proxy'; ip -o addr show lo | grep 198.18; true", None)?;
        ensure!(left.trim().is_empty(), "left: {left}");
        Ok(())
    })?;
    world
        .farplane(&["lab", "remove", "late", "--org", ORG, "--yes"])
        .map(drop)
}

fn gateways(world: &World, replicas: usize) -> Result<()> {
    let count = format!("--replicas={replicas}");
    let scale = ["scale", "deployment", "farplane-gateway"];
    world.hub_kubectl(&[&scale[..], &["-n", "farplane-system", &count]].concat())?;
    world.eventually("as many gateways are ready", MINUTE, || {
        let name = ["deployment", "farplane-gateway", "-n", "farplane-system"];
        let object = world.hub_get(&name)?;
        let ready = object["status"]["readyReplicas"].as_u64().unwrap_or(0);
        let all = object["status"]["replicas"].as_u64().unwrap_or(0);
        let wanted = replicas as u64;
        ensure!(
            ready == wanted && all == wanted,
            "{ready} of {all} are ready"
        );
        Ok(())
    })
}

/// Of several gateways one holds the host's connection: the others reach it through that one.
pub fn several_gateways(world: &World) -> Result<()> {
    gateways(world, 3)?;
    let worked = (|| {
        // Each request may go to another gateway.
        for _ in 0..4 {
            logs_exec_port_forward(world)?;
        }
        Ok(())
    })();
    gateways(world, 1)?;
    worked.and_then(|()| works_again(world))
}
