//! Puts an archive where the runtime looks: unpacked, or as the file it is.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Error;
use crate::archive::{self, Limits, Pieces, Positioned, Written};

/// Archives up to this size are unpacked on the thread that serves: another one takes longer
/// to start.
const INLINE_BYTES: u64 = 64 * 1024;

/// The bytes of an archive.
#[derive(Debug)]
pub enum Source {
    /// In memory, and what of them is written already.
    Memory(Pieces, Option<Written>),
    /// Downloaded beside the destination; removed when it is in place.
    Downloaded(PathBuf),
}

/// What is to be done with an archive.
#[derive(Debug)]
pub struct Placement {
    /// The shared directory.
    pub shared: PathBuf,
    /// Name below it; one part.
    pub filename: String,
    /// Give the archive as it is.
    pub keep: bool,
    /// How much is unpacked.
    pub limits: Limits,
}

/// A name in the shared directory that nothing else has.
pub fn temporary(shared: &Path, filename: &str, what: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    shared.join(format!(".{filename}.{what}-{}-{count}", std::process::id()))
}

/// Puts the archive in place, all of it or nothing.
///
/// # Errors
/// When the archive is refused, or the disk is.
pub async fn place(source: Source, placement: Placement) -> Result<(), Error> {
    match &source {
        Source::Memory(bytes, _) if bytes.len() <= INLINE_BYTES => place_now(source, &placement),
        _ => tokio::task::spawn_blocking(move || place_now(source, &placement))
            .await
            .map_err(|_| Error::Stopped)?,
    }
}

fn place_now(source: Source, placement: &Placement) -> Result<(), Error> {
    let destination = placement.shared.join(&placement.filename);
    let temporary = temporary(&placement.shared, &placement.filename, "new");
    let downloaded = match &source {
        Source::Downloaded(path) => Some(path.clone()),
        Source::Memory(..) => None,
    };
    let placed = write(source, placement, &temporary).and_then(|()| {
        let rename = std::fs::rename(&temporary, &destination);
        rename.map_err(Error::disk("put the archive in place at", &destination))
    });
    if placed.is_err() {
        remove(&temporary);
    }
    if let Some(path) = downloaded {
        remove(&path);
    }
    placed
}

fn write(source: Source, placement: &Placement, temporary: &Path) -> Result<(), Error> {
    let limits = &placement.limits;
    match source {
        Source::Memory(bytes, early) if archive::is_zip(&bytes.head()) && !placement.keep => {
            archive::unpack(bytes, temporary, limits, early)?;
        }
        Source::Memory(bytes, _) => {
            let mut file = create(temporary, archive::is_program(&bytes.head()))?;
            bytes
                .write_to(&mut file)
                .map_err(Error::disk("write", temporary))?;
        }
        Source::Downloaded(path) => {
            let path = path.as_path();
            let mut file = File::open(path).map_err(Error::disk("open", path))?;
            let mut head = [0; 4];
            let read = file.read(&mut head).map_err(Error::disk("read", path))?;
            let head = &head[..read];
            if archive::is_zip(head) && !placement.keep {
                let reader = Positioned::new(file).map_err(Error::disk("read", path))?;
                archive::unpack(reader, temporary, limits, None)?;
            } else {
                let mode = mode(archive::is_program(head));
                let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
                file.set_permissions(permissions)
                    .map_err(Error::disk("set the mode of", path))?;
                std::fs::rename(path, temporary).map_err(Error::disk("move", path))?;
            }
        }
    }
    Ok(())
}

fn mode(program: bool) -> u32 {
    if program { 0o777 } else { 0o666 }
}

fn create(path: &Path, program: bool) -> Result<File, Error> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode(program))
        .open(path)
        .map_err(Error::disk("make", path))
}

/// Removes a file or directory, if it is there.
pub fn remove(path: &Path) {
    let removed = match path.symlink_metadata() {
        Err(_) => return,
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    };
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "failed to remove what is not needed");
    }
}
