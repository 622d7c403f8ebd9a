//! One process of the hub, kept running.
//!
//! ```text
//! adopt or start ─> starting ─(check answers)─> ready ─┬─(ends)─> pause ─> start
//!                                                      └─(stop)─> SIGTERM ─> SIGKILL ─> stopped
//! ```
//!
//! One task owns the process and is the only one to change its state. The pause grows
//! with every end, has a cap and jitter, and starts over after a stable run. Output goes
//! straight to a file, so the process does not notice when its supervisor dies; a record
//! with pid and start time lets the next supervisor adopt it.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::files::{Files, write};
use crate::process::ProcessId;
use crate::processes::Component;
use crate::status::ProcessStatus;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A run of this length counts as stable.
const STABLE: Duration = Duration::from_secs(30);
/// Between two questions to a process that is starting, and to one that was ready.
const ASK_STARTING: Duration = Duration::from_millis(50);
const ASK_READY: Duration = Duration::from_secs(5);
/// A log of this size becomes the old log, in bytes.
const LOG_BYTES: u64 = 20 << 20;

/// Handle of a process; dropping it leaves the process running.
pub(crate) struct Child {
    state: watch::Receiver<ProcessStatus>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Child {
    /// Adopts the recorded process, or starts one. `changed` is told of every change.
    pub fn start(component: Component, files: &Files, changed: Arc<Notify>) -> Self {
        let (sender, state) = watch::channel(waiting(&component));
        let stop = CancellationToken::new();
        let owner = Owner {
            record: files.processes().join(format!("{}.json", component.name)),
            log: files.logs().join(format!("{}.log", component.name)),
            component,
            sender,
            changed,
            stop: stop.clone(),
        };
        let task = tokio::spawn(owner.run());
        Self { state, stop, task }
    }

    pub fn status(&self) -> ProcessStatus {
        self.state.borrow().clone()
    }

    /// Ends the process in order and waits for its end.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// Status of a process that was not started yet.
pub(crate) fn waiting(component: &Component) -> ProcessStatus {
    ProcessStatus {
        name: component.name.to_owned(),
        state: "waiting".to_owned(),
        pid: None,
        ready: false,
    }
}

#[derive(Serialize, Deserialize)]
struct Recorded {
    process: ProcessId,
    /// Names the command line: a process with another one is not this one.
    command: String,
}

enum Running {
    Own(ProcessId, Box<tokio::process::Child>),
    Adopted(ProcessId),
}

impl Running {
    fn id(&self) -> ProcessId {
        match self {
            Self::Own(id, _) | Self::Adopted(id) => *id,
        }
    }

    /// Waits for the end and says how it came about.
    async fn wait(&mut self) -> String {
        match self {
            Self::Own(_, child) => match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            Self::Adopted(id) => {
                while id.is_alive() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                "ended while it was adopted".to_owned()
            }
        }
    }
}

struct Owner {
    component: Component,
    record: PathBuf,
    log: PathBuf,
    sender: watch::Sender<ProcessStatus>,
    changed: Arc<Notify>,
    stop: CancellationToken,
}

impl Owner {
    async fn run(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            let end = match self.adopt().await.map_or_else(|| self.spawn(), Ok) {
                Ok(mut running) => {
                    let id = running.id();
                    self.tell("starting", Some(id), false);
                    let end = tokio::select! {
                        end = running.wait() => Some(end),
                        () = self.stop.cancelled() => None,
                        () = self.watch(id) => None,
                    };
                    let Some(end) = end else {
                        self.end(&mut running).await;
                        return;
                    };
                    end
                }
                Err(error) => error.to_string(),
            };
            if begun.elapsed() > STABLE {
                pause = FIRST_PAUSE;
            }
            let jitter = rand::rng().random_range(0.75..1.25);
            tracing::warn!(process = self.component.name, %end, ?pause, "process ended");
            self.tell(&format!("ended ({end})"), None, false);
            tokio::select! {
                () = tokio::time::sleep(pause.mul_f64(jitter)) => {}
                () = self.stop.cancelled() => return self.forget(),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The process of an earlier supervisor. One with another command line is ended.
    async fn adopt(&self) -> Option<Running> {
        let recorded: Recorded = serde_json::from_slice(&std::fs::read(&self.record).ok()?).ok()?;
        if !recorded.process.is_alive() {
            return None;
        }
        let mut running = Running::Adopted(recorded.process);
        if recorded.command == self.command() {
            tracing::info!(
                process = self.component.name,
                pid = recorded.process.pid,
                "adopted"
            );
            return Some(running);
        }
        self.end(&mut running).await;
        None
    }

    fn spawn(&self) -> Result<Running, Error> {
        let log = self.open_log()?;
        let errors = log.try_clone().map_err(Error::file("open", &self.log))?;
        let failed = |source| Error::StartProgram {
            program: self.component.name.to_owned(),
            source,
        };
        let bin = self
            .component
            .program
            .parent()
            .unwrap_or(&self.component.program);
        let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let child = Command::new(&self.component.program)
            .args(&self.component.arguments)
            .env_clear()
            .env("PATH", format!("{}:{usual}", bin.display()))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let id = pid
            .and_then(ProcessId::of)
            .ok_or_else(|| failed(std::io::Error::other("it ended at once")))?;
        let recorded = Recorded {
            process: id,
            command: self.command(),
        };
        let text = serde_json::to_vec(&recorded).unwrap_or_default();
        write(&self.record, &text, 0o600)?;
        Ok(Running::Own(id, Box::new(child)))
    }

    fn command(&self) -> String {
        let program = self.component.program.display().to_string();
        let mut parts = vec![program.as_str()];
        parts.extend(self.component.arguments.iter().map(String::as_str));
        farplane_types::names::digest_id(&parts)
    }

    fn open_log(&self) -> Result<File, Error> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(Error::file("open", &self.log))
    }

    /// Asks again and again whether the process is ready; never ends.
    async fn watch(&self, id: ProcessId) {
        loop {
            let ready = self.component.check.ask().await;
            self.tell(if ready { "ready" } else { "starting" }, Some(id), ready);
            self.bound_log();
            tokio::time::sleep(if ready { ASK_READY } else { ASK_STARTING }).await;
        }
    }

    /// The process appends, so the file can be copied and emptied below it.
    fn bound_log(&self) {
        let long = self.log.metadata().is_ok_and(|meta| meta.len() > LOG_BYTES);
        if long && std::fs::copy(&self.log, self.log.with_extension("log.old")).is_ok() {
            let _ = OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(&self.log);
        }
    }

    async fn end(&self, running: &mut Running) {
        let id = running.id();
        self.tell("stopping", Some(id), false);
        id.signal(Signal::SIGTERM);
        if tokio::time::timeout(self.component.grace, running.wait())
            .await
            .is_err()
        {
            id.signal(Signal::SIGKILL);
            running.wait().await;
        }
        self.forget();
    }

    fn forget(&self) {
        let _ = std::fs::remove_file(&self.record);
        self.tell("stopped", None, false);
    }

    fn tell(&self, state: &str, process: Option<ProcessId>, ready: bool) {
        let pid = process.and_then(|process| u32::try_from(process.pid).ok());
        let changed = self.sender.send_if_modified(|status| {
            let fresh = ProcessStatus {
                name: status.name.clone(),
                state: state.to_owned(),
                pid,
                ready,
            };
            let changed = *status != fresh;
            *status = fresh;
            changed
        });
        if changed {
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::Check;

    fn sleeper(script: &str) -> Component {
        Component {
            name: "sleeper",
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            needs: &[],
            check: Check::Page { port: 1, page: "/" },
            grace: Duration::from_millis(300),
        }
    }

    fn files() -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path());
        std::fs::create_dir_all(files.processes()).unwrap();
        std::fs::create_dir_all(files.logs()).unwrap();
        (dir, files)
    }

    async fn pid(child: &Child) -> i32 {
        let mut state = child.state.clone();
        let status = state.wait_for(|status| status.pid.is_some()).await.unwrap();
        i32::try_from(status.pid.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_killed_process_is_started_again() {
        let (_dir, files) = files();
        let child = Child::start(sleeper("exec sleep 1000"), &files, Arc::default());
        let first = pid(&child).await;
        ProcessId::of(first).unwrap().signal(Signal::SIGKILL);
        let other = |status: &ProcessStatus| status.pid.is_some_and(|pid| pid as i32 != first);
        let second = child
            .state
            .clone()
            .wait_for(other)
            .await
            .unwrap()
            .pid
            .unwrap();
        child.stop().await;
        assert_eq!(ProcessId::of(second as i32), None);
    }

    #[tokio::test]
    async fn a_survivor_is_adopted_and_one_of_another_command_replaced() {
        let (_dir, files) = files();
        let first = Child::start(sleeper("exec sleep 1000"), &files, Arc::default());
        let survivor = pid(&first).await;
        first.task.abort();
        let second = Child::start(sleeper("exec sleep 1000"), &files, Arc::default());
        assert_eq!(pid(&second).await, survivor);
        second.task.abort();
        let third = Child::start(sleeper("exec sleep 2000"), &files, Arc::default());
        let other = |status: &ProcessStatus| status.pid.is_some_and(|pid| pid as i32 != survivor);
        third.state.clone().wait_for(other).await.unwrap();
        assert_eq!(ProcessId::of(survivor), None);
        third.stop().await;
    }

    #[tokio::test]
    async fn a_process_that_ignores_sigterm_is_killed() {
        let (_dir, files) = files();
        let script = "trap '' TERM; echo deaf; while :; do sleep 1; done";
        let child = Child::start(sleeper(script), &files, Arc::default());
        let deaf = pid(&child).await;
        let log = files.logs().join("sleeper.log");
        while std::fs::read_to_string(&log).unwrap_or_default().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        child.stop().await;
        assert_eq!(ProcessId::of(deaf), None);
        assert!(!files.processes().join("sleeper.json").exists());
    }
}
