//! Functions that have a Deployment of their own.

use anyhow::{Result, ensure};

use super::{MINUTE, code, farplane};
use crate::scenarios::workloads::bring_image;
use crate::world::World;

/// How many replicas the Deployment of a function wants.
fn replicas(world: &World, function: &str) -> Result<Option<i64>> {
    let selector = format!("functionName={function}");
    let list = world.get(&["deployments", "-l", &selector])?;
    Ok(list["items"][0]["spec"]["replicas"].as_i64())
}

/// From zero to one by a call, back to zero when nobody calls, and up again.
pub fn newdeploy(world: &World) -> Result<()> {
    let text = "def main():\n    return 'Hello from a Deployment'\n";
    let path = code(world, "alone.py", text)?;
    let create = ["fn", "create", "alone", "--env", "python", "--code", &path];
    let scale = ["--executor-type", "newdeploy", "--min-scale", "0"];
    let idle = ["--max-scale", "2", "--idle-timeout", "5s"];
    farplane(world, &[&create[..], &scale, &idle].concat())?;
    for round in ["first", "second"] {
        let answer = farplane(world, &["fn", "test", "alone"])?;
        ensure!(
            answer.contains("Hello from a Deployment"),
            "the {round} time it said {answer:?}"
        );
        ensure!(
            replicas(world, "alone")? == Some(1),
            "it is scaled to {:?} by a call",
            replicas(world, "alone")?
        );
        world.eventually("nobody calls, and it is scaled to zero", MINUTE * 2, || {
            let replicas = replicas(world, "alone")?;
            ensure!(replicas == Some(0), "it is scaled to {replicas:?}");
            Ok(())
        })?;
    }
    farplane(world, &["fn", "delete", "alone", "--yes"])?;
    world.eventually("its Deployment is gone", MINUTE, || {
        let left = replicas(world, "alone")?;
        ensure!(left.is_none(), "it is still there");
        Ok(())
    })
}

/// An image that answers HTTP itself is a function too.
pub fn container(world: &World) -> Result<()> {
    let image = bring_image(world, "test-server")?;
    world.apply(&format!(
        r#"
apiVersion: fission.io/v1
kind: Function
metadata: {{name: web}}
spec:
  InvokeStrategy:
    StrategyType: execution
    ExecutionStrategy: {{ExecutorType: container, MinScale: 1, MaxScale: 1}}
  podspec:
    terminationGracePeriodSeconds: 1
    containers:
    - name: web
      image: {image}
      args: [serve, --port, "8080"]
      ports: [{{containerPort: 8080}}]
"#
    ))?;
    world.eventually("the image answers", MINUTE, || {
        farplane(world, &["fn", "test", "web", "--subpath", "/healthz"])
    })?;
    farplane(world, &["fn", "delete", "web", "--yes"])?;
    Ok(())
}
