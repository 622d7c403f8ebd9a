//! What a hub remembers of itself between commands, and the lock that keeps two
//! commands on one hub apart.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use farplane_supervise::ProcessId;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::files::{self, Files};
use crate::name::{HubName, STATE_ROOT};

/// The file `hub.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub name: HubName,
    /// Third byte of the hub's range 100.100.x.0/30; kept while the hub exists, as
    /// certificates and kubeconfigs hold the address.
    pub range: u8,
    /// Directory of the distribution that was started last.
    pub dist: PathBuf,
    /// Address of the machine that is forwarded to the gateway.
    pub listen: Option<SocketAddr>,
    /// Base of the hub's server names.
    pub hub_domain: String,
    /// Holds the mount namespace.
    pub anchor: Option<ProcessId>,
    pub supervisor: Option<ProcessId>,
    /// When the anchor was started, in seconds of Unix time: no container is older.
    #[serde(default)]
    pub anchored_at: i64,
    /// Names the programs and settings that the processes were started from.
    #[serde(default)]
    pub fingerprint: String,
}

impl Record {
    pub fn machine_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(100, 100, self.range, 1)
    }

    pub fn hub_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(100, 100, self.range, 2)
    }

    /// What is known of a hub whose record is lost.
    pub fn empty(name: &HubName) -> Self {
        Self {
            name: name.clone(),
            range: 0,
            dist: PathBuf::new(),
            listen: None,
            hub_domain: String::new(),
            anchor: None,
            supervisor: None,
            anchored_at: 0,
            fingerprint: String::new(),
        }
    }

    /// The record in this state directory, if there is one.
    pub fn load(files: &Files) -> Result<Option<Self>, Error> {
        let path = files.record();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::file("read", path)(source)),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| Error::DamagedRecord { path, source })
    }

    pub fn save(&self, files: &Files) -> Result<(), Error> {
        let path = files.record();
        let text = serde_json::to_vec_pretty(self).map_err(|source| Error::DamagedRecord {
            path: path.clone(),
            source,
        })?;
        files::write(&path, &text, 0o600).map(|_| ())
    }
}

/// Names of the hubs that have state on this machine, sorted.
pub fn list() -> Vec<HubName> {
    let mut names: Vec<HubName> = fs::read_dir(STATE_ROOT)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| HubName::new(entry.file_name().to_str()?).ok())
        .collect();
    names.sort();
    names
}

/// Records of the other hubs below the same parent directory.
pub(crate) fn others(files: &Files) -> Vec<Record> {
    let Some(parent) = files.state.parent() else {
        return Vec::new();
    };
    fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| *path != files.state && path.is_dir())
        .filter_map(|path| Record::load(&Files::new(path)).ok().flatten())
        .collect()
}

/// Exclusive right to change one hub; ends when dropped, also by a crash.
pub(crate) struct Lock(#[allow(dead_code)] Flock<File>);

impl Lock {
    /// Waits for the lock of a directory, which is made when `make` says so. `waiting`
    /// is called once when another command holds it.
    pub async fn take(dir: &Path, make: bool, waiting: impl Fn()) -> Result<Self, Error> {
        let mut told = false;
        loop {
            if make {
                fs::create_dir_all(dir).map_err(Error::file("make", dir))?;
            }
            let file = File::open(dir).map_err(Error::file("open", dir))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // A purge may have removed the directory while this one waited.
                Ok(lock) if same_file(&lock, dir) => return Ok(Self(lock)),
                Ok(_) => {}
                Err((_, _)) => {
                    if !told {
                        waiting();
                        told = true;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(now)) => held.ino() == now.ino() && held.dev() == now.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_command_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path(), false, || panic!("nobody holds it"))
            .await
            .unwrap();
        let (told, mut waits) = tokio::sync::mpsc::unbounded_channel();
        let path = dir.path().to_owned();
        let second = tokio::spawn(async move {
            Lock::take(&path, false, || told.send(()).unwrap())
                .await
                .map(|_| ())
        });
        waits.recv().await.unwrap();
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap().unwrap();
    }

    #[test]
    fn a_record_survives_saving() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path());
        assert!(Record::load(&files).unwrap().is_none());
        let record = Record {
            name: HubName::default(),
            range: 7,
            dist: "/opt/dist".into(),
            listen: None,
            hub_domain: "hub.test".into(),
            anchor: None,
            supervisor: None,
            anchored_at: 0,
            fingerprint: String::new(),
        };
        record.save(&files).unwrap();
        let back = Record::load(&files).unwrap().unwrap();
        assert_eq!(back.hub_address(), Ipv4Addr::new(100, 100, 7, 2));
    }
}
