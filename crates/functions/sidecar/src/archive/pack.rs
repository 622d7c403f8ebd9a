//! Packs a directory, or one file, as a zip.

use std::fs::File;
use std::io::{self, Read as _, Seek, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::tree::Tree;
use super::{Error, Limits, Unpacked, name};

/// Files of this size in bytes and more are not compressed.
const STORED: u64 = 1 << 20;
/// Files of more bytes than this need the format for large ones.
const LARGE: u64 = 0xffff_0000;

/// Packs what is at `source` into `output`: the entries of a directory, or a single file.
///
/// Links are kept when they stay within the directory. Entries are in the order of their
/// names and have no times, so that the same content gives the same bytes.
///
/// # Errors
/// When something cannot be read, leads out of the directory or passes the bounds.
pub fn pack<W: Write + Seek>(source: &Path, output: W, limits: &Limits) -> Result<Unpacked, Error> {
    let mut packer = Packer {
        output: ZipWriter::new(output),
        limits: *limits,
        done: Unpacked::default(),
    };
    let metadata = source
        .symlink_metadata()
        .map_err(|source_error| failed(&source.to_string_lossy(), source_error))?;
    if metadata.is_dir() {
        let mut tree = Tree::open(source).map_err(|error| failed(".", error))?;
        packer.directory(&mut tree, source, "")?;
    } else {
        packer.single(source)?;
    }
    packer
        .output
        .finish()
        .map_err(|error| failed(".", error.into()))?;
    Ok(packer.done)
}

struct Packer<W: Write + Seek> {
    output: ZipWriter<W>,
    limits: Limits,
    done: Unpacked,
}

impl<W: Write + Seek> Packer<W> {
    fn single(&mut self, source: &Path) -> Result<(), Error> {
        let parent = source.parent().unwrap_or(Path::new("/"));
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        let mut tree = Tree::open(parent).map_err(|error| failed(&name, error))?;
        let file = tree
            .open_entry(&[&name])
            .map_err(|error| failed(&name, error))?;
        self.file(file, &name)
    }

    fn directory(&mut self, tree: &mut Tree, at: &Path, below: &str) -> Result<(), Error> {
        let mut names = Vec::new();
        let listed = at.read_dir().map_err(|error| failed(below, error))?;
        for entry in listed {
            let entry = entry.map_err(|error| failed(below, error))?;
            let kind = entry.file_type().map_err(|error| failed(below, error))?;
            let name = entry.file_name().into_string().map_err(|name| {
                let reason = name::Reason::NotText;
                let entry = format!("{below}{}", name.to_string_lossy());
                Error::Name { entry, reason }
            })?;
            names.push((name, kind));
        }
        names.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, kind) in names {
            let path = format!("{below}{name}");
            self.count(&path)?;
            if kind.is_symlink() {
                self.link(&at.join(&name), &path)?;
            } else if kind.is_dir() {
                self.output
                    .add_directory(&path, options(0o755, 0))
                    .map_err(|error| failed(&path, error.into()))?;
                self.directory(tree, &at.join(&name), &format!("{path}/"))?;
            } else if kind.is_file() {
                let parts = checked(&path)?;
                let file = tree
                    .open_entry(&parts)
                    .map_err(|error| failed(&path, error))?;
                self.file(file, &path)?;
            } else {
                return Err(Error::Special { entry: path });
            }
        }
        Ok(())
    }

    fn count(&mut self, path: &str) -> Result<(), Error> {
        checked(path)?;
        self.done.entries += 1;
        if self.done.entries > self.limits.entries {
            return Err(Error::TooMany {
                count: self.done.entries,
                limit: self.limits.entries,
            });
        }
        Ok(())
    }

    fn link(&mut self, at: &Path, path: &str) -> Result<(), Error> {
        let target = at.read_link().map_err(|error| failed(path, error))?;
        let refuse = |reason| Error::Name {
            entry: path.to_owned(),
            reason,
        };
        let target = target
            .to_str()
            .ok_or_else(|| refuse(name::Reason::LinkTarget))?;
        let depth = path.matches('/').count();
        name::link(target, depth).map_err(refuse)?;
        self.output
            .add_symlink(path, target, options(0o777, 0))
            .map_err(|error| failed(path, error.into()))
    }

    fn file(&mut self, file: File, path: &str) -> Result<(), Error> {
        let metadata = file.metadata().map_err(|error| failed(path, error))?;
        if !metadata.is_file() {
            return Err(Error::Special {
                entry: path.to_owned(),
            });
        }
        let executable = metadata.permissions().mode() & 0o111 != 0;
        let mode = if executable { 0o755 } else { 0o644 };
        self.output
            .start_file(path, options(mode, metadata.len()))
            .map_err(|error| failed(path, error.into()))?;
        let room = self.limits.bytes - self.done.bytes;
        let copied = io::copy(&mut file.take(room.saturating_add(1)), &mut self.output)
            .map_err(|error| failed(path, error))?;
        if copied > room {
            return Err(Error::TooLarge {
                entry: path.to_owned(),
                limit: self.limits.bytes,
            });
        }
        self.done.bytes += copied;
        Ok(())
    }
}

fn checked(path: &str) -> Result<Vec<&str>, Error> {
    name::parts(path).map_err(|reason| Error::Name {
        entry: path.to_owned(),
        reason,
    })
}

fn options(mode: u32, size: u64) -> SimpleFileOptions {
    // Packages are packed once and fetched from next door, at a cold start: time counts more than
    // size. To inflate a compiled function takes longer than to fetch it as it is.
    let method = match size >= STORED {
        true => CompressionMethod::Stored,
        false => CompressionMethod::Deflated,
    };
    SimpleFileOptions::default()
        .compression_method(method)
        .compression_level((size < STORED).then_some(1))
        .unix_permissions(mode)
        .large_file(size > LARGE)
}

fn failed(entry: &str, source: io::Error) -> Error {
    Error::Read {
        entry: entry.to_owned(),
        source,
    }
}
