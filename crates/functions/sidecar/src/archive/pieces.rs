//! An archive in memory, in the pieces in which it came: they are not copied once more.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::positioned::sought;

/// Smaller pieces are put together: each keeps all of the buffer that it came in.
const SMALL: usize = 16 * 1024;
/// How much of them is put together.
const TOGETHER: usize = 64 * 1024;

/// Collects pieces.
#[derive(Debug, Default)]
pub struct Collector {
    pieces: Vec<(u64, Bytes)>,
    length: u64,
    small: BytesMut,
}

impl Collector {
    /// Takes the next piece.
    pub fn push(&mut self, piece: Bytes) {
        if piece.len() < SMALL {
            self.small.extend_from_slice(&piece);
            if self.small.len() >= TOGETHER {
                self.flush();
            }
            return;
        }
        self.flush();
        self.put(piece);
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            let together = self.small.split().freeze();
            self.put(together);
        }
    }

    fn put(&mut self, piece: Bytes) {
        let start = self.length;
        self.length += piece.len() as u64;
        self.pieces.push((start, piece));
    }

    /// All of them.
    pub fn end(mut self) -> Pieces {
        self.flush();
        Pieces {
            pieces: self.pieces.into(),
            length: self.length,
            at: 0,
        }
    }
}

/// Reads pieces one after the other, from a place that no other reader of them shares.
#[derive(Clone, Debug)]
pub struct Pieces {
    /// Each with the place of its first byte.
    pieces: Arc<[(u64, Bytes)]>,
    length: u64,
    at: u64,
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Self {
        let mut all = Collector::default();
        all.put(bytes);
        all.end()
    }
}

impl Pieces {
    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// True without any byte.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The first bytes, up to four.
    pub fn head(&self) -> Vec<u8> {
        let all = self.pieces.iter().flat_map(|(_, piece)| piece.iter());
        all.take(4).copied().collect()
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_to(&self, to: &mut impl Write) -> io::Result<()> {
        self.pieces
            .iter()
            .try_for_each(|(_, piece)| to.write_all(piece))
    }

    /// What is left of the piece at this place.
    fn rest(&self) -> &[u8] {
        let after = self.pieces.partition_point(|(start, _)| *start <= self.at);
        let Some((start, piece)) = after.checked_sub(1).map(|at| &self.pieces[at]) else {
            return &[];
        };
        let within = usize::try_from(self.at - start).unwrap_or(usize::MAX);
        piece.get(within..).unwrap_or_default()
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.rest().read(buffer)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Pieces {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = sought(to, self.at, self.length)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    proptest! {
        #[test]
        fn pieces_read_as_if_they_were_one(
            sizes in prop::collection::vec(prop_oneof![0_usize..50, 10_000_usize..70_000], 0..12),
            steps in prop::collection::vec((any::<u64>(), 0_usize..40_000), 1..20),
        ) {
            let total: usize = sizes.iter().sum();
            let whole: Vec<u8> = (0..total).map(|at| (at % 251) as u8).collect();
            let mut all = Collector::default();
            let mut at = 0;
            for size in sizes {
                all.push(Bytes::copy_from_slice(&whole[at..at + size]));
                at += size;
            }
            let mut pieces = all.end();
            prop_assert_eq!(pieces.len(), total as u64);
            prop_assert_eq!(&pieces.head()[..], &whole[..total.min(4)]);
            let mut written = Vec::new();
            pieces.write_to(&mut written).unwrap();
            prop_assert!(written == whole);
            let mut cursor = Cursor::new(&whole);
            for (to, count) in steps {
                let to = SeekFrom::Start(to % (total as u64 + 10));
                prop_assert_eq!(pieces.seek(to).unwrap(), cursor.seek(to).unwrap());
                let (mut one, mut other) = (Vec::new(), Vec::new());
                (&mut pieces).take(count as u64).read_to_end(&mut one).unwrap();
                (&mut cursor).take(count as u64).read_to_end(&mut other).unwrap();
                prop_assert!(one == other);
            }
            prop_assert_eq!(pieces.seek(SeekFrom::End(0)).unwrap(), total as u64);
            prop_assert!(pieces.seek(SeekFrom::End(-(total as i64) - 1)).is_err());
        }
    }
}
