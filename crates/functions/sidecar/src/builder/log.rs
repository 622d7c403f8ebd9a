//! The end of a log, within bounds. Pure.

use std::collections::VecDeque;

/// Keeps the last bytes of what is written.
#[derive(Debug)]
pub struct Tail {
    kept: VecDeque<u8>,
    limit: usize,
    dropped: u64,
}

impl Tail {
    /// Keeps this many bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            limit,
            dropped: 0,
        }
    }

    /// Writes; the oldest bytes make room.
    pub fn write(&mut self, bytes: &[u8]) {
        let fits = &bytes[bytes.len().saturating_sub(self.limit)..];
        let over = (self.kept.len() + fits.len()).saturating_sub(self.limit);
        self.kept.drain(..over);
        self.kept.extend(fits);
        let dropped = over + (bytes.len() - fits.len());
        self.dropped += u64::try_from(dropped).unwrap_or(0);
    }

    /// The text that was kept, from the beginning of a line; says how much is missing.
    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self.kept.iter().copied().collect();
        if self.dropped == 0 {
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        let line = bytes.iter().position(|byte| *byte == b'\n');
        let start = line.map_or(0, |line| line + 1);
        let missing = self.dropped + u64::try_from(start).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[start..]);
        format!("[{missing} bytes of the log are left out here]\n{text}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_logs_are_kept_whole_and_long_ones_by_their_end() {
        let mut tail = Tail::new(10);
        tail.write(b"one\ntwo\n");
        assert_eq!(tail.text(), "one\ntwo\n");
        tail.write(b"three\n");
        assert_eq!(
            tail.text(),
            "[8 bytes of the log are left out here]\nthree\n"
        );
        tail.write(&[b'x'; 100]);
        assert_eq!(
            tail.text(),
            format!(
                "[104 bytes of the log are left out here]\n{}",
                "x".repeat(10)
            )
        );
    }

    proptest! {
        #[test]
        fn the_end_is_what_was_written_last(parts in proptest::collection::vec("[a-z\n]{0,30}", 0..20), limit in 1_usize..50) {
            let mut tail = Tail::new(limit);
            for part in &parts {
                tail.write(part.as_bytes());
            }
            let all = parts.concat();
            let text = tail.text();
            let end = text.split_once("here]\n").map_or(text.as_str(), |(_, end)| end);
            prop_assert!(all.ends_with(end));
            prop_assert!(end.len() <= limit);
            prop_assert!(all.len() > limit || end == all);
        }
    }
}
