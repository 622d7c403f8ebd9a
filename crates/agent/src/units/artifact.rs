//! Artifacts: fetched by digest, resumed after interruptions, unpacked beside their place
//! and moved there by one rename.
//!
//! ```text
//!   <sha256>.partial ──▶ verified ──▶ <sha256>.unpacking/ ──▶ <sha256>/
//! ```
//!
//! `<sha256>.unsettled` holds the boot in which an artifact was unpacked, until all of it
//! is known to be on the disk: found in a later boot, the artifact is fetched anew, since
//! a power cut may have damaged what was not yet written.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::{ArtifactSource, archive, files};

/// Time without a byte after which a transfer counts as interrupted.
const SILENCE: Duration = Duration::from_secs(30);
/// Artifacts fetched at the same time.
const AT_ONCE: usize = 3;
/// Interruptions in a row, none of which brought a byte, before the caller pauses.
const BARREN_TRIES: u32 = 3;
const BUFFER: usize = 256 * 1024;

/// Why an artifact is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The transfer was interrupted and did not go on.
    #[error(
        "failed to fetch {sha256} at byte {offset} of {size}, goes on from there; check the connection to the hub"
    )]
    Fetch {
        /// Digest.
        sha256: String,
        /// What is here.
        offset: u64,
        /// What there should be.
        size: u64,
        /// Why.
        source: io::Error,
    },
    /// The hub serves more than the plan says.
    #[error(
        "the hub's {sha256} is longer than the plan's {size} bytes, check that hub and plan are of one release"
    )]
    TooLong {
        /// Digest.
        sha256: String,
        /// Size in the plan.
        size: u64,
    },
    /// The hub serves something else than the plan says.
    #[error(
        "what was fetched as {sha256} has digest {found} and was removed, check the hub's artifact store"
    )]
    WrongDigest {
        /// Digest in the plan.
        sha256: String,
        /// Digest of the bytes.
        found: String,
    },
    /// The file system refused.
    #[error("failed to {verb} {path}{}", files::hint(source))]
    Store {
        /// What was tried.
        verb: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk is full.
    #[error(
        "the disk of {path} is full: {free} MiB are free, the archive of {sha256} alone has {size} MiB; free some space"
    )]
    Full {
        /// Digest.
        sha256: String,
        /// Directory of artifacts.
        path: PathBuf,
        /// Free space.
        free: u64,
        /// Size of the archive.
        size: u64,
    },
    /// The archive was not unpacked.
    #[error("failed to unpack {sha256}")]
    Unpack {
        /// Digest.
        sha256: String,
        /// Why.
        source: archive::Error,
    },
    /// The plan changed or the agent ends.
    #[error("interrupted")]
    Interrupted,
}

/// Directory of all artifacts.
#[derive(Debug)]
pub struct Artifacts {
    directory: PathBuf,
    boot: String,
    turns: Semaphore,
}

