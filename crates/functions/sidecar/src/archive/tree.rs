//! A directory that is written and read without ever following a link.
//!
//! Others may change the directory at the same time (a build beside us, run by a user): each
//! part of a path is opened from its parent's descriptor, and a link there is an error.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, mkdirat, openat, symlinkat};
use rustix::io::Errno;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Runtimes run as any user and write beside their code (caches of compiled code). What the
/// process masks is taken off.
const DIRECTORY_MODE: u32 = 0o777;

/// An open directory.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    /// The directory that was used last: entries of one directory come together.
    last: Option<(Vec<String>, OwnedFd)>,
}

impl Tree {
    /// Opens a directory.
    ///
    /// # Errors
    /// When there is none, or a link.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = openat(CWD, path, DIRECTORY, Mode::empty())?;
        Ok(Self { root, last: None })
    }

    /// Makes a directory and opens it.
    ///
    /// # Errors
    /// When there is one already, or it cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        mkdirat(CWD, path, Mode::from_raw_mode(DIRECTORY_MODE))?;
        Self::open(path)
    }

    /// Opens a directory below, making what is missing on the way.
    ///
    /// # Errors
    /// When something else has its name.
    pub fn make_directory(&mut self, parts: &[&str]) -> io::Result<()> {
        self.directory(parts, true).map(drop)
    }

    /// Makes a file.
    ///
    /// # Errors
    /// When something has its name already.
    pub fn create_file(&mut self, parts: &[&str], mode: u32) -> io::Result<File> {
        let (name, parents) = split(parts)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let directory = self.directory(parents, true)?;
        let file = openat(directory, name, flags, Mode::from_raw_mode(mode))?;
        Ok(File::from(file))
    }

    /// Gives a file of the same file system a name here too.
    ///
    /// # Errors
    /// When something has its name already.
    pub fn link_file(&mut self, parts: &[&str], from: &Path) -> io::Result<()> {
        let (name, parents) = split(parts)?;
        let directory = self.directory(parents, true)?;
        Ok(linkat(CWD, from, directory, name, AtFlags::empty())?)
    }

    /// Makes a link.
    ///
    /// # Errors
    /// When something has its name already.
    pub fn create_link(&mut self, parts: &[&str], target: &str) -> io::Result<()> {
        let (name, parents) = split(parts)?;
        Ok(symlinkat(target, self.directory(parents, true)?, name)?)
    }

    /// Opens a file or directory for reading. A pipe or device is opened without waiting for it;
    /// the caller looks at what it got.
    ///
    /// # Errors
    /// When there is none, or a link.
    pub fn open_entry(&mut self, parts: &[&str]) -> io::Result<File> {
        let (name, parents) = split(parts)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let directory = self.directory(parents, false)?;
        Ok(File::from(openat(directory, name, flags, Mode::empty())?))
    }

    fn directory(&mut self, parts: &[&str], make: bool) -> io::Result<impl std::os::fd::AsFd> {
        let known = matches!(&self.last, Some((path, _)) if path.as_slice() == parts);
        if !known {
            let mut current = self.root.try_clone()?;
            for part in parts {
                current = step(&current, part, make)?;
            }
            let path = parts.iter().map(|part| (*part).to_owned()).collect();
            self.last = Some((path, current));
        }
        match &self.last {
            Some((_, directory)) => Ok(directory.as_fd()),
            None => Ok(self.root.as_fd()),
        }
    }
}

fn step(parent: &OwnedFd, name: &str, make: bool) -> io::Result<OwnedFd> {
    match openat(parent, name, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) if make => {}
        other => return Ok(other?),
    }
    match mkdirat(parent, name, Mode::from_raw_mode(DIRECTORY_MODE)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(openat(parent, name, DIRECTORY, Mode::empty())?)
}

fn split<'a, 'b>(parts: &'b [&'a str]) -> io::Result<(&'a str, &'b [&'a str])> {
    let (name, parents) = parts
        .split_last()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok((name, parents))
}
