//! A node that is lost, and clients that read slowly or vanish.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::load::{restart, under_load};
use super::{MINUTE, code, farplane, route};
use crate::world::World;

/// Opens connections that send half a request, do not read an answer of 4 MiB, or go away amid
/// one. While they are held, others call as if nothing was; when they are gone, so does the
/// function that they held.
const RUDE: &str = r#"
import http.client, socket, struct, sys
def open_one(sent):
    one = socket.create_connection(('router.fission', 80))
    one.sendall(sent)
    return one
def get(path):
    connection = http.client.HTTPConnection('router.fission', timeout=20)
    connection.request('GET', path)
    answer = connection.getresponse()
    return answer.status, len(answer.read())
whole = b'GET /big HTTP/1.1\r\nHost: router\r\n\r\n'
body = b'POST /big HTTP/1.1\r\nHost: router\r\nContent-Length: 1000000\r\n\r\nabc'
held = [open_one(sent) for sent in [b'GET /steady HTTP/1.1\r\nHo', whole, body] for _ in range(50)]
for _ in range(50):
    gone = open_one(whole)
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    gone.close()
for number in range(50):
    said = get('/steady')
    if said != (200, 6): sys.exit(f'beside slow clients, call {number}: {said}')
for one in held:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    one.close()
for number in range(50):
    said = get('/big')
    if said != (200, 4 << 20): sys.exit(f'after slow clients, call {number}: {said}')
"#;

/// Nobody else notices clients that read slowly, send slowly or vanish.
pub fn rude_clients(world: &World) -> Result<()> {
    let text = "def main():\n    return 'b' * (4 << 20)\n";
    let path = code(world, "big.py", text)?;
    let create = ["fn", "create", "big", "--env", "python", "--code", &path];
    // As many places as there are clients: the function itself is not to be what they wait for.
    let limits = ["--concurrency", "1", "--requests-per-pod", "200"];
    farplane(world, &[&create[..], &limits, &["--url", "/big"]].concat())?;
    farplane(world, &["fn", "test", "big"])?;
    let post = "apiVersion: fission.io/v1\nkind: HTTPTrigger\nmetadata: {name: big-post}\n\
                spec: {relativeurl: /big, methods: [POST], functionref: {type: name, name: big}}\n";
    world.apply(post)?;
    under_load(world, || {
        let script = RUDE.lines().fold(String::new(), |mut script, line| {
            _ = writeln!(script, "{line}");
            script
        });
        world.kubectl(&["exec", "caller", "--", "python3", "-c", &script])?;
        Ok(())
    })?;
    world.kubectl(&["delete", "httptrigger", "big-post"])?;
    farplane(world, &["fn", "delete", "big", "--yes"])?;
    Ok(())
}

/// Drops every packet of a host but its own.
const LOSE: &str = "nft -f - <<'END'\ntable ip lost {\n  chain out { type filter hook output priority 0; oifname != \"lo\" drop; }\n  chain in { type filter hook input priority 0; iifname != \"lo\" drop; }\n}\nEND";
/// Ends it.
const FIND: &str = "nft delete table ip lost";

const AWAY: &str = "\
apiVersion: fission.io/v1
kind: Environment
metadata: { name: away }
spec: { version: 3, poolsize: 1, terminationGracePeriod: 5, runtime: { image: IMAGE } }
";

/// The node of a function's only instance is lost: calls are answered by an instance on another,
/// long before the cluster gives the node up.
pub fn node(world: &World) -> Result<()> {
    world.kubectl(&["cordon", "two"])?;
    let placed = place(world);
    world.kubectl(&["uncordon", "two"])?;
    world.kubectl(&["uncordon", "one"])?;
    placed?;
    world.on_host("two", LOSE, None)?;
    let answered = world.eventually("the function answers", MINUTE, || {
        let answer = route(world, "/far")?.text();
        ensure!(answer.contains("from afar"), "it said {answer:?}");
        Ok(())
    });
    let moved = nodes(world);
    world.on_host("two", FIND, None)?;
    answered?;
    let moved = moved?;
    ensure!(moved.contains(&"one".to_owned()), "it runs on {moved:?}");
    world.kubectl(&["wait", "node/two", "--for=condition=Ready", "--timeout=60s"])?;
    for _ in 0..10 {
        let answer = route(world, "/far")?.text();
        ensure!(
            answer.contains("from afar"),
            "with both nodes it said {answer:?}"
        );
    }
    farplane(world, &["fn", "delete", "far", "--yes"])?;
    world.kubectl(&["delete", "environment.fission.io", "away"])?;
    Ok(())
}

/// The platform on node one, the function's instance on node two, a Pod of its pool on one.
fn place(world: &World) -> Result<()> {
    restart(world)?;
    world.kubectl(&["uncordon", "two"])?;
    world.kubectl(&["cordon", "one"])?;
    let known = farplane(world, &["env", "list", "--languages", "-o", "json"])?;
    let known: Value = serde_json::from_str(&known).context("read the languages")?;
    let image = known["python"]["image"].as_str().unwrap_or_default();
    world.apply(&AWAY.replace("IMAGE", image))?;
    let path = code(world, "far.py", "def main():\n    return 'from afar'\n")?;
    // The Pod that takes its place in the pool is to be on node one.
    world.eventually("a Pod of the pool is on node two", MINUTE, || {
        let pods = world.get(&["pods", "-l", "environmentName=away"])?;
        ensure!(pods["items"][0]["status"]["phase"] == "Running", "not yet");
        Ok(())
    })?;
    world.kubectl(&["uncordon", "one"])?;
    world.kubectl(&["cordon", "two"])?;
    let create = ["fn", "create", "far", "--env", "away", "--code", &path];
    farplane(world, &[&create[..], &["--url", "/far"]].concat())?;
    farplane(world, &["fn", "test", "far"])?;
    let nodes = nodes(world)?;
    ensure!(nodes == ["two"], "it runs on {nodes:?}");
    world.eventually("the pool is full on node one", MINUTE, || {
        let pods = world.get(&["pods", "-l", "environmentName=away,!functionName"])?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let ready =
            |pod: &&Value| pod["spec"]["nodeName"] == "one" && pod["status"]["phase"] == "Running";
        ensure!(
            pods.iter().any(|pod| ready(&pod)),
            "there are {}",
            pods.len()
        );
        Ok(())
    })
}

/// Where the function's instances are.
fn nodes(world: &World) -> Result<Vec<String>> {
    let pods = world.get(&["pods", "-l", "functionName=far"])?;
    let items = pods["items"].as_array().cloned().unwrap_or_default();
    let nodes = items
        .iter()
        .filter_map(|pod| pod["spec"]["nodeName"].as_str());
    Ok(nodes.map(str::to_owned).collect())
}
