//! Archives from users: unpacked within one directory and within bounds, or not at all.
//!
//! Flow: [`name`] decides what an entry may be called (pure) -> [`mod@unpack`] writes it by
//! [`tree`], which never follows a link -> links are made last, so no file can go through one.
//! One large entry may be there already, written while the archive arrived ([`early`]).
//!
//! Promises: nothing outside the destination is written or read; sizes are counted while
//! writing, headers are not believed; no entry overwrites another; what is refused is named.
//! A destination of which unpacking failed is to be removed by the caller.

pub mod early;
pub mod name;
pub mod pack;
pub mod pieces;
pub mod positioned;
pub mod tree;
pub mod unpack;

use std::io;

pub use early::{Early, Written};
pub use pack::pack;
pub use pieces::{Collector, Pieces};
pub use positioned::Positioned;
pub use unpack::{Unpacked, unpack};

/// How much an archive may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all files together, unpacked.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 2 << 30,
            entries: 100_000,
        }
    }
}

/// Why an archive is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a zip, or one that ends too early.
    #[error("the archive cannot be read as a zip: {reason}; make it again and compare its size")]
    Malformed {
        /// In the words of the reader.
        reason: String,
    },
    /// A name that is refused.
    #[error("entry {entry:?} is refused: {reason}")]
    Name {
        /// As it is in the archive.
        entry: String,
        /// What is wrong with it.
        reason: name::Reason,
    },
    /// An entry that takes the place of another.
    #[error("entry {entry:?} is in the archive twice; make the archive again without it")]
    Twice {
        /// As it is in the archive.
        entry: String,
    },
    /// Neither file nor directory nor link.
    #[error(
        "entry {entry:?} is a device, pipe or socket; only files, directories and links can be unpacked"
    )]
    Special {
        /// As it is in the archive.
        entry: String,
    },
    /// Needs a password.
    #[error("entry {entry:?} is encrypted; make the archive without a password")]
    Encrypted {
        /// As it is in the archive.
        entry: String,
    },
    /// The bytes of an entry do not fit its header.
    #[error(
        "entry {entry:?} cannot be unpacked: {reason}; only stored and deflated entries can be, and none that is damaged"
    )]
    Entry {
        /// As it is in the archive.
        entry: String,
        /// In the words of the reader.
        reason: String,
    },
    /// Larger than allowed.
    #[error(
        "the archive unpacks to more than {limit} bytes (at entry {entry:?}); leave out what the function does not need"
    )]
    TooLarge {
        /// Where the bound was passed.
        entry: String,
        /// The bound.
        limit: u64,
    },
    /// More entries than allowed.
    #[error(
        "the archive has {count} entries, at most {limit} are unpacked; leave out what the function does not need"
    )]
    TooMany {
        /// How many it says.
        count: usize,
        /// The bound.
        limit: usize,
    },
    /// The disk said no.
    #[error("failed to write {entry:?}: {source}; is there room left in the volume?")]
    Write {
        /// As it is in the archive.
        entry: String,
        /// Why.
        source: io::Error,
    },
    /// What is to be packed cannot be read.
    #[error("failed to pack {entry:?}: {source}")]
    Read {
        /// Path within the directory.
        entry: String,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// True when the archive is at fault, not this machine.
    pub fn is_of_archive(&self) -> bool {
        !matches!(self, Self::Write { .. } | Self::Read { .. })
    }
}

/// True when these first bytes are a zip's.
pub fn is_zip(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06")
}

/// True when these first bytes are a program's: a script with an interpreter, or ELF.
pub fn is_program(head: &[u8]) -> bool {
    head.starts_with(b"#!") || head.starts_with(b"\x7fELF")
}
