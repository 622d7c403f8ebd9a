//! An agent killed at every step of its work, and started again.
//!
//! The engine runs in a process of its own, which ends itself by SIGKILL at the n-th step,
//! for every n until it comes to its end.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};

use farplane_types::{HostPlanSpec, Unit};

use super::support::{
    World, applied, clean, cleanup, directory, eventually, plan, sleeping, text_file, wanted,
};
use crate::units::{Engine, Wanted};

/// Number of steps until the end.
const KILL_AT: &str = "FARPLANE_TEST_KILL_AT";
/// State directory of the engine in the other process.
const STATE_DIR: &str = "FARPLANE_TEST_STATE_DIR";
/// File with the plan that it is to make true; absent: undo.
const PLAN: &str = "FARPLANE_TEST_PLAN";

static LEFT: LazyLock<AtomicI64> = LazyLock::new(|| {
    let given = std::env::var(KILL_AT)
        .ok()
        .and_then(|text| text.parse().ok());
    AtomicI64::new(given.unwrap_or(i64::MAX))
});

/// Called by the engine between its steps.
pub fn boundary() {
    if LEFT.fetch_sub(1, Ordering::SeqCst) == 0 {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test that kills it"]
async fn engine_of_another_process() {
    let state_dir = PathBuf::from(std::env::var(STATE_DIR).unwrap());
    let hub = std::sync::Arc::new(super::support::Hub::default());
    for entry in std::fs::read_dir(state_dir.with_file_name("hub"))
        .unwrap()
        .flatten()
    {
        let sha256 = entry.file_name().to_str().unwrap().to_owned();
        hub.serve(&sha256, std::fs::read(entry.path()).unwrap());
    }
    let engine = Engine::start(&state_dir, hub).unwrap();
    match std::env::var(PLAN) {
        Ok(path) => {
            let spec: HostPlanSpec = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            engine.want(wanted(1, &spec.into()));
            applied(&engine, 1).await;
        }
        Err(_) => {
            engine.want(Wanted::Nothing);
            clean(&engine).await;
        }
    }
    engine.stop().await;
}

/// Runs an engine in another process. False: it was killed on the way.
fn comes_to_its_end(world: &World, plan: Option<&HostPlanSpec>, kill_at: i64) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "units::tests::kill::engine_of_another_process",
        "--include-ignored",
    ]);
    command
        .env(STATE_DIR, world.state_dir())
        .env(KILL_AT, kill_at.to_string());
    command.env_remove(PLAN);
    if let Some(plan) = plan {
        let path = world.path("wanted.json");
        std::fs::write(&path, serde_json::to_vec(plan).unwrap()).unwrap();
        command.env(PLAN, path);
    }
    let output = command.output().unwrap();
    let killed = output.status.signal() == Some(9);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        killed || (output.status.success() && text.contains("1 passed")),
        "step {kill_at}: {output:?}"
    );
    !killed
}

/// Kills it at each step, each time with the next agent going on from what is there.
fn killed_at_every_step(world: &World, plan: Option<&HostPlanSpec>) -> i64 {
    (0..)
        .find(|&step| comes_to_its_end(world, plan, step))
        .unwrap()
}

fn version(world: &World, version: &str) -> HostPlanSpec {
    let sleeper = world.sleeper(version);
    let hub = world.path("hub");
    std::fs::create_dir_all(&hub).unwrap();
    world.hub.save(&hub);
    let config = world.text("plane/config");
    let mut clean = cleanup();
    if let Unit::Cleanup { directories, .. } = &mut clean {
        directories.push(world.text("left/behind"));
    }
    let mut units = vec![
        sleeper.unit(),
        directory(&world.text("plane")),
        text_file(&config, version),
        text_file(&world.text(&format!("plane/only-{version}")), version),
        sleeping("fixed", &world.text("sleeper"), &[]),
        sleeping("one", &sleeper.path("sleeper"), &[format!("file{config}")]),
        clean,
    ];
    if version == "1" {
        units.push(sleeping("dropped", &sleeper.path("sleeper"), &[]));
    }
    (*plan("killed", units)).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_at_any_step_loses_nothing() {
    let world = World::new();
    std::fs::copy("/bin/sleep", world.path("sleeper")).unwrap();
    let (one, two) = (version(&world, "1"), version(&world, "2"));

    let steps = killed_at_every_step(&world, Some(&one));
    assert!(steps > 5, "{steps}");
    let first = world.runs(3).await;
    assert_eq!(
        std::fs::read_to_string(world.path("plane/config")).unwrap(),
        "1"
    );

    let steps = killed_at_every_step(&world, Some(&two));
    assert!(steps > 5, "{steps}");
    let second = world.runs(2).await;
    let kept: Vec<_> = second.iter().filter(|pid| first.contains(pid)).collect();
    assert_eq!(
        kept.len(),
        1,
        "only what did not change runs on: {first:?} {second:?}"
    );
    assert_eq!(
        std::fs::read_to_string(world.path("plane/config")).unwrap(),
        "2"
    );
    // The last agent may have ended between its report and the removal.
    let engine = world.engine();
    eventually("tidied", || !world.path("plane/only-1").exists()).await;
    engine.stop().await;
    assert!(world.path("plane/only-2").exists());
    assert_eq!(world.running(), second);

    std::fs::create_dir_all(world.path("left/behind/deep")).unwrap();
    let steps = killed_at_every_step(&world, None);
    assert!(steps > 5, "{steps}");
    assert_eq!(world.left(), Vec::<String>::new());
    assert_eq!(world.running(), Vec::<i32>::new());
    assert!(!world.path("plane").exists() && !world.path("left/behind").exists());
}
