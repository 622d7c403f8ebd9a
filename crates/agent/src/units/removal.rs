//! Removes directories with everything in and under them.
//!
//! What is mounted below is unmounted first, and nothing is removed while a mount is left:
//! the contents of a volume are not the plan's. The directory itself may be a link or a
//! mount that the machine's owner made; then it is emptied and stays.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::files;
use super::guard;

/// Rounds of unmounting; each also uncovers what was mounted over.
const ROUNDS: usize = 16;
/// Rounds of removing, for what appears meanwhile.
const TRIES: usize = 3;

/// Why a directory is still there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The list of mounts cannot be read.
    #[error("failed to read /proc/self/mountinfo, check that /proc is mounted")]
    ReadMounts {
        /// Why.
        source: io::Error,
    },
    /// A mount does not go.
    #[error("failed to unmount {path}, check what uses it (fuser -vm {path})")]
    Unmount {
        /// The mount.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Mounts keep appearing.
    #[error("{path} is mounted again and again, check what mounts it")]
    StillMounted {
        /// One of the mounts.
        path: PathBuf,
    },
    /// Something does not go.
    #[error("failed to remove {path}, check what uses it and its attributes (lsattr)")]
    Remove {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A link leads to what a plan may not remove.
    #[error("{path} leads elsewhere: {reason}; remove the link")]
    Refused {
        /// The path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Removes a file, link or directory with all that is in it or mounted below it.
///
/// # Errors
/// When something does not go. Absent is success.
pub fn remove(path: &Path, state_dir: &Path) -> Result<(), Error> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if files::is_absent(&error) => return Ok(()),
        Err(source) => {
            return Err(Error::Remove {
                path: path.to_owned(),
                source,
            });
        }
    };
    let is_directory = found.is_dir() || (found.is_symlink() && path.is_dir());
    if !is_directory {
        return gone(fs::remove_file(path), path);
    }
    let real = fs::canonicalize(path).map_err(|source| Error::Remove {
        path: path.to_owned(),
        source,
    })?;
    guard::removable(&real, state_dir).map_err(|reason| Error::Refused {
        path: path.to_owned(),
        reason,
    })?;
    unmount_below(&real)?;
    let stays = found.is_symlink() || mounts()?.contains(&real);
    empty(&real)?;
    if stays {
        Ok(())
    } else {
        gone(fs::remove_dir(&real), &real)
    }
}

/// Unmounts everything strictly below a directory.
///
/// # Errors
/// When a mount does not go.
pub fn unmount_below(directory: &Path) -> Result<(), Error> {
    let mut left = Vec::new();
    for _ in 0..ROUNDS {
        left = mounts()?;
        left.retain(|mount| mount.starts_with(directory) && mount != directory);
        if left.is_empty() {
            return Ok(());
        }
        for mount in left.iter().rev() {
            let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
            match umount2(mount, flags) {
                // Gone with another, or covered by one that goes in the next round.
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(error) => {
                    let source = io::Error::from(error);
                    return Err(Error::Unmount {
                        path: mount.clone(),
                        source,
                    });
                }
            }
        }
    }
    Err(Error::StillMounted {
        path: left.swap_remove(0),
    })
}

/// Removes what is in a directory below which nothing is mounted.
fn empty(directory: &Path) -> Result<(), Error> {
    let mut result = Ok(());
    for _ in 0..TRIES {
        result = empty_once(directory);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn empty_once(directory: &Path) -> Result<(), Error> {
    let failed = |source| Error::Remove {
        path: directory.to_owned(),
        source,
    };
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let is_directory = entry.file_type().map_err(failed)?.is_dir();
        // Links are not followed by either.
        let removed = if is_directory {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        gone(removed, &path)?;
    }
    Ok(())
}

fn gone(result: io::Result<()>, path: &Path) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| Error::Remove {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Every mount point of this mount namespace, oldest first.
fn mounts() -> Result<Vec<PathBuf>, Error> {
    let text = fs::read("/proc/self/mountinfo").map_err(|source| Error::ReadMounts { source })?;
    let lines = text.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    Ok(points.map(unescaped).collect())
}

/// The kernel writes blanks and backslashes as three octal digits.
pub fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| byte == b'\\');
        let code = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}
