//! Where a hub's files are, and writing them so that a crash leaves old or new.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Every path below a hub's state directory that more than one module needs.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// The state directory.
    pub state: PathBuf,
}

impl Files {
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self {
            state: state.into(),
        }
    }
    pub fn record(&self) -> PathBuf {
        self.state.join("hub.json")
    }
    pub fn run(&self) -> PathBuf {
        self.state.join("run")
    }
    pub fn status(&self) -> PathBuf {
        self.run().join("status.json")
    }
    pub fn anchor_ready(&self) -> PathBuf {
        self.run().join("anchor.ready")
    }
    pub fn processes(&self) -> PathBuf {
        self.run().join("processes")
    }
    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }
    pub fn supervisor_log(&self) -> PathBuf {
        self.logs().join("supervisor.log")
    }
    pub fn pki(&self) -> PathBuf {
        self.state.join("pki")
    }
    pub fn config(&self) -> PathBuf {
        self.state.join("config")
    }
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("admin.kubeconfig")
    }
    pub fn containerd_socket(&self) -> PathBuf {
        self.run().join("containerd.sock")
    }
    pub fn stores(&self) -> PathBuf {
        self.state.join("stores")
    }
    pub fn registry(&self) -> PathBuf {
        self.state.join("registry")
    }
    pub fn applied(&self) -> PathBuf {
        self.state.join("applied.sha256")
    }

    /// Makes the directories that everything else expects.
    pub fn make_dirs(&self) -> Result<(), Error> {
        for dir in [
            self.state.clone(),
            self.run(),
            self.processes(),
            self.logs(),
            self.pki(),
            self.config(),
            self.state.join("kubelet"),
        ] {
            make_dir(&dir, 0o700)?;
        }
        // Pods of uid 65532 reach their stores through this directory.
        fs::set_permissions(&self.state, fs::Permissions::from_mode(0o711))
            .map_err(Error::file("set the mode of", &self.state))?;
        make_dir(&self.stores(), 0o700)?;
        std::os::unix::fs::chown(self.stores(), Some(65532), Some(65532))
            .map_err(Error::file("set the owner of", self.stores()))
    }
}

/// Makes a directory, and its parents, with this mode.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::file("make", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(Error::file("set the mode of", path))
}

/// Replaces a file at once: readers see the old content or the new. Returns whether
/// the content changed.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<bool, Error> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::file("make", parent))?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // A file left by an interrupted write may have another mode.
    let _ = fs::remove_file(&temporary);
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_data()))
        .map_err(Error::file("write", &temporary))?;
    fs::rename(&temporary, path).map_err(Error::file("replace", path))?;
    Ok(true)
}

/// The last lines of a log, for an error message.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let start = text.len().saturating_sub(16 << 10);
    let text = String::from_utf8_lossy(&text[start..]);
    let all: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    all[all.len().saturating_sub(lines)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unchanged_content_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        assert!(write(&path, b"one", 0o600).unwrap());
        assert!(!write(&path, b"one", 0o600).unwrap());
        assert!(write(&path, b"two", 0o600).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
