//! A machine's directory, a hub that serves archives, and plans for them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use farplane_types::{HostPlanSpec, PlaneReference, Unit};
use futures::future::BoxFuture;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

use crate::units::{ArtifactSource, Engine, State, Wanted};

/// Longest wait for a condition; a test never waits for time.
const LIMIT: Duration = Duration::from_secs(60);

/// Serves archives, and breaks off where it is told to.
#[derive(Default)]
pub struct Hub {
    archives: Mutex<HashMap<String, Vec<u8>>>,
    /// Bytes after which each of the next transfers breaks.
    pub breaks: Mutex<VecDeque<usize>>,
    /// Offsets that were asked for.
    pub offsets: Mutex<Vec<u64>>,
}

impl Hub {
    /// Serves these bytes under a digest, true or not.
    pub fn serve(&self, sha256: &str, bytes: Vec<u8>) {
        self.archives
            .lock()
            .unwrap()
            .insert(sha256.to_owned(), bytes);
    }

    /// Writes every archive to a directory, by digest.
    pub fn save(&self, directory: &Path) {
        for (sha256, bytes) in self.archives.lock().unwrap().iter() {
            std::fs::write(directory.join(sha256), bytes).unwrap();
        }
    }
}

impl ArtifactSource for Hub {
    fn fetch(
        &self,
        sha256: &str,
        offset: u64,
    ) -> BoxFuture<'_, io::Result<Pin<Box<dyn AsyncRead + Send>>>> {
        let sha256 = sha256.to_owned();
        Box::pin(async move {
            self.offsets.lock().unwrap().push(offset);
            let all = self.archives.lock().unwrap().get(&sha256).cloned();
            let rest = all
                .ok_or(io::ErrorKind::NotFound)?
                .split_off(usize::try_from(offset).unwrap());
            let stream: Pin<Box<dyn AsyncRead + Send>> =
                match self.breaks.lock().unwrap().pop_front() {
                    Some(length) => {
                        Box::pin(io::Cursor::new(rest[..length].to_vec()).chain(Broken))
                    }
                    None => Box::pin(io::Cursor::new(rest)),
                };
            Ok(stream)
        })
    }
}

struct Broken;

impl AsyncRead for Broken {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}

/// One entry of an archive made by hand, so that it may be malicious.
pub struct Entry<'a> {
    pub name: &'a str,
    pub kind: tar::EntryType,
    pub link: &'a str,
    pub content: &'a [u8],
    pub mode: u32,
}

/// A file of an archive.
pub fn file<'a>(name: &'a str, content: &'a [u8], mode: u32) -> Entry<'a> {
    Entry {
        name,
        kind: tar::EntryType::Regular,
        link: "",
        content,
        mode,
    }
}

/// A link of an archive.
pub fn link<'a>(name: &'a str, link: &'a str, kind: tar::EntryType) -> Entry<'a> {
    Entry {
        name,
        kind,
        link,
        content: b"",
        mode: 0o777,
    }
}

/// A `.tar.zst` with these entries, whatever they are.
pub fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        header.as_old_mut().linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_size(entry.content.len() as u64);
        header.set_mode(entry.mode);
        header.set_cksum();
        builder.append(&header, entry.content).unwrap();
    }
    zstd::encode_all(builder.into_inner().unwrap().as_slice(), 1).unwrap()
}

/// A state directory with what its plans need.
pub struct World {
    directory: TempDir,
    pub hub: Arc<Hub>,
}

impl World {
    pub fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            hub: Arc::default(),
        }
    }

    /// Path below the world's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    pub fn engine(&self) -> Engine {
        Engine::start(&self.state_dir(), self.hub.clone()).unwrap()
    }

    /// Puts an archive at the hub.
    pub fn artifact(&self, name: &str, entries: &[Entry<'_>]) -> Artifact {
        let bytes = archive(entries);
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let size = bytes.len() as u64;
        self.hub.serve(&sha256, bytes);
        Artifact {
            name: name.to_owned(),
            sha256,
            size,
            state_dir: self.state_dir(),
        }
    }

    /// An artifact with a program that sleeps; `version` makes it differ.
    pub fn sleeper(&self, version: &str) -> Artifact {
        let program = std::fs::read("/bin/sleep").unwrap();
        let version = version.as_bytes();
        self.artifact(
            "sleeper",
            &[
                file("sleeper", &program, 0o755),
                file("version", version, 0o644),
            ],
        )
    }

    /// Process ids of programs of this world.
    pub fn running(&self) -> Vec<i32> {
        running_below(self.directory.path())
    }

    /// The same once there are this many: a process is started by way of a shell.
    pub async fn runs(&self, count: usize) -> Vec<i32> {
        eventually("running", || self.running().len() == count).await;
        self.running()
    }

    /// Names of what is in the state directory, but for the lock of the agent.
    pub fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mut pending = vec![self.state_dir()];
        while let Some(directory) = pending.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    pending.push(path.clone());
                }
                left.push(
                    path.strip_prefix(self.state_dir())
                        .unwrap()
                        .display()
                        .to_string(),
                );
            }
        }
        left.retain(|name| name != "agent" && name != "agent/engine.lock");
        left.sort();
        left
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for pid in self.running() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}

