//! What the agent itself keeps between starts: its lock, its epoch, and that it was removed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use farplane_types::token::Token;
use nix::fcntl::{Flock, FlockArg};

use crate::{files, lock};

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be made.
    #[error("failed to make {path}; is its file system writable, and are you root?")]
    MakeDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The lock file cannot be made.
    #[error("failed to open {path}")]
    OpenLock {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent runs.
    #[error(
        "another agent uses {directory}; stop it first (`systemctl stop farplane-agent` where it \
         is a service)"
    )]
    Locked {
        /// The state directory.
        directory: PathBuf,
    },
}

/// Held while this process is the one agent of a state directory.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock of `<state>/agent`.
    ///
    /// # Errors
    /// When another agent has it.
    pub fn take(agent_dir: &Path) -> Result<Self, StateError> {
        files::private_directory(agent_dir).map_err(|source| StateError::MakeDirectory {
            path: agent_dir.to_owned(),
            source,
        })?;
        let path = agent_dir.join("agent.lock");
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let file = options
            .open(&path)
            .map_err(|source| StateError::OpenLock { path, source })?;
        let _file = lock::take(file).map_err(|_| StateError::Locked {
            directory: agent_dir.to_owned(),
        })?;
        Ok(Self { _file })
    }

    /// Whether an agent runs with this directory.
    pub fn is_held(agent_dir: &Path) -> bool {
        let file = File::open(agent_dir.join("agent.lock"));
        file.is_ok_and(|file| Flock::lock(file, FlockArg::LockSharedNonblock).is_err())
    }
}

/// Counts dials: every one gets a higher number than all before it, also those before a
/// restart. Numbers follow the clock, so that a lost file does not start them over.
#[derive(Debug)]
pub struct Epoch {
    path: PathBuf,
    last: Mutex<u64>,
}

impl Epoch {
    /// Goes on from what is on disk.
    pub fn load(agent_dir: &Path) -> Self {
        let path = agent_dir.join("epoch");
        let text = files::read(&path).ok().flatten().unwrap_or_default();
        let last = String::from_utf8_lossy(&text).trim().parse().unwrap_or(0);
        Self {
            path,
            last: Mutex::new(last),
        }
    }

    /// The next number. A disk that takes no writes is no reason not to connect.
    pub fn next(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |past| u64::try_from(past.as_millis()).unwrap_or(0));
        let mut last = self
            .last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = now.max(last.saturating_add(1));
        if let Err(error) = files::write_private(&self.path, last.to_string().as_bytes()) {
            tracing::warn!(path = %self.path.display(), %error, "epoch not written");
        }
        *last
    }
}

/// Notes that the hub removed the host that this token made: the token is of no more use.
///
/// # Errors
/// When the note cannot be written.
pub fn note_removed(agent_dir: &Path, token: Option<&Token>) -> io::Result<()> {
    let note = token.map(Token::secret_sha256).unwrap_or_default();
    files::write_private(&agent_dir.join("removed"), note.as_bytes())
}

/// Whether the hub removed the host that this token made.
pub fn was_removed(agent_dir: &Path, token: &Token) -> bool {
    let note = files::read(&agent_dir.join("removed"));
    note.ok()
        .flatten()
        .is_some_and(|note| note == token.secret_sha256().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_per_state_directory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent");
        assert!(!Lock::is_held(&path));
        let lock = Lock::take(&path).unwrap();
        assert!(Lock::is_held(&path));
        assert!(matches!(Lock::take(&path), Err(StateError::Locked { .. })));
        drop(lock);
        assert!(!Lock::is_held(&path));
        Lock::take(&path).unwrap();
    }

    #[test]
    fn epochs_only_grow_whatever_the_clock_says() {
        let folder = tempfile::tempdir().unwrap();
        let first = Epoch::load(folder.path());
        let (one, two) = (first.next(), first.next());
        assert!(one < two);
        assert!(two < Epoch::load(folder.path()).next());
        let far = 1 << 60;
        std::fs::write(folder.path().join("epoch"), far.to_string()).unwrap();
        assert_eq!(Epoch::load(folder.path()).next(), far + 1);
        std::fs::write(folder.path().join("epoch"), "junk").unwrap();
        assert!(Epoch::load(folder.path()).next() > 1_600_000_000_000);
    }

    #[test]
    fn only_the_token_of_the_removed_host_is_spent() {
        let folder = tempfile::tempdir().unwrap();
        let token = |secret: &str| Token {
            ca_sha256: "ab".repeat(32),
            organization: "demo".into(),
            id: "t".into(),
            secret: secret.repeat(32),
        };
        assert!(!was_removed(folder.path(), &token("cd")));
        note_removed(folder.path(), Some(&token("cd"))).unwrap();
        assert!(was_removed(folder.path(), &token("cd")));
        assert!(!was_removed(folder.path(), &token("ef")));
    }
}
