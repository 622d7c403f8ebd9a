//! Real processes, supervised by supervisors that die.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::launch::launch;
use crate::record::{self, Record};
use crate::running::Running;
use crate::*;

/// Longer than any step on a busy machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Places of one test, and the end of all that was started in them.
struct World {
    _dir: tempfile::TempDir,
    places: Places,
}

impl Drop for World {
    fn drop(&mut self) {
        for survivor in mark::survivors(&self.places.records) {
            survivor.process.signal(Signal::SIGKILL);
        }
    }
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let places = Places {
            records: dir.path().join("records"),
            logs: dir.path().join("logs"),
        };
        Self { _dir: dir, places }
    }

    fn start(&self, program: Program) -> Child {
        Child::start(program, &self.places, Arc::default())
    }

    fn record(&self, name: &str) -> PathBuf {
        self.places.records.join(format!("{name}.json"))
    }

    fn said(&self, name: &str) -> String {
        fs::read_to_string(self.places.logs.join(format!("{name}.log"))).unwrap_or_default()
    }

    /// A process as a supervisor leaves it that dies between start and record.
    async fn orphan(&self, program: &Program) -> ProcessId {
        let running = launch(program, &self.places).unwrap();
        fs::remove_file(self.record(&program.name)).unwrap();
        eventually(|| !self.said(&program.name).is_empty()).await;
        running.id()
    }
}

/// A shell that says that it runs and then does as told.
fn shell(name: &str, script: &str) -> Program {
    let script = format!("echo on; {script}");
    Program {
        name: name.to_owned(),
        command: ["/bin/sh", "-c", &script].map(str::to_owned).to_vec(),
        environment: BTreeMap::new(),
        check: None,
        grace: PATIENCE,
    }
}

fn sleeper() -> Program {
    shell("sleeper", "exec sleep 1000")
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("waited too long");
}

async fn status(child: &Child, wanted: impl FnMut(&Status) -> bool) -> Status {
    let mut watch: watch::Receiver<Status> = child.watch();
    let found = tokio::time::timeout(PATIENCE, watch.wait_for(wanted)).await;
    match found {
        Ok(status) => status.unwrap().clone(),
        Err(_) => panic!("waited too long: {:?}", child.status()),
    }
}

async fn ready(child: &Child) -> ProcessId {
    let status = status(child, |status| status.ready).await;
    ProcessId::of(status.pid.unwrap()).unwrap()
}

#[tokio::test]
async fn a_program_is_in_a_session_of_its_own_with_no_other_environment() {
    let world = World::new();
    let mut program = shell("p", "env; ps -o sid= -p $$; exec sleep 1000");
    program
        .environment
        .insert("WORD".to_owned(), "a b".to_owned());
    let child = world.start(program);
    let id = ready(&child).await;
    let sid = id.pid.to_string();
    eventually(|| world.said("p").lines().any(|line| line.trim() == sid)).await;
    let said = world.said("p");
    let names: BTreeSet<&str> = said
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .collect();
    // The shell's own, beside ours.
    let own = ["PWD", "OLDPWD", "SHLVL", "_"];
    let rest: Vec<_> = names
        .into_iter()
        .filter(|name| !own.contains(name))
        .collect();
    let ours = [
        "FARPLANE_SUPERVISED",
        "FARPLANE_SUPERVISED_DIGEST",
        "FARPLANE_SUPERVISED_PID",
    ];
    assert_eq!(rest, [&ours[..], &["PATH", "WORD"]].concat());
    assert!(said.contains("WORD=a b\n"));
    child.stop().await;
}

#[tokio::test]
async fn a_survivor_is_adopted_and_stays_recorded() {
    let world = World::new();
    let first = world.start(sleeper());
    let survivor = ready(&first).await;
    first.detach();
    assert!(world.record("sleeper").exists());
    let second = world.start(sleeper());
    assert_eq!(ready(&second).await, survivor);
    assert_eq!(second.status().restarts, 0);
    drop(second);
    let third = world.start(sleeper());
    assert_eq!(ready(&third).await, survivor);
    third.stop().await;
    assert!(!survivor.is_alive());
    assert!(!world.record("sleeper").exists());
}

#[tokio::test]
async fn an_adopted_process_that_is_killed_is_started_again() {
    let world = World::new();
    let first = world.start(sleeper());
    let survivor = ready(&first).await;
    first.detach();
    let second = world.start(sleeper());
    assert_eq!(ready(&second).await, survivor);
    survivor.signal(Signal::SIGKILL);
    let again = status(&second, |status| status.restarts == 1 && status.ready).await;
    assert_eq!(again.last_exit, Some(Exit::Unseen));
    second.stop().await;
}

#[tokio::test]
async fn another_command_or_environment_replaces_the_process() {
    let world = World::new();
    let first = world.start(sleeper());
    let old = ready(&first).await;
    first.detach();
    let mut changed = sleeper();
    changed.environment.insert("A".to_owned(), "b".to_owned());
    let second = world.start(changed);
    let new = ready(&second).await;
    assert_ne!(new, old);
    assert!(!old.is_alive());
    second.detach();
    let third = world.start(shell("sleeper", "exec sleep 2000"));
    ready(&third).await;
    assert!(!new.is_alive());
    third.stop().await;
}

