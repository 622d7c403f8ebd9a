//! JSON messages, one per line, each bounded: what the streams `plan` and `renew` carry.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Longest line of a message, in bytes.
pub const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;
/// Memory that a burst may leave behind.
const KEPT_BYTES: usize = 64 * 1024;

/// Why a line could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The stream broke.
    #[error("the message stream broke: {source}")]
    Stream {
        /// What it says.
        source: io::Error,
    },
    /// A line without end.
    #[error("a line is longer than {max} bytes")]
    TooLong {
        /// The bound, in bytes.
        max: usize,
    },
    /// A line that is no message.
    #[error("a line is no message that is known here: {source}")]
    Malformed {
        /// What the parser says.
        source: serde_json::Error,
    },
}

/// Reads lines.
pub struct LineReader<R> {
    input: R,
    line: Vec<u8>,
    max: usize,
}

impl<R: AsyncBufRead + Unpin> LineReader<R> {
    /// Lines of at most `max` bytes.
    pub fn new(input: R, max: usize) -> Self {
        Self {
            input,
            line: Vec::new(),
            max,
        }
    }

    /// The next message; `None` at the end. Not cancel-safe.
    ///
    /// # Errors
    /// After [`LineError::Malformed`] the next line can still be read.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LineError> {
        self.line.clear();
        loop {
            let available = self.input.fill_buf().await;
            let available = available.map_err(|source| LineError::Stream { source })?;
            let end = available.iter().position(|byte| *byte == b'\n');
            let part = end.unwrap_or(available.len());
            if self.line.len() + part > self.max {
                return Err(LineError::TooLong { max: self.max });
            }
            self.line.extend_from_slice(&available[..part]);
            let finished = available.is_empty();
            self.input.consume(end.map_or(part, |at| at + 1));
            if finished && self.line.is_empty() {
                return Ok(None);
            }
            if end.is_some() || finished {
                let message = serde_json::from_slice(&self.line);
                self.line.shrink_to(KEPT_BYTES);
                return message.map_err(|source| LineError::Malformed { source });
            }
        }
    }
}

/// Writes one message as a line.
///
/// # Errors
/// When it is too long for the peer or the stream broke.
pub async fn send<W, T>(output: &mut W, message: &T) -> Result<(), LineError>
where
    W: AsyncWrite + Unpin,
    T: Serialize,
{
    let mut line = serde_json::to_vec(message).map_err(|source| LineError::Malformed { source })?;
    if line.len() > MAX_LINE_BYTES {
        return Err(LineError::TooLong {
            max: MAX_LINE_BYTES,
        });
    }
    line.push(b'\n');
    let broken = |source| LineError::Stream { source };
    output.write_all(&line).await.map_err(broken)?;
    output.flush().await.map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::BufReader;

    #[tokio::test]
    async fn lines_split_anywhere_read_the_same() {
        let text = b"\"one\"\nnonsense\n\"two\"";
        for capacity in 1..text.len() {
            let mut lines = LineReader::new(BufReader::with_capacity(capacity, &text[..]), 16);
            assert_eq!(lines.next().await.unwrap(), Some("one".to_owned()));
            assert!(matches!(
                lines.next::<String>().await,
                Err(LineError::Malformed { .. })
            ));
            assert_eq!(lines.next().await.unwrap(), Some("two".to_owned()));
            assert_eq!(lines.next::<String>().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_line_without_end_is_refused_at_the_bound() {
        let endless = tokio::io::repeat(b'x');
        let mut lines = LineReader::new(BufReader::new(endless), 1000);
        assert!(matches!(
            lines.next::<String>().await,
            Err(LineError::TooLong { max: 1000 })
        ));
    }
}
