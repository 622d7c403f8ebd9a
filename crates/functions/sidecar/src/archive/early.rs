//! Writes the first large entry of a zip while the archive still arrives.
//!
//! ```text
//!  Head ──small entry──▶ Skip ──▶ Head ──large, stored──▶ Body ──all of it──▶ Done
//!    └──────────── anything else: the archive is unpacked once it is there ─────▶ Off
//! ```
//! A compiled function is one such entry, and its bytes are taken for what they are: nothing is
//! decided here. [`unpack`](super::unpack()) puts the file in place only for an entry that says the
//! same place and size, after all that it asks of any entry, its checksum included.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Smaller entries are not worth it.
const LARGE: u64 = 1 << 20;
/// Of a local header, without name and extra field.
const HEAD: usize = 30;
/// Longest name and extra field.
const LONGEST: usize = 2 * u16::MAX as usize;
/// Bits of a header's flags: encrypted; sizes come after the bytes; central directory encrypted.
const UNKNOWN: u16 = 1 | 1 << 3 | 1 << 13;

/// Writes what it is given, if that is worth it.
#[derive(Debug)]
pub struct Early {
    path: PathBuf,
    /// Place in the archive.
    at: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Head(Vec<u8>),
    Skip(u64),
    Body { written: Written, left: u64 },
    Done(Written),
    Off,
}

/// A file that has the bytes of an entry. This name of it ends with the value.
#[derive(Debug)]
pub struct Written {
    /// Where the bytes are in the archive.
    pub start: u64,
    /// How many.
    pub size: u64,
    file: File,
    path: PathBuf,
}

/// What a local header says.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    /// More bytes of the header are needed.
    Short,
    /// Bytes of the header, then of the entry.
    Sized {
        head: usize,
        size: u64,
        stored: bool,
    },
    /// Not one whose end is known, or none at all.
    Other,
}

fn entry(head: &[u8]) -> Entry {
    let Some(fixed) = head.first_chunk::<HEAD>() else {
        return Entry::Short;
    };
    let short = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);
    let long =
        |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let (flags, method) = (short(6), short(8));
    let (packed, size) = (long(18), long(22));
    if !fixed.starts_with(b"PK\x03\x04") || flags & UNKNOWN != 0 || packed == u32::MAX {
        return Entry::Other;
    }
    Entry::Sized {
        head: HEAD + usize::from(short(26)) + usize::from(short(28)),
        size: u64::from(packed),
        stored: method == 0 && packed == size,
    }
}

impl Early {
    /// Writes to `path`, which must not exist. Makes it only when there is something to write.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            at: 0,
            state: State::Head(Vec::new()),
        }
    }

    /// Takes the archive's next bytes. A disk that refuses them does so again when the archive is
    /// unpacked, and that is told.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let used = match &mut self.state {
                State::Off | State::Done(_) => return,
                State::Head(head) => {
                    // One byte more than a header can have is never needed.
                    let used = bytes.len().min(HEAD + LONGEST - head.len());
                    let known = head.len();
                    head.extend_from_slice(&bytes[..used]);
                    self.begin(known).unwrap_or(used)
                }
                State::Skip(left) => {
                    let used = up_to(bytes, *left);
                    *left -= used as u64;
                    if *left == 0 {
                        self.state = State::Head(Vec::new());
                    }
                    used
                }
                State::Body { written, left } => {
                    let used = up_to(bytes, *left);
                    let put = written.file.write_all(&bytes[..used]);
                    *left -= used as u64;
                    let done = *left == 0;
                    if let Err(error) = put {
                        tracing::debug!(%error, "not written while it arrives");
                        self.state = State::Off;
                    } else if done {
                        self.end();
                    }
                    used
                }
            };
            self.at += used as u64;
            bytes = &bytes[used..];
        }
    }

    /// Looks at a header of which `known` bytes were there before. How many of the new ones are
    /// the header's, once it is whole.
    fn begin(&mut self, known: usize) -> Option<usize> {
        let State::Head(head) = &self.state else {
            return None;
        };
        let (length, size, stored) = match entry(head) {
            Entry::Short => return None,
            Entry::Sized { head: length, .. } if head.len() < length => return None,
            Entry::Sized {
                head: length,
                size,
                stored,
            } => (length, size, stored),
            Entry::Other => {
                self.state = State::Off;
                return None;
            }
        };
        let used = length - known;
        self.state = if size == 0 {
            State::Head(Vec::new())
        } else if !stored || size < LARGE {
            State::Skip(size)
        } else {
            match Written::create(&self.path, self.at + used as u64, size) {
                Ok(written) => State::Body {
                    written,
                    left: size,
                },
                Err(error) => {
                    tracing::debug!(%error, "not written while it arrives");
                    State::Off
                }
            }
        };
        Some(used)
    }

    fn end(&mut self) {
        if let State::Body { written, .. } = std::mem::replace(&mut self.state, State::Off) {
            self.state = State::Done(written);
        }
    }

    /// The file, if an entry was written.
    pub fn written(self) -> Option<Written> {
        match self.state {
            State::Done(written) => Some(written),
            _ => None,
        }
    }
}

