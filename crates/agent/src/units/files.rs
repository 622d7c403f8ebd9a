//! Files, directories and links of a plan.
//!
//! A file is replaced as a whole, and only when it differs. It is not synced: a file that
//! a power cut damaged is seen and replaced at the next start, before what reads it starts.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// Why a path is not as the plan wants it.
#[derive(Debug, thiserror::Error)]
#[error("failed to {verb} {path}{}", hint(source))]
pub struct Error {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Error {
    fn new(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self { verb, path, source }
    }
}

/// What to check after a failure of the file system.
pub fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => ", the disk is full: free some space",
        io::ErrorKind::QuotaExceeded => ", the quota is used up: free some space",
        io::ErrorKind::ReadOnlyFilesystem => ", the file system is read-only: check it",
        io::ErrorKind::NotADirectory => ", something else than a directory is in the way",
        io::ErrorKind::IsADirectory => ", a directory is in the way: move it elsewhere",
        _ => "",
    }
}

/// Makes a file have this content and mode. True when something was changed.
///
/// # Errors
/// When the file system refuses.
pub fn file(path: &Path, content: &[u8], mode: u32) -> Result<bool, Error> {
    if is_file(path, content, mode) {
        return Ok(false);
    }
    make_parent(path)?;
    let new = temporary(path);
    remove_file(&new)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&new).map_err(Error::new("make", &new))?;
    file.write_all(content).map_err(Error::new("write", &new))?;
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(Error::new("set the mode of", &new))?;
    fs::rename(&new, path).map_err(Error::new("replace", path))?;
    Ok(true)
}

fn is_file(path: &Path, content: &[u8], mode: u32) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else {
        return false;
    };
    found.is_file()
        && found.permissions().mode() & 0o7777 == mode
        && found.len() == content.len() as u64
        && fs::read(path).is_ok_and(|text| text == content)
}

/// Makes a directory exist with this mode.
///
/// # Errors
/// When the file system refuses.
pub fn directory(path: &Path, mode: u32) -> Result<bool, Error> {
    let found = fs::symlink_metadata(path);
    // A link to a directory elsewhere is how a machine's owner moves one to another disk.
    let exists = fs::metadata(path).is_ok_and(|found| found.is_dir());
    if !exists {
        if found.is_ok() {
            remove_file(path)?;
        }
        make_parent(path)?;
        DirBuilder::new()
            .mode(0o700)
            .create(path)
            .map_err(Error::new("make", path))?;
    }
    let found = fs::metadata(path).map_err(Error::new("read", path))?;
    let differs = found.permissions().mode() & 0o7777 != mode;
    if differs {
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(Error::new("set the mode of", path))?;
    }
    Ok(!exists || differs)
}

/// Makes a symbolic link lead to this target.
///
/// # Errors
/// When the file system refuses.
pub fn link(path: &Path, target: &Path) -> Result<bool, Error> {
    if fs::read_link(path).is_ok_and(|found| found == target) {
        return Ok(false);
    }
    make_parent(path)?;
    let new = temporary(path);
    remove_file(&new)?;
    symlink(target, &new).map_err(Error::new("make", &new))?;
    fs::rename(&new, path).map_err(Error::new("replace", path))?;
    Ok(true)
}

/// Removes a file or link and what an interrupted change of it left.
///
/// # Errors
/// When the file system refuses. Absent is success.
pub fn remove(path: &Path) -> Result<(), Error> {
    remove_file(&temporary(path))?;
    remove_file(path)
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if is_absent(&error) => Ok(()),
        other => other.map_err(Error::new("remove", path)),
    }
}

/// Nothing is at the path, or at one of its parents.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn make_parent(path: &Path) -> Result<(), Error> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    let mut builder = DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o755)
        .create(parent)
        .map_err(Error::new("make", parent))
}

/// Beside the path, and the same each time, so that none is left over for ever.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.farplane-new"))
}
