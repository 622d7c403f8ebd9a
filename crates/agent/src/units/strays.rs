//! Processes that run from artifacts, and everything that descends from them.
//!
//! Containers are children of shims, and a shim is a program of an artifact that outlives
//! containerd on purpose. So what is left of a plane is found by what it runs, in this
//! mount namespace, and by descent: it needs no record and cannot be forgotten. Processes
//! of another agent on the same machine, such as one in a container, have another mount
//! namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

/// Time that killed processes may take to be gone.
const LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Processes that did not go.
#[derive(Debug, thiserror::Error)]
#[error(
    "processes {pids:?} do not end although killed, check what they wait for (ps -o pid,stat,wchan)"
)]
pub struct Error {
    /// Their ids.
    pub pids: Vec<i32>,
}

/// One process, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    parent: i32,
    /// Artifact that it runs from.
    artifact: Option<String>,
}

/// Digests of the artifacts that something still runs from.
pub fn artifacts_in_use(artifacts: &Path) -> BTreeSet<String> {
    scan(artifacts)
        .into_values()
        .filter_map(|process| process.artifact)
        .collect()
}

/// Kills every process that runs from an artifact, with its descendants.
///
/// # Errors
/// When some do not end in time.
pub async fn end(artifacts: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let doomed = stop_all(artifacts);
        if doomed.is_empty() {
            return Ok(());
        }
        for &pid in &doomed {
            signal(pid, Signal::SIGKILL);
        }
        while doomed.iter().any(|&pid| is_alive(pid)) {
            if Instant::now() > deadline {
                let pids = doomed.into_iter().filter(|&pid| is_alive(pid)).collect();
                return Err(Error { pids });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Stops them, until none is new: one that was started meanwhile would lose its parent,
/// and with it the only sign that it is ours.
fn stop_all(artifacts: &Path) -> BTreeSet<i32> {
    let mut stopped = BTreeSet::new();
    loop {
        let found = family(&scan(artifacts), &own_line());
        let new: Vec<_> = found.difference(&stopped).copied().collect();
        if new.is_empty() {
            return stopped;
        }
        for pid in new {
            signal(pid, Signal::SIGSTOP);
            stopped.insert(pid);
        }
    }
}

/// Those that run from artifacts and their descendants, without this agent and those
/// above it.
fn family(all: &BTreeMap<i32, Process>, spared: &BTreeSet<i32>) -> BTreeSet<i32> {
    let runs = |process: &Process| process.artifact.is_some();
    let mut found = BTreeSet::new();
    for &pid in all.keys() {
        let mut line = Vec::new();
        let mut next = pid;
        while let Some(process) = all.get(&next) {
            if line.contains(&next) {
                break;
            }
            line.push(next);
            if runs(process) {
                found.extend(line.iter().copied());
            }
            next = process.parent;
        }
    }
    found.retain(|pid| !spared.contains(pid));
    found
}

/// This process and its ancestors.
fn own_line() -> BTreeSet<i32> {
    let mut line = BTreeSet::new();
    let mut next = Pid::this().as_raw();
    while next > 0 && line.insert(next) {
        next = parent(next).unwrap_or(0);
    }
    line
}

fn scan(artifacts: &Path) -> BTreeMap<i32, Process> {
    let namespace = fs::read_link("/proc/self/ns/mnt").ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let parent = parent(pid)?;
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok();
        let artifact = exe
            .and_then(|exe| artifact_of(&exe, artifacts))
            .filter(|_| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() == namespace);
        Some((pid, Process { parent, artifact }))
    })
    .collect()
}

/// Also of a program whose file was removed.
fn artifact_of(exe: &Path, artifacts: &Path) -> Option<String> {
    let relative: PathBuf = exe.strip_prefix(artifacts).ok()?.into();
    let digest = relative
        .components()
        .next()?
        .as_os_str()
        .to_string_lossy()
        .into_owned();
    Some(digest)
}

/// Parent of a process that has not ended.
fn parent(pid: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(parent)
}

fn is_alive(pid: i32) -> bool {
    parent(pid).is_some()
}

fn signal(pid: i32, signal: Signal) {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => tracing::warn!(pid, %signal, %error, "failed to signal a stray process"),
    }
}