fn up_to(bytes: &[u8], left: u64) -> usize {
    usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))
}

impl Written {
    fn create(path: &Path, start: u64, size: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o777)
            .open(path)?;
        Ok(Self {
            start,
            size,
            file,
            path: path.to_owned(),
        })
    }

    /// Gives the file another name, with the mode that it would have been made with.
    ///
    /// # Errors
    /// When its mode cannot be set, or as `link` says.
    pub(super) fn place(
        self,
        executable: bool,
        link: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        if !executable {
            let mode = self.file.metadata()?.permissions().mode() & 0o666;
            self.file
                .set_permissions(std::fs::Permissions::from_mode(mode))?;
        }
        link(&self.path)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        // It is beside the code, and nothing reads it.
        _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;
    use zip::CompressionMethod::{Deflated, Stored};
    use zip::write::SimpleFileOptions;

    fn zip(files: &[(&str, zip::CompressionMethod, &[u8])]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, method, bytes) in files {
            let options = SimpleFileOptions::default().compression_method(*method);
            writer.start_file(*name, options).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    /// What is written when the archive comes in pieces of these sizes, over and over.
    fn written(archive: &[u8], pieces: &[usize]) -> Option<(Vec<u8>, u64)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("early");
        let mut early = Early::new(path.clone());
        let (mut rest, mut sizes) = (archive, pieces.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            early.take(piece);
            rest = after;
        }
        let found = early.written().map(|written| {
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes.len() as u64, written.size);
            (bytes, written.start)
        });
        assert!(!path.exists(), "it ends with what it is for");
        found
    }

    #[test]
    fn only_a_stored_entry_that_is_large_is_written() {
        let large = vec![7; 1 << 20];
        for files in [
            vec![("a", Stored, &large[1..])],
            vec![("a", Deflated, &large[..])],
            vec![],
        ] {
            assert_eq!(written(&zip(&files), &[1000]), None);
        }
        assert_eq!(written(&large, &[1000]), None, "no zip at all");
        let cut = zip(&[("a", Stored, &large)]);
        assert_eq!(written(&cut[..large.len()], &[1000]), None, "it broke off");
        let mut encrypted = cut.clone();
        encrypted[6] |= 1;
        assert_eq!(written(&encrypted, &[1000]), None);
        let mut unsized_ = cut;
        unsized_[6] |= 8;
        assert_eq!(written(&unsized_, &[1000]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn however_it_comes_the_first_large_entry_is_written(
            pieces in prop::collection::vec(1_usize..100_000, 1..5),
            before in prop::collection::vec(any::<u8>(), 0..300),
            name in "[a-z]{1,40}",
        ) {
            let large: Vec<u8> = (0..(1_u32 << 20) + 17).map(|at| (at % 251) as u8).collect();
            let archive = zip(&[
                ("0", Deflated, &before),
                (&name, Stored, &large),
                ("{", Stored, &large[1..]),
            ]);
            let (bytes, start) = written(&archive, &pieces).unwrap();
            prop_assert_eq!(&bytes, &large);
            let start = usize::try_from(start).unwrap();
            prop_assert_eq!(&archive[start..start + large.len()], &large[..]);
        }
    }
}