impl Artifacts {
    /// Artifacts below the state directory.
    pub fn new(state_dir: &Path) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            directory: state_dir.join("artifacts"),
            boot: boot.trim().to_owned(),
            turns: Semaphore::new(AT_ONCE),
        }
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self, sha256: &str, suffix: &str) -> PathBuf {
        self.directory.join(format!("{sha256}{suffix}"))
    }

    /// Makes an artifact be there, unpacked.
    ///
    /// # Errors
    /// When it cannot be fetched, verified, unpacked or stored. What was fetched stays for
    /// the next try unless it is wrong.
    pub async fn ensure(
        &self,
        sha256: &str,
        size: u64,
        source: &dyn ArtifactSource,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        if self.is_whole(sha256) {
            return Ok(());
        }
        let turn = tokio::select! {
            turn = self.turns.acquire() => turn,
            () = cancel.cancelled() => return Err(Error::Interrupted),
        };
        // The semaphore is never closed.
        let _turn = turn.map_err(|_| Error::Interrupted)?;
        self.fetch(sha256, size, source, cancel)
            .await
            .map_err(|error| self.full(error, sha256, size))?;
        let place = Place::of(self, sha256);
        // Not to be left halfway: another try must not meet this one.
        let unpacked = spawn_blocking(move || place.unpack()).await;
        let unpacked = unpacked.unwrap_or_else(|error| {
            let source = io::Error::other(error);
            Err(Error::Store {
                verb: "unpack into",
                path: self.path(sha256, ""),
                source,
            })
        });
        unpacked.map_err(|error| self.full(error, sha256, size))
    }

    fn is_whole(&self, sha256: &str) -> bool {
        if !self.path(sha256, "").is_dir() {
            return false;
        }
        match fs::read_to_string(self.path(sha256, ".unsettled")) {
            Ok(boot) => boot == self.boot,
            Err(_) => true,
        }
    }

    /// Fetches and verifies the archive into `<sha256>.partial`.
    async fn fetch(
        &self,
        sha256: &str,
        size: u64,
        source: &dyn ArtifactSource,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let mut partial = self.open_partial(sha256, size).await?;
        let mut barren = 0;
        while partial.length < size {
            let before = partial.length;
            let result = tokio::select! {
                result = partial.receive(sha256, size, source) => result,
                () = cancel.cancelled() => return Err(Error::Interrupted),
            };
            let Err(error) = result else { continue };
            barren = if partial.length > before {
                0
            } else {
                barren + 1
            };
            match error {
                Error::Fetch { .. } if barren < BARREN_TRIES => {}
                Error::TooLong { .. } => {
                    remove(&partial.path)?;
                    return Err(error);
                }
                _ => return Err(error),
            }
        }
        let found = hex::encode(partial.hash.finalize());
        if found != sha256 {
            remove(&partial.path)?;
            return Err(Error::WrongDigest {
                sha256: sha256.to_owned(),
                found,
            });
        }
        Ok(())
    }

    async fn open_partial(&self, sha256: &str, size: u64) -> Result<Partial, Error> {
        let directory = self.directory.clone();
        let path = self.path(sha256, ".partial");
        let opened = spawn_blocking(move || {
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(0o755).create(&directory);
            made.map_err(store("make", &directory))?;
            Partial::open(path, size)
        });
        opened.await.unwrap_or_else(|error| {
            let source = io::Error::other(error);
            Err(Error::Store {
                verb: "open",
                path: self.path(sha256, ".partial"),
                source,
            })
        })
    }

    /// Says how much room there is, when that is the reason.
    fn full(&self, error: Error, sha256: &str, size: u64) -> Error {
        let source = match &error {
            Error::Store { source, .. } => source,
            Error::Unpack {
                source: archive::Error::Write { source, .. },
                ..
            } => source,
            _ => return error,
        };
        if source.kind() != io::ErrorKind::StorageFull {
            return error;
        }
        let mebi = 1024 * 1024;
        let free = nix::sys::statvfs::statvfs(&self.directory);
        Error::Full {
            sha256: sha256.to_owned(),
            path: self.directory.clone(),
            free: free.map_or(0, |found| {
                found.blocks_available() * found.fragment_size() / mebi
            }),
            size: size.div_ceil(mebi),
        }
    }

    /// Removes everything but the artifacts in `keep`; the directory too when none is left.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn sweep(&self, keep: &BTreeSet<String>) -> Result<(), Error> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(store("list", &self.directory)(source)),
        };
        for entry in entries {
            let entry = entry.map_err(store("list", &self.directory))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let sha256 = name.split('.').next().unwrap_or_default();
            if !keep.contains(sha256) {
                remove(&entry.path())?;
            }
        }
        if keep.is_empty() {
            remove(&self.directory)?;
        }
        Ok(())
    }
}

/// An archive that is being fetched, with the digest of what is there.
struct Partial {
    path: PathBuf,
    file: File,
    hash: Sha256,
    length: u64,
}