#[tokio::test]
async fn a_reused_pid_is_neither_adopted_nor_ended() {
    let world = World::new();
    let mut stranger = tokio::process::Command::new("sleep")
        .arg("1000")
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let id = ProcessId::of(stranger.id().unwrap() as i32).unwrap();
    let stale = ProcessId {
        start: id.start - 1,
        ..id
    };
    fs::create_dir_all(&world.places.records).unwrap();
    for digest in [launch::digest(&sleeper()), "another".to_owned()] {
        Record::new(stale, &digest)
            .save(&world.places.records, "sleeper")
            .unwrap();
        let child = world.start(sleeper());
        assert_ne!(ready(&child).await, id);
        child.stop().await;
        Record::new(stale, &digest)
            .save(&world.places.records, "sleeper")
            .unwrap();
        end_recorded(&world.places, &BTreeSet::new(), PATIENCE).await;
        assert!(!world.record("sleeper").exists());
        assert!(id.is_alive());
    }
    stranger.kill().await.unwrap();
}

#[tokio::test]
async fn an_orphan_without_a_record_is_adopted_and_recorded() {
    let world = World::new();
    let orphan = world.orphan(&sleeper()).await;
    let child = world.start(sleeper());
    assert_eq!(ready(&child).await, orphan);
    assert_eq!(record::names(&world.places.records), ["sleeper"]);
    child.stop().await;
    assert!(!orphan.is_alive());
}

#[tokio::test]
async fn an_orphan_with_another_command_is_ended_first() {
    let world = World::new();
    let orphan = world.orphan(&shell("sleeper", "exec sleep 2000")).await;
    let child = world.start(sleeper());
    assert_ne!(ready(&child).await, orphan);
    assert!(!orphan.is_alive());
    child.stop().await;
}

#[tokio::test]
async fn of_two_orphans_one_is_adopted_and_the_other_ended() {
    let world = World::new();
    let orphans = [
        world.orphan(&sleeper()).await,
        world.orphan(&sleeper()).await,
    ];
    let child = world.start(sleeper());
    let adopted = ready(&child).await;
    let alive: Vec<_> = orphans.into_iter().filter(|one| one.is_alive()).collect();
    assert_eq!(alive, [adopted]);
    child.stop().await;
}

#[tokio::test]
async fn what_a_program_started_outlives_it_and_is_not_taken_for_it() {
    let world = World::new();
    // As a shim of containerd: the same environment, and a session of its own.
    let script = "setsid sleep 1000 & echo $! >$0.new; mv $0.new $0; exec sleep 2000";
    let mut program = shell("p", script);
    let file = world.places.records.join("started");
    program.command.push(file.display().to_string());
    let child = world.start(program.clone());
    let first = ready(&child).await;
    eventually(|| file.exists()).await;
    let text = fs::read_to_string(&file).unwrap();
    let shim = ProcessId::of(text.trim().parse().unwrap()).unwrap();
    child.stop().await;
    assert!(shim.is_alive(), "only the process itself is ended");
    assert!(!first.is_alive());
    let again = world.start(program);
    assert_ne!(ready(&again).await, shim);
    again.stop().await;
    end_recorded(&world.places, &BTreeSet::new(), PATIENCE).await;
    assert!(shim.is_alive());
    let marked = format!(
        "FARPLANE_SUPERVISED={}",
        world.places.records.join("p").display()
    );
    let inherited = |proc: &std::path::Path| {
        let all = fs::read(proc.join("environ")).unwrap_or_default();
        all.split(|byte| *byte == 0)
            .any(|one| one == marked.as_bytes())
    };
    let left = find(inherited);
    assert!(left.contains(&shim), "it does have the mark");
    for process in left {
        process.signal(Signal::SIGKILL);
    }
}

#[tokio::test]
async fn a_killed_process_is_started_again_and_how_it_ended_is_told() {
    let world = World::new();
    let child = world.start(sleeper());
    let first = ready(&child).await;
    assert_eq!(child.status().last_exit, None);
    first.signal(Signal::SIGKILL);
    let again = status(&child, |status| status.restarts == 1 && status.ready).await;
    assert_eq!(again.last_exit, Some(Exit::Signal(Signal::SIGKILL as i32)));
    assert_ne!(again.pid, Some(first.pid));
    child.stop().await;
}

#[tokio::test]
async fn a_program_that_ends_at_once_is_tried_again_and_its_code_told() {
    let world = World::new();
    let child = world.start(shell("p", "exit 7"));
    let later = status(&child, |status| status.restarts >= 2).await;
    assert_eq!(later.last_exit, Some(Exit::Code(7)));
    child.stop().await;
    assert!(!world.record("p").exists());
}

