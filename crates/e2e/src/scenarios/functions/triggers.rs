//! What calls functions besides clients.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{MINUTE, PLATFORM, code, farplane, farplane_raw};
use crate::world::World;

/// A function that keeps what it was told, at one instance; a GET gives all of it.
const KEEPER: &str = "\
from flask import request

told = []


def main():
    if request.method == 'GET':
        return ' '.join(told)
    attempt = request.headers.get('X-Fission-Invocation-Attempt', '')
    if request.args.get('fail') == attempt:
        return 'not yet', 500
    timer = request.headers.get('X-Fission-Timer-Name', '')
    told.append(request.get_data(as_text=True) + attempt + timer)
    return 'kept'
";

/// Makes a keeper of this name.
fn keeper(world: &World, name: &str) -> Result<()> {
    let path = code(world, &format!("{name}.py"), KEEPER)?;
    let limits = ["--concurrency", "1", "--requests-per-pod", "5"];
    let create = ["fn", "create", name, "--env", "python", "--code", &path];
    farplane(world, &[&create[..], &limits].concat())?;
    Ok(())
}

/// Waits until a keeper was told enough.
fn told(world: &World, name: &str, limit: Duration, enough: impl Fn(&str) -> bool) -> Result<()> {
    world.eventually(&format!("{name} is called"), limit, || {
        let told = farplane(world, &["fn", "test", name])?;
        ensure!(enough(told.trim()), "it was told {told:?}");
        Ok(())
    })
}

/// A call that nobody waits for is made, and made again when it fails, though the process that
/// keeps it is killed meanwhile.
pub fn later(world: &World) -> Result<()> {
    keeper(world, "later")?;
    let answer = farplane(
        world,
        &[
            "fn",
            "test",
            "later",
            "--header",
            "X-Fission-Invoke-Mode: async",
            "--subpath",
            "/?fail=1",
            "--body",
            "hello",
        ],
    )?;
    ensure!(answer.contains("invocationId"), "it said {answer:?}");
    world.kubectl(&[
        "delete",
        "pod",
        "-n",
        PLATFORM,
        "-l",
        "svc=controllers",
        "--grace-period=0",
        "--force",
    ])?;
    told(world, "later", MINUTE * 2, |told| told == "hello2")?;
    farplane(world, &["fn", "delete", "later", "--yes"])?;
    Ok(())
}

/// A timer calls, and ends with its object.
pub fn timer(world: &World) -> Result<()> {
    keeper(world, "tick")?;
    let create = ["timer", "create", "--name", "tick", "--function", "tick"];
    farplane(world, &[&create[..], &["--cron", "@every 1s"]].concat())?;
    // Three, as one could be a mistake at its start.
    told(world, "tick", MINUTE, |told| {
        told.starts_with("tick tick tick")
    })?;
    farplane(world, &["timer", "delete", "tick", "--yes"])?;
    farplane(world, &["fn", "delete", "tick", "--yes"])?;
    Ok(())
}

/// What happens to objects of a kind is told to a function.
pub fn watch(world: &World) -> Result<()> {
    keeper(world, "watcher")?;
    world.apply(
        "apiVersion: fission.io/v1\nkind: KubernetesWatchTrigger\nmetadata: {name: services}\n\
         spec: {namespace: default, type: SERVICE, functionref: {type: name, name: watcher}}\n",
    )?;
    let ready = "services-are-watched";
    world.eventually("the watch is begun", MINUTE, || {
        let service = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {ready}}}\nspec: {{ports: [{{port: 80}}]}}\n"
        );
        world.apply(&service)?;
        let told = farplane(world, &["fn", "test", "watcher"])?;
        ensure!(told.contains(ready), "it was told {told:?}");
        Ok(())
    })?;
    world.kubectl(&["delete", "service", ready])?;
    world.kubectl(&["delete", "kuberneteswatchtrigger", "services"])?;
    farplane(world, &["fn", "delete", "watcher", "--yes"])?;
    // Nothing is left that would call it.
    let gone = farplane_raw(world, &["fn", "test", "watcher"])?;
    ensure!(gone.code != Some(0), "a deleted function answers");
    Ok(())
}
