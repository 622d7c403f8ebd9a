//! What is wrong with a machine is named in words, and heals without help once it is mended.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::run::run;
use crate::scenarios::hub::condition;
use crate::world::{CLUSTER, ORG, World};

const MINUTE: Duration = Duration::from_secs(60);
/// Where the agent puts what it fetches.
const ARTIFACTS: &str = "/var/lib/farplane/artifacts";
/// The kubelet's port.
const PORT: u16 = 10250;

/// A lab host of this name for as long as a scenario lasts.
pub fn with_host(world: &World, host: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    world.farplane(&["lab", "add", host, "--org", ORG, "--endpoint", "lab"])?;
    world.eventually("the host is connected", MINUTE, || {
        let object = world.hub_get(&["host.farplane.io", host, "-n", &format!("org-{ORG}")])?;
        condition(&object, "Connected")
    })?;
    let outcome = body();
    let removed = world.farplane(&["lab", "remove", host, "--org", ORG, "--yes"]);
    outcome.and(removed.map(drop))
}

/// `cluster describe` tells of a host, with all of these words.
fn told(world: &World, cluster: &str, words: &[&str]) -> Result<()> {
    let text = world.farplane(&["cluster", "describe", cluster, "--org", ORG])?;
    let missing: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
    ensure!(missing.is_empty(), "it does not say {missing:?}: {text}");
    Ok(())
}

fn is_ready(world: &World, cluster: &str) -> Result<()> {
    let name = ["kubernetescluster", cluster, "-n", &format!("org-{ORG}")];
    condition(&world.hub_get(&name)?, "Ready")
}

/// Orders a cluster on a host that is in trouble: the trouble is told in these words, and
/// once it is mended the cluster becomes ready.
fn named_and_healed(
    world: &World,
    (cluster, host): (&str, &str),
    words: &[&str],
    mend: impl FnOnce() -> Result<()>,
) -> Result<()> {
    world.farplane(&["cluster", "create", cluster, "--org", ORG, "--hosts", host])?;
    let named = world.eventually("the trouble is told", MINUTE, || {
        told(world, cluster, words)
    });
    mend()?;
    let healed = world.eventually("the cluster is ready", MINUTE * 2, || {
        is_ready(world, cluster)
    });
    let deleted = world.farplane(&[
        "cluster", "delete", cluster, "--org", ORG, "--yes", "--wait",
    ]);
    named.and(healed).and(deleted.map(drop))
}

/// A host whose disk is full says so, and goes on once there is room.
pub fn full_disk(world: &World) -> Result<()> {
    with_host(world, "full", || {
        let line = format!("mkdir -p {ARTIFACTS} && mount -t tmpfs -o size=4k full {ARTIFACTS}");
        world.on_host("full", &line, None)?;
        let words = ["host full", "disk", "is full", "free some space"];
        named_and_healed(world, ("cramped", "full"), &words, || {
            // Lazily: a fetch that fails may have a file open at this moment.
            let line = format!("umount -l {ARTIFACTS}");
            world.on_host("full", &line, None).map(drop)
        })
    })
}

/// The address that a hub shall answer at, and a port that a node needs, are taken.
pub fn port_in_use(world: &World) -> Result<()> {
    address_of_the_hub(world)?;
    with_host(world, "busy", || {
        let listen = format!(
            "my $s = IO::Socket::INET->new(LocalAddr => q(0.0.0.0), LocalPort => {PORT}, Listen => 5) or die; sleep"
        );
        let line = format!(
            "setsid perl -MIO::Socket::INET -e '{listen}' >/dev/null 2>&1 & echo $!; until ss -ltn | grep -q :{PORT}; do sleep 0.1; done"
        );
        let pid = world.on_host("busy", &line, None)?;
        let address = format!(":{PORT} is in use");
        let words = ["host busy", address.as_str(), "ss -ltnp"];
        named_and_healed(world, ("crowded", "busy"), &words, || {
            let line = format!("kill {}", pid.trim());
            world.on_host("busy", &line, None).map(drop)
        })
    })
}

/// `up --listen` with an address that another program has: refused with its name, for the
/// hub that runs, which is not touched, and for one that does not exist yet. Once the address
/// is free the same command works.
fn address_of_the_hub(world: &World) -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0").context("listen at a free port")?;
    let address = taken.local_addr()?.to_string();
    let expected = format!("{address} is in use by another program");
    let before = world.farplane(&["status", "-o", "json"])?;
    world.farplane_refuses(&["up", "--listen", &address], &expected)?;
    let after = world.farplane(&["status", "-o", "json"])?;
    ensure!(before == after, "the hub was touched: {before} {after}");
    second_hub(world, &address, &expected)?;
    drop(taken);
    world.farplane(&["up", "--listen", &address])?;
    let config = std::fs::read_to_string(world.kubeconfig(ORG, CLUSTER)?)?;
    let server = config
        .lines()
        .find(|line| line.contains("server: https://"));
    let server = server.context("the kubeconfig has no server")?;
    let path = world.file("listen.kubeconfig");
    let moved = config.replace(server, &format!("    server: https://{address}"));
    std::fs::write(&path, moved).context("write a kubeconfig with that address")?;
    world.eventually("the cluster answers at that address", MINUTE, || {
        let answer = world.kubectl_with(&path, &["get", "--raw", "/readyz"], None)?;
        answer.success("ask at that address").map(drop)
    })
}

/// A hub that cannot have its address leaves nothing that `down --purge` does not remove.
fn second_hub(world: &World, address: &str, expected: &str) -> Result<()> {
    let name = format!("{}-second", world.hub);
    let program = world.dist.join("bin/farplane");
    let second = |arguments: &[&str]| {
        let all = [&["--hub", name.as_str()], arguments].concat();
        run(&program, &all, None, MINUTE)
    };
    let refused = second(&["up", "--listen", address])?;
    let purged = second(&["down", "--purge"])?;
    ensure!(
        refused.code != Some(0) && refused.text().contains(expected),
        "a second hub is not refused: {}",
        refused.text()
    );
    purged.success("purge the second hub")?;
    let folder = format!("/var/lib/farplane-hub/{name}");
    ensure!(
        !std::path::Path::new(&folder).exists(),
        "{folder} is still there"
    );
    Ok(())
}
