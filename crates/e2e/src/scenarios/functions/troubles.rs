//! Bad code, bad images, bad moments: each is told in words, and nothing else is harmed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{MINUTE, code, farplane, farplane_raw, route};
use crate::world::World;

/// Code, what a call of it says, and options of the function.
const TROUBLES: [(&str, &str, &str, &[&str]); 3] = [
    (
        "exits",
        "import os\n\n\ndef main():\n    os._exit(3)\n",
        "ended its connection before it answered",
        &[],
    ),
    (
        "hangs",
        "import time\n\n\ndef main():\n    time.sleep(600)\n",
        "did not answer within its timeout of 1 s",
        &["--timeout", "1s"],
    ),
    (
        "leaks",
        "kept = []\n\n\ndef main():\n    while True:\n        kept.append(bytearray(1 << 20))\n",
        "ended its connection before it answered",
        &[],
    ),
];

/// Pods of 64 MiB, so that what leaks is killed soon.
const SMALL: &str = "\
apiVersion: fission.io/v1
kind: Environment
metadata: { name: small }
spec:
  version: 3
  poolsize: 1
  terminationGracePeriod: 5
  runtime: { image: IMAGE }
  resources: { limits: { memory: 64Mi } }
";

const NO_IMAGE: &str = "\
apiVersion: fission.io/v1
kind: Environment
metadata: { name: nowhere }
spec:
  version: 3
  poolsize: 1
  runtime: { image: \"registry.invalid/nothing:1\" }
";

/// Code that exits, never answers or takes all memory says so; the next call of others is well.
pub fn code_that_fails(world: &World) -> Result<()> {
    let known = farplane(world, &["env", "list", "--languages", "-o", "json"])?;
    let known: serde_json::Value = serde_json::from_str(&known).context("read the languages")?;
    let image = known["python"]["image"].as_str().unwrap_or_default();
    world.apply(&SMALL.replace("IMAGE", image))?;
    for (name, text, expected, options) in TROUBLES {
        let path = code(world, &format!("{name}.py"), text)?;
        let create = [
            "fn",
            "create",
            name,
            "--env",
            "small",
            "--code",
            &path,
            "--no-wait",
        ];
        farplane(world, &[&create[..], options].concat())?;
        let answer = farplane_raw(world, &["fn", "test", name])?;
        let said = answer.text();
        ensure!(answer.code != Some(0), "{name} is a success: {said}");
        ensure!(said.contains(expected), "{name} says {said}");
    }
    world.eventually("describe tells of the lack of memory", MINUTE, || {
        let told = farplane(world, &["fn", "describe", "leaks"])?;
        ensure!(told.contains("OOMKilled"), "it tells: {told}");
        Ok(())
    })?;
    let answer = farplane(world, &["fn", "test", "hello"])?;
    ensure!(answer.contains("Hello from Python"), "it said {answer:?}");
    for (name, ..) in TROUBLES {
        farplane(world, &["fn", "delete", name, "--yes"])?;
    }
    farplane(world, &["env", "delete", "small", "--yes"])?;
    Ok(())
}

/// An image that does not exist is told to callers and in `fn describe`.
pub fn image_that_is_not_there(world: &World) -> Result<()> {
    world.apply(NO_IMAGE)?;
    let path = code(world, "nowhere.py", "def main():\n    return ''\n")?;
    let create = [
        "fn", "create", "nowhere", "--env", "nowhere", "--code", &path,
    ];
    farplane(world, &[&create[..], &["--no-wait"]].concat())?;
    world.eventually("the call tells of the image", MINUTE, || {
        let answer = farplane_raw(world, &["fn", "test", "nowhere"])?;
        let said = answer.text();
        ensure!(answer.code != Some(0), "it is a success: {said}");
        ensure!(
            said.contains("registry.invalid/nothing:1"),
            "it says {said}"
        );
        Ok(())
    })?;
    farplane(world, &["fn", "delete", "nowhere", "--yes"])?;
    farplane(world, &["env", "delete", "nowhere", "--yes"])?;
    Ok(())
}

/// A build that fails tells its log, and leaves what runs alone.
pub fn build_that_fails(world: &World) -> Result<()> {
    let folder = world.file("failing");
    std::fs::create_dir_all(&folder).context("make a folder")?;
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).with_context(|| format!("write {name}"))
    };
    write("main.py", "def main():\n    return ''\n")?;
    write("requirements.txt", "no such thing ===\n")?;
    let path = folder.display().to_string();
    let deploy = [
        "fn", "deploy", &path, "--name", "failing", "--env", "python",
    ];
    let answer = farplane_raw(world, &deploy)?;
    let said = answer.text();
    ensure!(answer.code != Some(0), "it is a success: {said}");
    ensure!(said.contains("no such thing"), "the log is missing: {said}");
    farplane_raw(world, &["fn", "delete", "failing", "--yes"])?;
    Ok(())
}

/// A function that is deleted while it serves finishes its call, and then is gone with its Pods.
pub fn deleted_while_it_serves(world: &World) -> Result<()> {
    let text = "import time\n\n\ndef main():\n    time.sleep(6)\n    return 'finished'\n";
    let path = code(world, "slow.py", text)?;
    let create = ["fn", "create", "slow", "--env", "python", "--code", &path];
    farplane(world, &[&create[..], &["--url", "/slow"]].concat())?;
    let label = "functionName=slow";
    let answer = std::thread::scope(|scope| {
        let calling = scope.spawn(|| route(world, "/slow"));
        let deleted = world
            .eventually("an instance serves", MINUTE, || {
                let pods = world.get(&["pods", "-l", label])?;
                let served = pods["items"].as_array().is_some_and(|all| !all.is_empty());
                ensure!(served, "no Pod has its code");
                Ok(())
            })
            .and_then(|()| farplane(world, &["fn", "delete", "slow", "--yes"]));
        let answer = calling.join();
        deleted?;
        answer.map_err(|_| anyhow::anyhow!("the caller panicked"))?
    })?;
    ensure!(answer.text() == "finished", "it said {:?}", answer.text());
    // Long before its grace period of 90 s.
    world.eventually("its Pod is gone", Duration::from_secs(45), || {
        let pods = world.get(&["pods", "-l", label])?;
        let gone = pods["items"].as_array().is_some_and(Vec::is_empty);
        ensure!(gone, "its Pod is there");
        Ok(())
    })
}