#[tokio::test]
async fn a_program_that_cannot_start_says_why_and_starts_once_it_can() {
    let world = World::new();
    let mut program = sleeper();
    let link = world.places.records.join("program");
    program.command = vec![link.display().to_string(), "1000".to_owned()];
    let child = world.start(program);
    let failed = status(&child, |status| status.state == State::Ended).await;
    let why = failed.last_exit.unwrap().to_string();
    assert!(why.contains(&link.display().to_string()), "{why}");
    fs::create_dir_all(&world.places.records).unwrap();
    std::os::unix::fs::symlink("/bin/sleep", &link).unwrap();
    ready(&child).await;
    child.stop().await;

    let mut named = sleeper();
    named.name = "../sleeper".to_owned();
    let child = world.start(named);
    let refused = status(&child, |status| status.state == State::Stopped).await;
    assert!(
        refused
            .last_exit
            .unwrap()
            .to_string()
            .contains("../sleeper")
    );
    child.stop().await;
}

#[tokio::test]
async fn a_deaf_process_is_killed_at_a_stop() {
    let world = World::new();
    let mut program = shell("deaf", "trap '' TERM; echo deaf; exec sleep 1000");
    program.grace = Duration::from_millis(100);
    let child = world.start(program);
    let deaf = ready(&child).await;
    eventually(|| world.said("deaf").contains("deaf")).await;
    child.stop().await;
    assert!(!deaf.is_alive());
    assert!(!world.record("deaf").exists());
}

#[tokio::test]
async fn a_stop_ends_the_process_of_an_earlier_supervisor_too() {
    let world = World::new();
    let first = world.start(sleeper());
    let survivor = ready(&first).await;
    first.detach();
    // The task has not run yet when it is told to stop.
    world.start(sleeper()).stop().await;
    assert!(!survivor.is_alive());
    assert!(!world.record("sleeper").exists());
}

/// Answers what a test wants it to.
#[derive(Debug)]
struct Switch(watch::Receiver<bool>);

impl Probe for Switch {
    fn ask(&self) -> BoxFuture<'_, bool> {
        let answer = *self.0.borrow();
        Box::pin(std::future::ready(answer))
    }
}

#[tokio::test]
async fn a_process_is_ready_as_long_as_its_check_says_so() {
    let world = World::new();
    let (switch, answer) = watch::channel(false);
    let mut program = sleeper();
    program.check = Some(Check::Custom(Arc::new(Switch(answer))));
    let child = world.start(program);
    let begun = status(&child, |status| status.pid.is_some()).await;
    assert_eq!((begun.state, begun.ready), (State::Starting, false));
    switch.send_replace(true);
    let begun = status(&child, |status| status.ready).await;
    assert_eq!(begun.state, State::Ready);
    switch.send_replace(false);
    let failing = status(&child, |status| !status.ready).await;
    assert_eq!(failing.state, State::Failing);
    assert_eq!(failing.pid, begun.pid, "that alone is no reason to end it");
    switch.send_replace(true);
    ready(&child).await;
    child.stop().await;
}

#[tokio::test]
async fn every_recorded_process_but_the_kept_is_ended() {
    let world = World::new();
    let mut running = Vec::new();
    for name in ["kept", "gone"] {
        let child = world.start(shell(name, "exec sleep 1000"));
        running.push(ready(&child).await);
        child.detach();
    }
    let mut deaf = shell("deaf", "trap '' TERM; echo deaf; exec sleep 1000");
    deaf.grace = Duration::ZERO;
    running.push(world.orphan(&deaf).await);
    eventually(|| world.said("deaf").contains("deaf")).await;
    let keep = BTreeSet::from(["kept".to_owned()]);
    assert_eq!(recorded(&world.places).len(), 3);
    end_recorded(&world.places, &keep, Duration::from_millis(500)).await;
    let alive: Vec<_> = running.iter().map(|one| one.is_alive()).collect();
    assert_eq!(alive, [true, false, false]);
    assert_eq!(recorded(&world.places), keep);
    end_recorded(&world.places, &BTreeSet::new(), PATIENCE).await;
    assert!(!running[0].is_alive());
    assert!(recorded(&world.places).is_empty());
}

#[tokio::test]
async fn a_long_log_of_a_running_process_is_bounded() {
    let world = World::new();
    let path = world.places.logs.join("p.log");
    fs::create_dir_all(&world.places.logs).unwrap();
    // Sparse, so that it costs nothing.
    fs::File::create(&path)
        .unwrap()
        .set_len(log::BYTES + 1)
        .unwrap();
    let child = world.start(shell("p", "exec sleep 1000"));
    let old = world.places.logs.join("p.log.old");
    eventually(|| path.metadata().unwrap().len() < log::BYTES).await;
    assert!(old.metadata().unwrap().len() <= log::BYTES);
    child.stop().await;
}

#[tokio::test]
async fn a_lost_directory_does_not_keep_a_program_from_running() {
    let world = World::new();
    let child = world.start(sleeper());
    let survivor = ready(&child).await;
    child.detach();
    fs::remove_dir_all(&world.places.records).unwrap();
    let child = world.start(sleeper());
    assert_eq!(ready(&child).await, survivor);
    child.stop().await;
    assert!(!Running::Adopted(survivor).id().is_alive());
}
