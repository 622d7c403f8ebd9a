//! Processes of a plan. They outlive the agent; the next one adopts them.
//!
//! Places: records in `<state_dir>/agent/processes`, logs in `<state_dir>/logs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use farplane_supervise::{Check, Child, Places, Program, State};
use farplane_types::{Readiness, Unit, UnitState};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::complaint;
use super::outside::Outside;

/// Time that a process has to end by itself.
const GRACE: Duration = Duration::from_secs(10);
/// Variable with the digest of the unit that a process was started from.
const DIGEST: &str = "FARPLANE_UNIT";
const STUCK: &str = "does not end although killed, check what it waits for (ps -o pid,stat,wchan)";
/// Pause between looks at paths that are waited for: short at first, since most come soon.
const POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// Children of this agent, by name.
#[derive(Debug)]
pub struct Processes {
    places: Places,
    changed: Arc<Notify>,
    children: BTreeMap<String, Running>,
    outside: Option<Outside>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    digest: String,
}

impl Processes {
    /// No children yet; what runs from before is adopted when it is started.
    pub fn new(state_dir: &Path, outside: Option<Outside>) -> Self {
        Self {
            places: Places {
                records: state_dir.join("agent/processes"),
                logs: state_dir.join("logs"),
            },
            changed: Arc::new(Notify::new()),
            children: BTreeMap::new(),
            outside,
        }
    }

    /// A child changed its state.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// A process of this name is supervised, and is what the digest says.
    pub fn runs(&self, name: &str, digest: &str) -> bool {
        self.children
            .get(name)
            .is_some_and(|running| running.digest == digest)
    }

    /// Starts a process, or adopts it when what runs is what the digest says. What else
    /// runs by this name is ended first, whoever started it.
    pub fn start(&mut self, unit: &Unit, digest: &str) {
        let Some(mut program) = program(unit, digest) else {
            return;
        };
        if let Some(outside) = &self.outside {
            outside.add_to(&mut program.environment);
        }
        let name = program.name.clone();
        let child = Child::start(program, &self.places, self.changed.clone());
        self.children.insert(
            name,
            Running {
                child,
                digest: digest.to_owned(),
            },
        );
    }

    /// Ends what this agent runs by this name, when it is not what the digest says.
    pub fn end_replaced(
        &mut self,
        name: &str,
        digest: &str,
    ) -> impl Future<Output = ()> + Send + use<> {
        let replaced = self
            .children
            .remove(name)
            .filter(|running| running.digest != digest);
        async move {
            if let Some(running) = replaced {
                running.child.stop().await;
            }
        }
    }

    /// Ends a process, whether this agent started it or an earlier one.
    pub fn end(&mut self, name: &str) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let running = self.children.remove(name);
        let places = self.places.clone();
        let name = name.to_owned();
        async move {
            if let Some(running) = running {
                running.child.stop().await;
            }
            let mut others = farplane_supervise::recorded(&places);
            if others.remove(&name) {
                farplane_supervise::end_recorded(&places, &others, GRACE).await;
            }
            match farplane_supervise::recorded(&places).contains(&name) {
                false => Ok(()),
                true => Err(format!("{name} {STUCK}")),
            }
        }
    }

    /// Ends every process that an agent of this directory started.
    ///
    /// # Errors
    /// In words, when one does not end.
    pub async fn end_all(&mut self) -> Result<(), String> {
        while let Some((_, running)) = self.children.pop_last() {
            running.child.stop().await;
        }
        farplane_supervise::end_recorded(&self.places, &BTreeSet::new(), GRACE).await;
        let left: Vec<_> = farplane_supervise::recorded(&self.places)
            .into_iter()
            .collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{} {STUCK}", left.join(", ")))
        }
    }

    /// What a report says of a process that was started.
    pub fn state(&self, name: &str) -> (UnitState, String) {
        let Some(running) = self.children.get(name) else {
            return (UnitState::Waiting, String::new());
        };
        let status = running.child.status();
        let log = status.log.display();
        let last = status.last_exit.map(|exit| {
            // The end of a file of this machine: short enough for this thread.
            let why = complaint::of(&status.log).map(|why| format!(": {why}"));
            format!(
                "; the last one {exit}{}, see {log}",
                why.unwrap_or_default()
            )
        });
        let last = last.unwrap_or_default();
        let pid = status.pid.unwrap_or_default();
        match status.state {
            _ if status.ready => (UnitState::Ready, String::new()),
            State::Waiting | State::Stopping | State::Stopped | State::Ready => {
                (UnitState::Applying, format!("is {}", status.state))
            }
            State::Starting if last.is_empty() => (
                UnitState::Applying,
                format!("runs as {pid}, not ready yet; see {log}"),
            ),
            State::Starting => {
                let times = status.restarts;
                (
                    UnitState::Failed,
                    format!("started again {times} times, not ready yet{last}"),
                )
            }
            State::Failing => (
                UnitState::Failed,
                format!("runs as {pid} but does not answer; see {log}"),
            ),
            State::Ended => (UnitState::Failed, format!("does not run{last}")),
        }
    }

    /// Lets every process run on, for the next agent to adopt.
    pub fn detach(&mut self) {
        for running in std::mem::take(&mut self.children).into_values() {
            running.child.detach();
        }
    }

    /// Removes the logs of a process that is gone.
    pub fn forget_logs(&self, name: &str) {
        let entries = fs::read_dir(&self.places.logs)
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries {
            let file = entry.file_name().to_string_lossy().into_owned();
            let rest = file.strip_prefix(name);
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(".log")) {
                // Bounded in size; one that stays does no harm.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Removes the directories of records and logs, when nothing is in them.
    pub fn forget(&self) {
        for directory in [&self.places.records, &self.places.logs] {
            let _ = fs::remove_dir(directory);
        }
    }
}

fn program(unit: &Unit, digest: &str) -> Option<Program> {
    let Unit::Process {
        name,
        command,
        environment,
        readiness,
        ..
    } = unit
    else {
        return None;
    };
    let mut environment = environment.clone();
    // Another environment is another program, so that no record is needed of what a
    // running one was started from: an agent killed after it wrote a file and before the
    // restart leads to the restart.
    environment.insert(DIGEST.to_owned(), digest.to_owned());
    let check = readiness.as_ref().and_then(|readiness| match readiness {
        // Checked when the plan came.
        Readiness::Tcp(address) => address.parse().ok().map(Check::Tcp),
        Readiness::UnixSocket(path) => Some(Check::UnixSocket(PathBuf::from(path))),
        Readiness::Http(url) => Some(Check::Http(url.clone())),
        Readiness::Path(path) => Some(Check::Path(PathBuf::from(path))),
    });
    Some(Program {
        name: name.clone(),
        command: command.clone(),
        environment,
        check,
        grace: GRACE,
    })
}

/// Waits until every path is there. False: cancelled.
///
/// A socket is there when somebody listens: a reboot leaves sockets of the dead.
pub async fn wait_for(paths: &[String], cancel: &CancellationToken) -> bool {
    let (mut pause, longest) = POLL;
    for path in paths {
        while !is_there(Path::new(path)).await {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = cancel.cancelled() => return false,
            }
            pause = (pause + pause / 16).min(longest);
        }
    }
    !cancel.is_cancelled()
}

async fn is_there(path: &Path) -> bool {
    let Ok(found) = fs::metadata(path) else {
        return false;
    };
    if !found.file_type().is_socket() {
        return true;
    }
    let refused = |error: io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
        )
    };
    !UnixStream::connect(path).await.is_err_and(refused)
}
