//! Processes of plans: what they wait for, what they leave, what outlives them.

use std::collections::BTreeMap;
use std::path::Path;

use farplane_types::{Readiness, Unit, UnitState};

use super::engine::undone;
use super::support::{World, applied, eventually, failure, file, plan, sleeping, until, wanted};
use crate::units::State;

#[tokio::test(flavor = "multi_thread")]
async fn a_process_waits_for_its_paths_and_holds_up_nobody() {
    let world = World::new();
    let engine = world.engine();
    let sleeper = world.sleeper("1");
    let mut waits = sleeping("waits", &sleeper.path("sleeper"), &[]);
    if let Unit::Process { wait_for, .. } = &mut waits {
        wait_for.push(world.text("later"));
    }
    let units = vec![
        sleeper.unit(),
        waits,
        sleeping("goes", &sleeper.path("sleeper"), &[]),
    ];
    engine.want(wanted(1, &plan("small", units)));
    let state = until(&engine, "half ready", |state| {
        matches!(state, State::Report(report) if report.units.len() == 3 && report.units[2].state == UnitState::Ready)
    })
    .await;
    let State::Report(report) = state else {
        panic!("{state:?}")
    };
    assert_eq!(report.units[1].state, UnitState::Waiting);
    assert!(
        report.units[1].message.contains("later") && !report.applied,
        "{report:?}"
    );
    world.runs(1).await;
    std::fs::write(world.path("later"), "").unwrap();
    applied(&engine, 1).await;
    world.runs(2).await;
    undone(&world, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_socket_is_not_waited_for_long_but_a_live_one_is_enough() {
    let world = World::new();
    let engine = world.engine();
    let socket = world.path("socket");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let sleeper = world.sleeper("1");
    let mut waits = sleeping("waits", &sleeper.path("sleeper"), &[]);
    if let Unit::Process {
        wait_for,
        readiness,
        ..
    } = &mut waits
    {
        wait_for.push(world.text("socket"));
        *readiness = Some(Readiness::UnixSocket(world.text("socket")));
    }
    let goes = sleeping("goes", &sleeper.path("sleeper"), &[]);
    engine.want(wanted(1, &plan("small", vec![sleeper.unit(), waits, goes])));
    eventually("the other started", || world.running().len() == 1).await;
    std::fs::remove_file(&socket).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    applied(&engine, 1).await;
    undone(&world, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shims_and_containers_that_left_their_parents_are_ended() {
    let world = World::new();
    let engine = world.engine();
    // A shim: a program of the artifact that nobody is the parent of, with a child from
    // elsewhere that a plain look at programs would not find.
    let shell = std::fs::read("/bin/sh").unwrap();
    let shims = world.artifact("shims", &[file("shim", &shell, 0o755)]);
    engine.want(wanted(1, &plan("small", vec![shims.unit()])));
    applied(&engine, 1).await;
    let container = world.text("container");
    std::fs::copy("/bin/sleep", &container).unwrap();
    let script = format!("{container} infinity & {container} infinity & wait");
    let started = std::process::Command::new("/bin/sh")
        .args([
            "-c",
            "\"$0\" -c \"$1\" >/dev/null 2>&1 &",
            &shims.path("shim"),
            &script,
        ])
        .status();
    assert!(started.unwrap().success());
    eventually("containers run", || world.running().len() == 3).await;
    undone(&world, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_a_process_leaves_go_with_it() {
    let world = World::new();
    let engine = world.engine();
    let sleeper = world.sleeper("1");
    let mut leaves = sleeping("leaves", &sleeper.path("sleeper"), &[]);
    if let Unit::Process {
        remove_after,
        environment,
        ..
    } = &mut leaves
    {
        remove_after.extend([world.text("trace"), world.text("traces")]);
        *environment = BTreeMap::from([("TRACE".to_owned(), "x".to_owned())]);
    }
    engine.want(wanted(1, &plan("small", vec![sleeper.unit(), leaves])));
    applied(&engine, 1).await;
    std::fs::create_dir_all(world.path("traces/deep")).unwrap();
    std::fs::write(world.path("trace"), "").unwrap();
    engine.want(wanted(2, &plan("small", vec![sleeper.unit()])));
    applied(&engine, 2).await;
    assert_eq!(world.running(), Vec::<i32>::new());
    assert!(!world.path("trace").exists() && !world.path("traces").exists());
    undone(&world, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_in_use_outlives_its_plan() {
    let world = World::new();
    let engine = world.engine();
    let old = world.sleeper("1");
    engine.want(wanted(1, &plan("small", vec![old.unit()])));
    applied(&engine, 1).await;
    // As a shim does: nobody's child, still running from the artifact.
    let orphan = std::process::Command::new("/bin/sh")
        .args([
            "-c",
            &format!("{} infinity >/dev/null 2>&1 &", old.path("sleeper")),
        ])
        .status();
    assert!(orphan.unwrap().success());
    let new = world.sleeper("2");
    engine.want(wanted(2, &plan("small", vec![new.unit()])));
    applied(&engine, 2).await;
    let third = world.sleeper("3");
    engine.want(wanted(3, &plan("small", vec![third.unit()])));
    applied(&engine, 3).await;
    eventually("swept", || !Path::new(&new.path("")).exists()).await;
    assert!(Path::new(&old.path("sleeper")).exists());
    world.runs(1).await;
    undone(&world, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_is_told_with_the_reason() {
    let world = World::new();
    let engine = world.engine();
    let mut ends = sleeping("ends", "/bin/false", &[]);
    if let Unit::Process { readiness, .. } = &mut ends {
        *readiness = Some(Readiness::Path(world.text("never")));
    }
    engine.want(wanted(1, &plan("small", vec![ends])));
    let message = failure(&engine, "process/ends").await;
    assert!(
        message.contains("exited with code 1") && message.contains("ends.log"),
        "{message}"
    );
    undone(&world, &engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_another_program_has_is_told() {
    let world = World::new();
    let engine = world.engine();
    let mut ends = sleeping("ends", "/bin/sh", &[]);
    if let Unit::Process {
        readiness, command, ..
    } = &mut ends
    {
        *readiness = Some(Readiness::Path(world.text("never")));
        let line = "echo listen tcp 192.0.2.1:80: bind: address already in use; exit 3";
        *command = ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
    }
    engine.want(wanted(1, &plan("small", vec![ends])));
    let message = failure(&engine, "process/ends").await;
    for words in ["code 3", "192.0.2.1:80 is in use", "ss -ltnp", "ends.log"] {
        assert!(message.contains(words), "{words}: {message}");
    }
    undone(&world, &engine).await;
}