impl Partial {
    fn open(path: PathBuf, size: u64) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(store("open", &path))?;
        let mut hash = Sha256::new();
        let mut length = 0;
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = file.read(&mut buffer).map_err(store("read", &path))?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            length += count as u64;
        }
        if length > size {
            file.set_len(0).map_err(store("cut", &path))?;
            file.seek(SeekFrom::Start(0)).map_err(store("cut", &path))?;
            (hash, length) = (Sha256::new(), 0);
        }
        Ok(Self {
            path,
            file,
            hash,
            length,
        })
    }

    /// Receives from where it is until the stream ends.
    async fn receive(
        &mut self,
        sha256: &str,
        size: u64,
        source: &dyn ArtifactSource,
    ) -> Result<(), Error> {
        let interrupted = |offset, source| Error::Fetch {
            sha256: sha256.to_owned(),
            offset,
            size,
            source,
        };
        let silent = |_| io::Error::new(io::ErrorKind::TimedOut, "the hub sent nothing for 30s");
        let opened = tokio::time::timeout(SILENCE, source.fetch(sha256, self.length)).await;
        let mut stream = opened
            .map_err(silent)
            .and_then(|opened| opened)
            .map_err(|source| interrupted(self.length, source))?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = tokio::time::timeout(SILENCE, stream.read(&mut buffer)).await;
            let count = read
                .map_err(silent)
                .and_then(|read| read)
                .map_err(|source| interrupted(self.length, source))?;
            if count == 0 {
                break;
            }
            if self.length + count as u64 > size {
                return Err(Error::TooLong {
                    sha256: sha256.to_owned(),
                    size,
                });
            }
            // Into the page cache: short enough for this thread.
            self.file
                .write_all(&buffer[..count])
                .map_err(store("write", &self.path))?;
            self.hash.update(&buffer[..count]);
            self.length += count as u64;
        }
        if self.length < size {
            let source = io::Error::new(io::ErrorKind::UnexpectedEof, "the transfer ended early");
            return Err(interrupted(self.length, source));
        }
        Ok(())
    }
}

/// Paths of one artifact.
struct Place {
    sha256: String,
    boot: String,
    partial: PathBuf,
    unpacking: PathBuf,
    unsettled: PathBuf,
    whole: PathBuf,
}

impl Place {
    fn of(all: &Artifacts, sha256: &str) -> Self {
        Self {
            sha256: sha256.to_owned(),
            boot: all.boot.clone(),
            partial: all.path(sha256, ".partial"),
            unpacking: all.path(sha256, ".unpacking"),
            unsettled: all.path(sha256, ".unsettled"),
            whole: all.path(sha256, ""),
        }
    }

    fn unpack(self) -> Result<(), Error> {
        remove(&self.unpacking)?;
        remove(&self.whole)?;
        self.write_unsettled()
            .map_err(store("write", &self.unsettled))?;
        let archive = File::open(&self.partial).map_err(store("open", &self.partial))?;
        let unpacked = archive::unpack(archive, &self.unpacking);
        if let Err(source) = unpacked {
            remove(&self.unpacking)?;
            let damaged = !matches!(source, archive::Error::Write { .. });
            if damaged {
                remove(&self.partial)?;
            }
            return Err(Error::Unpack {
                sha256: self.sha256,
                source,
            });
        }
        fs::rename(&self.unpacking, &self.whole).map_err(store("move into place", &self.whole))?;
        remove(&self.partial)?;
        // What uses the artifact does not wait for the disk.
        tokio::task::spawn_blocking(move || self.settle());
        Ok(())
    }

    fn write_unsettled(&self) -> io::Result<()> {
        let mut file = File::create(&self.unsettled)?;
        file.write_all(self.boot.as_bytes())?;
        file.sync_all()
    }

    fn settle(&self) {
        let synced = File::open(&self.whole)
            .and_then(|directory| nix::unistd::syncfs(&directory).map_err(io::Error::from));
        if synced.is_ok() {
            // Left there, it costs a fetch after the next boot.
            let _ = fs::remove_file(&self.unsettled);
        }
    }
}

/// Removes a file or a tree; absent is success.
fn remove(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(store("remove", path)),
    }
}

fn store(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Store { verb, path, source }
}
