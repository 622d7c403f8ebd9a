//! `farplane down` and `farplane down --purge`.
//!
//! The processes of a hub are those in its cgroup subtree and those in its network
//! namespace; both are known from its name, so a damaged or missing record leaves none
//! behind. The namespace's file keeps its number from meaning another one.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use farplane_supervise::{self as process, ProcessId, Signal};

use crate::error::Error;
use crate::files::Files;
use crate::name::HubName;
use crate::record::{Lock, Record};
use crate::up::Step;
use crate::{Event, Progress, cgroup, network};

/// What the supervisor takes at most to stop its processes in order.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// What containers get between the request to end and the end.
const CONTAINER_GRACE: Duration = Duration::from_secs(5);
const KILL_TIMEOUT: Duration = Duration::from_secs(15);

/// Stops the hub in order and keeps its state.
///
/// # Errors
/// When there is no such hub, or something of it would not end.
pub async fn down(name: &HubName, progress: &dyn Fn(Event)) -> Result<(), Error> {
    let files = Files::new(name.default_state_dir());
    let _lock = lock(name, &files, progress).await?;
    let mut record = Record::load(&files)?.ok_or_else(|| no_such(name))?;
    let step = Step::begin(
        progress,
        "processes",
        "stopping the hub's processes in order",
    );
    if let Some(supervisor) = record.supervisor {
        stop_supervisor(supervisor).await;
    }
    step.done();
    let step = Step::begin(progress, "pods", "stopping what runs in Pods");
    let pods = format!("{}/kubepods", name.cgroup());
    let containers = || process::find(|proc| process::in_cgroup(proc, &pods));
    end(&containers, Signal::SIGTERM, CONTAINER_GRACE).await;
    step.done();
    clear(name, &mut record, &files, progress).await?;
    record.save(&files)
}

/// Removes the hub and every trace of it. A hub that does not exist is fine.
///
/// # Errors
/// When something of it would not go away.
pub async fn purge(name: &HubName, progress: &dyn Fn(Event)) -> Result<(), Error> {
    let files = Files::new(name.default_state_dir());
    let lock = match lock(name, &files, progress).await {
        Ok(lock) => Some(lock),
        Err(Error::NoSuchHub { .. }) => None,
        Err(other) => return Err(other),
    };
    // The name is enough to find everything.
    let record = Record::load(&files).ok().flatten();
    let mut record = record.unwrap_or_else(|| Record::empty(name));
    if let Some(supervisor) = record.supervisor {
        supervisor.signal(Signal::SIGKILL);
    }
    clear(name, &mut record, &files, progress).await?;
    if lock.is_some() {
        let step = Step::begin(progress, "files", "removing the hub's files");
        remove_state(&files.state)?;
        step.done();
    }
    if let Some(parent) = files.state.parent() {
        // Only when no other hub is in it.
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

fn no_such(name: &HubName) -> Error {
    Error::NoSuchHub {
        name: name.to_string(),
    }
}

async fn lock(name: &HubName, files: &Files, progress: Progress<'_>) -> Result<Lock, Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let waiting = || {
        progress(Event::Waiting {
            name: "lock".to_owned(),
            for_what: "another command on this hub".to_owned(),
        });
    };
    match Lock::take(&files.state, false, waiting).await {
        Err(Error::File { .. }) if !files.state.exists() => Err(no_such(name)),
        other => other,
    }
}

/// Asks the supervisor for an ordered stop and waits for its end.
pub(crate) async fn stop_supervisor(supervisor: ProcessId) {
    supervisor.signal(Signal::SIGTERM);
    let started = Instant::now();
    while supervisor.is_alive() {
        if started.elapsed() > STOP_TIMEOUT {
            supervisor.signal(Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends all that is left and removes namespaces, interfaces, rules and cgroups.
async fn clear(
    name: &HubName,
    record: &mut Record,
    files: &Files,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let step = Step::begin(
        progress,
        "namespaces",
        "removing namespaces, interfaces and cgroups",
    );
    let left = end(&|| leftovers(name), Signal::SIGKILL, KILL_TIMEOUT).await;
    if let Some(stuck) = left.first() {
        return Err(Error::Leftover {
            what: format!("process {}", stuck.pid),
            state: "it does not end, even when killed".to_owned(),
        });
    }
    record.anchor = None;
    record.supervisor = None;
    network::remove(name, files).await?;
    cgroup::remove(name).await?;
    if files.run().exists() {
        fs::remove_dir_all(files.run()).map_err(Error::file("remove", files.run()))?;
    }
    step.done();
    Ok(())
}

/// Every process of the hub.
fn leftovers(name: &HubName) -> Vec<ProcessId> {
    let namespace = network::namespace_file(name);
    let namespace = fs::metadata(namespace)
        .ok()
        .map(|meta| (meta.dev(), meta.ino()));
    let cgroup = name.cgroup();
    let here = i32::try_from(std::process::id()).unwrap_or_default();
    let mut found = process::find(|proc| {
        process::in_cgroup(proc, &cgroup)
            || fs::metadata(proc.join("ns/net"))
                .is_ok_and(|meta| Some((meta.dev(), meta.ino())) == namespace)
    });
    found.retain(|one| one.pid != here);
    found
}

/// Signals processes until there are none; a gentle signal is followed by a kill.
/// Returns what would not end.
async fn end(
    remaining: &(dyn Fn() -> Vec<ProcessId> + Sync),
    signal: Signal,
    patience: Duration,
) -> Vec<ProcessId> {
    let started = Instant::now();
    let mut asked = Vec::new();
    loop {
        let left = remaining();
        if left.is_empty() {
            return left;
        }
        let late = started.elapsed() > patience;
        if late && signal == Signal::SIGKILL {
            return left;
        }
        for process in &left {
            if signal == Signal::SIGKILL || late {
                process.signal(Signal::SIGKILL);
            } else if !asked.contains(process) {
                process.signal(signal);
                asked.push(*process);
            }
        }
        if started.elapsed() > patience + KILL_TIMEOUT {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Removes the state directory, but never crosses into another file system.
fn remove_state(state: &Path) -> Result<(), Error> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let inside = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .find(|place| Path::new(place).starts_with(state));
    if let Some(place) = inside {
        return Err(Error::Leftover {
            what: state.display().to_string(),
            state: format!("{place} is mounted in it: unmount it and repeat"),
        });
    }
    fs::remove_dir_all(state).map_err(Error::file("remove", state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_ignores_the_request_is_killed() {
        let mut child = tokio::process::Command::new("sh")
            .args([
                "-c",
                "trap '' TERM; echo on; while :; do read line || exec sleep 1000; done",
            ])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let process = ProcessId::of(child.id().unwrap() as i32).unwrap();
        let remaining = move || {
            Some(process)
                .into_iter()
                .filter(|one| one.is_alive())
                .collect()
        };
        let left = end(&remaining, Signal::SIGTERM, Duration::from_millis(200)).await;
        assert!(left.is_empty());
        child.wait().await.unwrap();
    }
}
