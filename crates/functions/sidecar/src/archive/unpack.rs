//! Unpacks a zip.

use std::fs::File;
use std::io::{self, Read, Seek, Write as _};
use std::path::Path;

use zip::read::{Config, ZipFile};
use zip::unstable::read::ZipIterable;
use zip::{CompressionMethod, ZipReadOptions};

use super::name::{self, Reason};
use super::tree::Tree;
use super::{Error, Limits, Written};

/// Longest target of a link that is read.
const LINK_LIMIT: u64 = 4096;

const KIND: u32 = 0o170_000;
const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, directories and links of the archive.
    pub entries: usize,
    /// Bytes of its files.
    pub bytes: u64,
}

/// Unpacks a zip into `destination`, which is made. `early` may have the bytes of one entry; it
/// is on the same file system.
///
/// # Errors
/// When the archive breaks a rule or cannot be written. The destination is left as it was by
/// then.
pub fn unpack<R: Read + Seek + Clone>(
    reader: R,
    destination: &Path,
    limits: &Limits,
    early: Option<Written>,
) -> Result<Unpacked, Error> {
    let malformed = |error: zip::result::ZipError| Error::Malformed {
        reason: error.to_string(),
    };
    let mut archive = ZipIterable::try_new(reader, Config::default()).map_err(malformed)?;
    if archive.len() > limits.entries {
        return Err(Error::TooMany {
            count: archive.len(),
            limit: limits.entries,
        });
    }
    let tree = Tree::create(destination).map_err(|source| Error::Write {
        entry: destination.display().to_string(),
        source,
    })?;
    let mut writer = Writer {
        tree,
        limit: limits.bytes,
        early,
        done: Unpacked::default(),
        links: Vec::new(),
    };
    let mut entries = archive
        .files_with_cloned_reader(ZipReadOptions::new())
        .map_err(malformed)?;
    while let Some(entry) = entries.next() {
        writer.entry(&mut entry.map_err(malformed)?)?;
    }
    writer.finish()
}

struct Writer {
    tree: Tree,
    limit: u64,
    early: Option<Written>,
    done: Unpacked,
    /// Path and target. Made when every file is there, so that none is written through one.
    links: Vec<(String, String)>,
}

impl Writer {
    fn entry<R: Read>(&mut self, entry: &mut ZipFile<'_, R>) -> Result<(), Error> {
        let path = text(entry.name_raw());
        let refuse = |reason| Error::Name {
            entry: path.clone(),
            reason,
        };
        if std::str::from_utf8(entry.name_raw()).is_err() {
            return Err(refuse(Reason::NotText));
        }
        let parts = match name::parts(&path) {
            // `./`, the directory itself.
            Err(Reason::Empty) if entry.is_dir() => return Ok(()),
            other => other.map_err(refuse)?,
        };
        if entry.encrypted() {
            return Err(Error::Encrypted { entry: path });
        }
        self.done.entries += 1;
        let mode = entry.unix_mode().unwrap_or(0);
        match mode & KIND {
            LINK => self.link(entry, &path, parts.len() - 1),
            DIRECTORY => self.directory(&path, &parts),
            _ if entry.is_dir() => self.directory(&path, &parts),
            0 | FILE => self.file(entry, &path, &parts, mode),
            _ => Err(Error::Special { entry: path }),
        }
    }

    fn directory(&mut self, path: &str, parts: &[&str]) -> Result<(), Error> {
        self.tree
            .make_directory(parts)
            .map_err(|source| write_error(path, source))
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut ZipFile<'_, R>,
        path: &str,
        parts: &[&str],
        mode: u32,
    ) -> Result<(), Error> {
        let executable = mode & 0o111 != 0;
        let mut file = self
            .create(entry, parts, executable)
            .map_err(|source| write_error(path, source))?;
        // One more than what is left tells "exactly full" from "too large".
        let room = self.limit - self.done.bytes;
        let mut bounded = entry.take(room.saturating_add(1));
        let mut buffer = [0; 16 * 1024];
        let mut size = 0;
        loop {
            let count = bounded
                .read(&mut buffer)
                .map_err(|error| unreadable(path, &error))?;
            if count == 0 {
                break;
            }
            size += u64::try_from(count).unwrap_or(0);
            if size > room {
                return Err(Error::TooLarge {
                    entry: path.to_owned(),
                    limit: self.limit,
                });
            }
            if let Some(file) = &mut file {
                file.write_all(&buffer[..count])
                    .map_err(|source| write_error(path, source))?;
            }
        }
        self.done.bytes += size;
        Ok(())
    }

    /// Makes a file to write to; none when its bytes are there already.
    fn create<R: Read>(
        &mut self,
        entry: &ZipFile<'_, R>,
        parts: &[&str],
        executable: bool,
    ) -> io::Result<Option<File>> {
        let has = |early: &mut Written| {
            entry.compression() == CompressionMethod::Stored
                && entry.data_start() == Some(early.start)
                && entry.size() == early.size
                && entry.compressed_size() == early.size
        };
        if let Some(early) = self.early.take_if(has) {
            early.place(executable, |path| self.tree.link_file(parts, path))?;
            return Ok(None);
        }
        let mode = if executable { 0o777 } else { 0o666 };
        self.tree.create_file(parts, mode).map(Some)
    }

    fn link<R: Read>(
        &mut self,
        entry: &mut ZipFile<'_, R>,
        path: &str,
        depth: usize,
    ) -> Result<(), Error> {
        let mut target = Vec::new();
        entry
            .take(LINK_LIMIT)
            .read_to_end(&mut target)
            .map_err(|error| unreadable(path, &error))?;
        let refuse = |reason| Error::Name {
            entry: path.to_owned(),
            reason,
        };
        let target = String::from_utf8(target).map_err(|_| refuse(Reason::LinkTarget))?;
        name::link(&target, depth).map_err(refuse)?;
        self.links.push((path.to_owned(), target));
        Ok(())
    }

    fn finish(mut self) -> Result<Unpacked, Error> {
        for (path, target) in std::mem::take(&mut self.links) {
            let refuse = |reason| Error::Name {
                entry: path.clone(),
                reason,
            };
            let parts = name::parts(&path).map_err(refuse)?;
            self.tree
                .create_link(&parts, &target)
                .map_err(|source| write_error(&path, source))?;
        }
        Ok(self.done)
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// A name that is taken, or that is below a file or link, is the archive's fault: the directory
/// was empty.
fn write_error(path: &str, source: io::Error) -> Error {
    let entry = path.to_owned();
    match source.kind() {
        io::ErrorKind::AlreadyExists
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory => Error::Twice { entry },
        _ => Error::Write { entry, source },
    }
}

fn unreadable(path: &str, error: &io::Error) -> Error {
    Error::Entry {
        entry: path.to_owned(),
        reason: error.to_string(),
    }
}
