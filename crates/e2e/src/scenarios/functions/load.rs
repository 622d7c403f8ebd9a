//! What must not be noticed by those who call, all the while that they call.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{MINUTE, PLATFORM, code, farplane};
use crate::scenarios::bad_days;
use crate::world::World;

/// Calls a path through the router's Service until it is told to stop: one client keeps its
/// connection, another makes a new one each time. Prints calls and failures.
const CALLER: &str = r#"
import http.client, os, sys, threading
failures, counts, lock = [], [0, 0], threading.Lock()
def call(kept):
    connection = None
    while not os.path.exists('/tmp/stop'):
        try:
            if connection is None or not kept:
                connection = http.client.HTTPConnection('router.fission', timeout=30)
            connection.request('GET', '/steady')
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200 or body != b'steady':
                raise RuntimeError(f'{answer.status} {body[:200]}')
            if answer.getheader('connection') == 'close':
                connection = None
        except Exception as error:
            with lock:
                failures.append(f'{"kept" if kept else "new"} connection, call {counts[kept]}: {error!r}')
            connection = None
            os.path.exists('/tmp/stop') or threading.Event().wait(0.05)
        counts[kept] += 1
threads = [threading.Thread(target=call, args=(kept,)) for kept in (False, True)]
for thread in threads: thread.start()
open('/tmp/begun', 'w').close()
for thread in threads: thread.join()
print('calls', counts, 'failures', len(failures), *failures[:10], sep='\n')
sys.exit(1 if failures or min(counts) < 10 else 0)
"#;

/// Runs `work` while a Pod of the cluster calls a function all the time; no call may fail, and
/// the instance that served before serves after.
pub fn under_load(world: &World, work: impl FnOnce() -> Result<()>) -> Result<()> {
    world.eventually("instances of a function of before are gone", MINUTE, || {
        let left = instances(world)?;
        ensure!(left.is_empty(), "there are {left:?}");
        Ok(())
    })?;
    let path = code(world, "steady.py", "def main():\n    return 'steady'\n")?;
    let create = ["fn", "create", "steady", "--env", "python", "--code", &path];
    let limits = ["--concurrency", "1", "--requests-per-pod", "50"];
    farplane(
        world,
        &[&create[..], &limits, &["--url", "/steady"]].concat(),
    )?;
    farplane(world, &["fn", "test", "steady"])?;
    let before = instance(world)?;
    let environments = world.get(&["configmap", "environments", "-n", PLATFORM])?;
    let python = environments["data"]["python"].as_str().unwrap_or_default();
    let python: Value = serde_json::from_str(python).context("read the environments")?;
    let mut script = String::new();
    for line in CALLER.lines() {
        writeln!(script, "        {line}")?;
    }
    world.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: caller}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: caller
    image: {}
    command:
    - python3
    - -c
    - |
{script}
"#,
        python["image"].as_str().unwrap_or_default()
    ))?;
    world.eventually("calls are made", MINUTE, || {
        world.kubectl(&["exec", "caller", "--", "test", "-e", "/tmp/begun"])
    })?;
    let worked = work();
    world.kubectl(&["exec", "caller", "--", "touch", "/tmp/stop"])?;
    let phase = world.eventually("the calls come to their end", MINUTE, || {
        let pod = world.get(&["pod", "caller"])?;
        let phase = pod["status"]["phase"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        ensure!(phase == "Succeeded" || phase == "Failed", "it is {phase}");
        Ok(phase)
    })?;
    let said = world.kubectl(&["logs", "caller"])?;
    let after = instance(world)?;
    world.kubectl(&["delete", "pod", "caller", "--wait=false"])?;
    farplane(world, &["fn", "delete", "steady", "--yes"])?;
    worked?;
    ensure!(phase == "Succeeded", "calls failed: {said}");
    ensure!(before == after, "the instance was {before}, and is {after}");
    Ok(())
}

/// UIDs of the function's instances, without those that end.
fn instances(world: &World) -> Result<Vec<String>> {
    let pods = world.get(&["pods", "-l", "functionName=steady"])?;
    let items = pods["items"].as_array().cloned().unwrap_or_default();
    let stays = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    let uids = items
        .iter()
        .filter(stays)
        .filter_map(|pod| pod["metadata"]["uid"].as_str());
    Ok(uids.map(str::to_owned).collect())
}

