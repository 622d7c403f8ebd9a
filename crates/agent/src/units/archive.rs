//! Unpacks a `.tar.zst` without letting it write anywhere else.
//!
//! Only directories, regular files, and links that stay inside are made. Nothing is
//! written through a link, and nothing is written twice. Permission bits are kept, set-id
//! bits and owners are not.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Entry, EntryType};

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive holds something that it must not.
    #[error("the archive's entry {entry} is refused: {reason}; the artifact has to be built anew")]
    Refused {
        /// Name of the entry.
        entry: String,
        /// Why.
        reason: &'static str,
    },
    /// The archive cannot be read.
    #[error("failed to read the archive, its contents are damaged")]
    Read {
        /// Why.
        source: io::Error,
    },
    /// An entry cannot be written.
    #[error("failed to write {path}")]
    Write {
        /// Where to.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Unpacks `archive` into the new directory `root`.
///
/// # Errors
/// When the archive is damaged or refused, or the file system refuses; what was unpacked
/// by then stays, for the caller to remove.
pub fn unpack(archive: impl Read, root: &Path) -> Result<(), Error> {
    let decoder = zstd::Decoder::new(archive).map_err(|source| Error::Read { source })?;
    let mut archive = Archive::new(decoder);
    let write = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Write { path, source }
    };
    DirBuilder::new()
        .mode(0o755)
        .create(root)
        .map_err(write(root))?;
    let mut directories = Vec::new();
    for entry in archive.entries().map_err(|source| Error::Read { source })? {
        let mut entry = entry.map_err(|source| Error::Read { source })?;
        let name = entry
            .path()
            .map_err(|source| Error::Read { source })?
            .into_owned();
        let Some(path) = place(root, &name)? else {
            continue;
        };
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        match entry.header().entry_type() {
            EntryType::Directory => {
                make_directory(&path).map_err(write(&path))?;
                directories.push((path, mode));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                write_file(&mut entry, &path, mode)?;
            }
            EntryType::Symlink => {
                let target = target(&entry, &name)?;
                stays_inside(&name, &target)?;
                symlink(&target, &path).map_err(write(&path))?;
            }
            EntryType::Link => {
                let target = target(&entry, &name)?;
                let other = place(root, &target)?
                    .ok_or_else(|| refused(&name, "it is a hard link to the top"))?;
                fs::hard_link(&other, &path).map_err(write(&path))?;
            }
            EntryType::XGlobalHeader => {}
            _ => {
                return Err(refused(
                    &name,
                    "it is neither a file, a directory nor a link",
                ));
            }
        }
    }
    // Last, since a directory may be made unwritable.
    for (path, mode) in directories.iter().rev() {
        fs::set_permissions(path, Permissions::from_mode(*mode)).map_err(write(path))?;
    }
    Ok(())
}

/// Where an entry goes, its parents made; none for the top itself.
fn place(root: &Path, name: &Path) -> Result<Option<PathBuf>, Error> {
    let mut path = root.to_owned();
    let mut parts = name
        .components()
        .filter(|part| *part != Component::CurDir)
        .peekable();
    if parts.peek().is_none() {
        return Ok(None);
    }
    while let Some(part) = parts.next() {
        let Component::Normal(part) = part else {
            return Err(refused(name, "its path leads outside"));
        };
        path.push(part);
        if parts.peek().is_none() {
            break;
        }
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(refused(name, "its path leads through a link or a file")),
            Err(_) => make_directory(&path).map_err(|source| Error::Write {
                path: path.clone(),
                source,
            })?,
        }
    }
    Ok(Some(path))
}

fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(path)?;
            if found.is_dir() { Ok(()) } else { Err(error) }
        }
        other => other,
    }
}

fn write_file(entry: &mut Entry<'_, impl Read>, path: &Path, mode: u32) -> Result<(), Error> {
    let write = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let mut options = OpenOptions::new();
    // An existing entry, a link among them, is never opened.
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).map_err(write)?;
    copy(entry, &mut file, path)?;
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(write)
}

/// As [`io::copy`], but tells a damaged archive from a full disk.
fn copy(from: &mut impl Read, to: &mut File, path: &Path) -> Result<(), Error> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(Error::Read { source }),
        };
        io::Write::write_all(to, &buffer[..count]).map_err(|source| Error::Write {
            path: path.to_owned(),
            source,
        })?;
    }
}

fn target(entry: &Entry<'_, impl Read>, name: &Path) -> Result<PathBuf, Error> {
    let target = entry.link_name().map_err(|source| Error::Read { source })?;
    target
        .map(|target| target.into_owned())
        .ok_or_else(|| refused(name, "the link has no target"))
}

/// A symbolic link must lead to a place below the top, by its text alone.
fn stays_inside(name: &Path, target: &Path) -> Result<(), Error> {
    let outside = || refused(name, "the link leads outside");
    let named = name
        .components()
        .filter(|part| *part != Component::CurDir)
        .count();
    let mut depth = named.saturating_sub(1);
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => depth = depth.checked_sub(1).ok_or_else(outside)?,
            Component::RootDir | Component::Prefix(_) => return Err(outside()),
        }
    }
    Ok(())
}

fn refused(name: &Path, reason: &'static str) -> Error {
    Error::Refused {
        entry: name.display().to_string(),
        reason,
    }
}
