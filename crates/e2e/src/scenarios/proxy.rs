//! A host whose network has one way out: an HTTP proxy with a password.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::scenarios::hub::condition;
use crate::world::{ORG, World};

const MINUTE: Duration = Duration::from_secs(60);
/// Lab host that stands for the network; its own agent is shut in as well.
const LAB: &str = "behind";
/// The host that joins from there.
const HOST: &str = "proxied";
/// `me:secret`, as the header says it.
const AUTHORIZATION: &str = "Basic bWU6c2VjcmV0";
const LOG: &str = "/tmp/proxy.log";
const CONFIG: &str = "/tmp/proxied/agent.yaml";

/// Direct connections to the hub fail; by the proxy, with the right password, a host joins and
/// stays connected.
pub fn joins(world: &World) -> Result<()> {
    let added = [
        "lab",
        "add",
        LAB,
        "--org",
        ORG,
        "--endpoint",
        "lab",
        "--wait",
    ];
    world.farplane(&added)?;
    let outcome = from_behind(world);
    // A host that never joined cannot be removed; what matters failed already.
    let host = world.farplane(&["host", "remove", HOST, "--org", ORG, "--yes", "--wait"]);
    let opened = world.on_host(LAB, "nft delete table inet behind", None);
    let lab = world.farplane(&["lab", "remove", LAB, "--org", ORG, "--yes"]);
    outcome?;
    host?;
    opened?;
    lab.map(drop)
}

fn from_behind(world: &World) -> Result<()> {
    let hub = gateway(world)?;
    start_proxy(world)?;
    shut_in(world, &hub)?;
    let line = world.farplane(&["host", "join-command", "--org", ORG, "--endpoint", "lab"])?;
    let token = line
        .split_whitespace()
        .find(|word| word.starts_with("fpj1."))
        .context("no token in the join command")?;
    let join = |proxy: &str| {
        let line = format!(
            "farplane-agent --config {CONFIG} join --hub {hub} --token {token} --name {HOST} \
             --state-dir /tmp/proxied/state {proxy} 2>&1 || echo REFUSED"
        );
        world.on_host(LAB, &line, None)
    };
    let refuses = |proxy: &str, words: &str| -> Result<()> {
        let said = join(proxy)?;
        let refused = said.contains("REFUSED") && said.contains(words);
        ensure!(refused, "join {proxy} does not say {words:?} but: {said}");
        Ok(())
    };
    refuses("", "failed to reach the hub")?;
    refuses("--proxy http://127.0.0.1:3128", "user and password")?;
    refuses(
        "--proxy http://me:wrong@127.0.0.1:3128",
        "user and password",
    )?;
    let joined = join("--proxy http://me:secret@127.0.0.1:3128")?;
    ensure!(!joined.contains("REFUSED"), "by the proxy: {joined}");
    let run = format!(
        "setsid farplane-agent run --config {CONFIG} > /tmp/proxied/log 2>&1 < /dev/null &"
    );
    world.on_host(LAB, &run, None)?;
    let namespace = format!("org-{ORG}");
    world.eventually("the host is connected by the proxy", MINUTE, || {
        let host = world.hub_get(&["host.farplane.io", HOST, "-n", &namespace])?;
        condition(&host, "Connected")
    })?;
    // One for the token, two for the sessions.
    world.eventually("the proxy passed on all of it", MINUTE, || {
        let said = world.on_host(LAB, &format!("cat {LOG}"), None)?;
        let passed = format!("CONNECT {hub} HTTP/1.1: 200");
        ensure!(said.matches(&passed).count() >= 3, "{said}");
        ensure!(said.matches(": 407").count() == 2, "{said}");
        Ok(())
    })
}

fn gateway(world: &World) -> Result<String> {
    let service = world.hub_get(&["service", "farplane-gateway", "-n", "farplane-system"])?;
    let address = service["spec"]["clusterIP"].as_str();
    let address = address.context("the gateway has no address")?;
    Ok(format!("{address}:8443"))
}

/// Runs as a user of its own, by which the host's firewall knows it.
fn start_proxy(world: &World) -> Result<()> {
    let (_, file) = world.image("test-server")?;
    let archive = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    let unpack = "mkdir /tmp/image && tar -x -C /tmp/image && for layer in /tmp/image/blobs/sha256/*; do \
                  tar -x -C / -f \"$layer\" usr/local/bin/farplane-test-server 2>/dev/null && break; done; \
                  test -x /usr/local/bin/farplane-test-server";
    world.on_host(LAB, unpack, Some(&archive))?;
    let start = format!(
        "setsid setpriv --reuid=65534 --regid=65534 --clear-groups farplane-test-server proxy \
         --port 3128 --authorization '{AUTHORIZATION}' > {LOG} 2>&1 < /dev/null &"
    );
    world.on_host(LAB, &start, None)?;
    world.eventually("the proxy listens", MINUTE, || {
        let said = world.on_host(LAB, &format!("cat {LOG}"), None)?;
        ensure!(said.contains("listening"), "{said}");
        Ok(())
    })
}

/// Nobody but the proxy reaches the hub from this host. Reset, for a silent drop takes long.
fn shut_in(world: &World, hub: &str) -> Result<()> {
    let (address, port) = hub.split_once(':').context("no port")?;
    let rules = format!(
        "table inet behind {{ chain out {{ type filter hook output priority 0; \
         ip daddr {address} tcp dport {port} meta skuid != 65534 reject with tcp reset\n }}\n }}"
    );
    world
        .on_host(LAB, "nft -f -", Some(rules.as_bytes()))
        .map(drop)
}
