//! The clocks of a host and of the hub differ.
//!
//! Only the agent gets another clock ([`crate::clock`]). containerd, the kubelet and the rest
//! are written in Go, and keep that of the machine.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::scenarios::security::join_arguments;
use crate::scenarios::troubles::with_host;
use crate::world::{ORG, World};

const MINUTE: Duration = Duration::from_secs(60);
/// The host, and the cluster that it is the node of.
const HOST: &str = "skewed";
const CLUSTER: &str = "patient";
/// Ten minutes, in seconds, behind and ahead.
const SHIFTS: [i64; 2] = [-600, 600];
const PROGRAMS: &str = "/usr/local/bin";

/// An agent ten minutes behind, and one ten minutes ahead: it enrols, it is connected, its
/// host becomes a node, and the hub reaches the kubelet through it.
pub fn ten_minutes_apart(world: &World) -> Result<()> {
    with_host(world, HOST, || {
        let own = std::env::current_exe().context("find this program")?;
        let own = std::fs::read(&own).with_context(|| format!("read {}", own.display()))?;
        let line = format!(
            "cd {PROGRAMS} && cat >shift-clock && chmod 755 shift-clock && mv farplane-agent true-agent"
        );
        world.on_host(HOST, &line, Some(&own))?;
        for shift in SHIFTS {
            enrols(world, shift)?;
        }
        let outcome = serves(world);
        let delete = [
            "cluster", "delete", CLUSTER, "--org", ORG, "--yes", "--wait",
        ];
        outcome.and(world.farplane(&delete).map(drop))
    })
}

fn serves(world: &World) -> Result<()> {
    let [behind, ahead] = SHIFTS;
    restart(world, behind)?;
    world.farplane(&[
        "cluster", "create", CLUSTER, "--org", ORG, "--hosts", HOST, "--wait",
    ])?;
    kubelet_answers(world)?;
    restart(world, ahead)?;
    kubelet_answers(world)
}

/// Joins as another host, which is removed again. The agent notices that the clocks differ.
fn enrols(world: &World, shift: i64) -> Result<()> {
    let name = if shift < 0 { "slow" } else { "fast" };
    let (hub, token) = join_arguments(world)?;
    let folder = format!("/tmp/join-{name}");
    let line = format!(
        "mkdir -p {folder} && shift-clock --shift-clock {shift} {PROGRAMS}/true-agent join --enrol-only --hub {hub} --token {token} --name {name} --state-dir {folder} --config {folder}/agent.yaml 2>&1"
    );
    let said = world.on_host(HOST, &line, None)?;
    let remove = ["host", "remove", name, "--org", ORG, "--yes"];
    world.farplane(&remove)?;
    ensure!(
        said.contains("clocks") && said.contains("differ"),
        "the agent did not notice that the clocks differ: {said}"
    );
    Ok(())
}

/// Another agent with this clock takes the place of the one that runs, and is connected.
fn restart(world: &World, shift: i64) -> Result<()> {
    let program = format!(
        "#!/bin/sh\nexec {PROGRAMS}/shift-clock --shift-clock {shift} {PROGRAMS}/true-agent \"$@\"\n"
    );
    let line = format!(
        "cd {PROGRAMS} && cat >new && chmod 755 new && mv new farplane-agent && pkill -KILL -f '[a]gent run --config'"
    );
    world.on_host(HOST, &line, Some(program.as_bytes()))?;
    // When its sessions began by its own clock, against the machine's.
    let line = "grep -o '\"since\": *\"[^\"]*\"' /var/lib/farplane/agent/status.json | cut -d'\"' -f4 | while read since; do echo $(($(date -d \"$since\" +%s) - $(date +%s))); done";
    world.eventually("the agent is connected and has that clock", MINUTE, || {
        let connected = world.on_host(HOST, "farplane-agent status", None)?;
        ensure!(
            connected.matches(" connected since").count() == 2,
            "its sessions are: {connected}"
        );
        let said = world.on_host(HOST, line, None)?;
        let apart: Vec<i64> = said.lines().filter_map(|it| it.parse().ok()).collect();
        // Sessions are at most this old.
        let expected = shift - 60..=shift;
        ensure!(
            apart.len() == 2 && apart.iter().all(|it| expected.contains(it)),
            "its sessions began {apart:?} seconds apart from now, not {shift}"
        );
        Ok(())
    })
}

/// API server, egress, gateway, tunnel, agent, kubelet.
fn kubelet_answers(world: &World) -> Result<()> {
    let config = world.kubeconfig(ORG, CLUSTER)?;
    let path = format!("/api/v1/nodes/{HOST}/proxy/healthz");
    world.eventually("the kubelet answers", MINUTE, || {
        let answer = world.kubectl_with(&config, &["get", "--raw", &path], None)?;
        let answer = answer.success("ask the kubelet")?;
        ensure!(answer.trim() == "ok", "it says {answer:?}");
        Ok(())
    })
}