/// UID of the function's only instance.
fn instance(world: &World) -> Result<String> {
    let mut uids = instances(world)?;
    ensure!(uids.len() == 1, "it has {} instances: {uids:?}", uids.len());
    Ok(uids.remove(0))
}

/// Every process of the platform is replaced, as by an upgrade.
pub fn upgrade(world: &World) -> Result<()> {
    under_load(world, || restart(world))
}

/// Replaces every process of the platform and waits until those of before are gone.
pub fn restart(world: &World) -> Result<()> {
    let names = ["router", "executor", "controllers", "storagesvc"];
    for name in names {
        let deployment = format!("deployment/{name}");
        world.kubectl(&["rollout", "restart", &deployment, "-n", PLATFORM])?;
    }
    for name in names {
        let deployment = format!("deployment/{name}");
        let wait = ["rollout", "status", &deployment, "-n", PLATFORM];
        world.kubectl(&[&wait[..], &["--timeout=100s"]].concat())?;
    }
    world.eventually("those of before are gone", MINUTE * 2, || {
        let pods = world.get(&["pods", "-n", PLATFORM, "-l", "svc"])?;
        let count = pods["items"].as_array().map_or(0, Vec::len);
        ensure!(count == names.len(), "there are {count} Pods");
        Ok(())
    })
}

/// Executor, storage and controllers are killed, one after the other.
pub fn killed(world: &World) -> Result<()> {
    under_load(world, || {
        for name in ["executor", "storagesvc", "controllers"] {
            let pods = ["delete", "pod", "-n", PLATFORM, "-l"];
            let killed = [&format!("svc={name}"), "--grace-period=0", "--force"];
            world.kubectl(&[&pods[..], &killed].concat())?;
            let wait = ["rollout", "status", "-n", PLATFORM, "--timeout=100s"];
            let deployment = format!("deployment/{name}");
            world.kubectl(&[&wait[..], &[&deployment]].concat())?;
        }
        Ok(())
    })
}

/// The cluster's API server is killed, and a function is made when it is back.
pub fn api_server(world: &World) -> Result<()> {
    under_load(world, || {
        bad_days::api_server_killed(world)?;
        let path = code(world, "after.py", "def main():\n    return 'after'\n")?;
        let create = ["fn", "create", "after", "--env", "python", "--code", &path];
        farplane(world, &create)?;
        let answer = farplane(world, &["fn", "test", "after"])?;
        ensure!(answer.contains("after"), "it said {answer:?}");
        farplane(world, &["fn", "delete", "after", "--yes"])?;
        Ok(())
    })
}

const ROUTES: usize = 1000;

/// A thousand routes are made while others call, all of them answer, and they go again.
pub fn routes(world: &World) -> Result<()> {
    under_load(world, || {
        let path = code(world, "many.py", "def main():\n    return 'one of many'\n")?;
        let create = ["fn", "create", "many", "--env", "python", "--code", &path];
        farplane(
            world,
            &[&create[..], &["--requests-per-pod", "50"]].concat(),
        )?;
        let mut all = String::new();
        for number in 0..ROUTES {
            write!(
                all,
                "---\napiVersion: fission.io/v1\nkind: HTTPTrigger\n\
                 metadata: {{name: many-{number}, labels: {{many: 'yes'}}}}\n\
                 spec: {{relativeurl: /many/{number}, methods: [GET], functionref: {{type: name, name: many}}}}\n"
            )?;
        }
        world.apply(&all)?;
        for number in [0, 1, ROUTES / 2, ROUTES - 1] {
            let path = format!("/many/{number}");
            world.eventually(&path, Duration::from_secs(30), || {
                let answer = super::route(world, &path)?.text();
                ensure!(answer.contains("one of many"), "it said {answer:?}");
                Ok(())
            })?;
        }
        world.kubectl(&["delete", "httptriggers", "-l", "many=yes", "--wait=false"])?;
        world.eventually("a route that is gone is not found", MINUTE, || {
            let answer = super::route(world, &format!("/many/{}", ROUTES - 1))?;
            ensure!(answer.code != Some(0), "it answers");
            Ok(())
        })?;
        farplane(world, &["fn", "delete", "many", "--yes"])?;
        Ok(())
    })
}