/// Processes whose program is below a directory.
pub fn running_below(directory: &Path) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut pids: Vec<_> = pids
        .filter(|pid| {
            std::fs::read_link(format!("/proc/{pid}/exe"))
                .is_ok_and(|exe| exe.starts_with(directory))
        })
        .collect();
    pids.sort_unstable();
    pids
}

/// An artifact at the hub.
pub struct Artifact {
    pub name: String,
    pub sha256: String,
    pub size: u64,
    state_dir: PathBuf,
}

impl Artifact {
    pub fn unit(&self) -> Unit {
        Unit::Artifact {
            name: self.name.clone(),
            sha256: self.sha256.clone(),
            size: self.size,
        }
    }

    /// Where one of its files will be.
    pub fn path(&self, name: &str) -> String {
        let path = self
            .state_dir
            .join("artifacts")
            .join(&self.sha256)
            .join(name);
        path.to_str().unwrap().to_owned()
    }
}

/// A process that sleeps.
pub fn sleeping(name: &str, program: &str, restart_on: &[String]) -> Unit {
    Unit::Process {
        name: name.to_owned(),
        command: vec![program.to_owned(), "infinity".to_owned()],
        environment: BTreeMap::new(),
        wait_for: Vec::new(),
        readiness: None,
        restart_on: restart_on.to_vec(),
        remove_after: Vec::new(),
    }
}

pub fn text_file(path: &str, content: &str) -> Unit {
    Unit::File {
        path: path.to_owned(),
        content: content.to_owned(),
        mode: 0o600,
    }
}

pub fn directory(path: &str) -> Unit {
    Unit::Directory {
        path: path.to_owned(),
        mode: 0o700,
    }
}

pub fn cleanup() -> Unit {
    Unit::Cleanup {
        name: "all".to_owned(),
        commands: Vec::new(),
        interfaces: Vec::new(),
        tables: Vec::new(),
        directories: Vec::new(),
    }
}

pub fn plan(plane: &str, units: Vec<Unit>) -> Arc<HostPlanSpec> {
    let plane = PlaneReference {
        kind: "KubernetesCluster".to_owned(),
        name: plane.to_owned(),
        uid: format!("uid-of-{plane}"),
    };
    Arc::new(HostPlanSpec {
        plane,
        listeners: Vec::new(),
        reachable: Vec::new(),
        units,
    })
}

pub fn wanted(generation: i64, spec: &Arc<HostPlanSpec>) -> Wanted {
    Wanted::Plan {
        generation,
        spec: spec.clone(),
    }
}

/// Waits until the engine says so.
pub async fn until(
    engine: &Engine,
    what: &str,
    mut condition: impl FnMut(&State) -> bool,
) -> State {
    let mut state = engine.state();
    let found = tokio::time::timeout(LIMIT, state.wait_for(|state| condition(state))).await;
    match found {
        Ok(found) => found.expect("the engine's task ended").clone(),
        Err(_) => panic!("not {what} in time: {:#?}", engine.state().borrow()),
    }
}

pub async fn applied(engine: &Engine, generation: i64) -> State {
    let is = move |state: &State| matches!(state, State::Report(report) if report.applied && report.generation == generation);
    until(engine, "applied", is).await
}

pub async fn clean(engine: &Engine) {
    until(engine, "clean", |state| *state == State::Clean).await;
}

/// Message of a unit once it failed.
pub async fn failure(engine: &Engine, key: &str) -> String {
    let failed = until(engine, "failed", |state| message(state, key).is_some()).await;
    message(&failed, key).unwrap()
}

fn message(state: &State, key: &str) -> Option<String> {
    let State::Report(report) = state else {
        return None;
    };
    let unit = report.units.iter().find(|unit| unit.unit == key)?;
    (unit.state == farplane_types::UnitState::Failed).then(|| unit.message.clone())
}

/// Waits for something that no channel tells.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "not {what} in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
