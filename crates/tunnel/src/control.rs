//! Frames of the control stream; pure, no IO.
//!
//! A frame is a big-endian `u16` length, a kind byte and a payload. Written rule: a receiver
//! ignores kinds that it does not know and bytes after the fields that it knows, so a newer
//! peer can say more; only a bound or a field that is broken ends the session.

use bytes::{Buf, BufMut, BytesMut};

use crate::wire::{DecodeError, Hello, cut, take_block};

/// Longest frame body (kind and payload), in bytes.
pub const MAX_CONTROL_BYTES: usize = 4096;

const HELLO: u8 = 1;
const ECHO: u8 = 2;
const ECHO_REPLY: u8 = 3;
const DRAIN: u8 = 4;
const CLOSE: u8 = 5;

/// One message on the control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// First frame in both directions.
    Hello(Hello),
    /// Asks for an [`Frame::EchoReply`] with the same number.
    Echo(u64),
    /// Answers an [`Frame::Echo`].
    EchoReply(u64),
    /// The sender wants no new streams from the receiver.
    Drain,
    /// The sender ends the session, with the reason for people.
    Close(String),
    /// A kind of a newer version; ignored.
    Unknown {
        /// Its number.
        kind: u8,
    },
}

impl Frame {
    /// Appends the frame to `out`. Fails when the body would be longer than
    /// [`MAX_CONTROL_BYTES`], which only a hello can.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), DecodeError> {
        let mut body = BytesMut::new();
        match self {
            Self::Hello(hello) => {
                body.put_u8(HELLO);
                let json =
                    serde_json::to_vec(hello).map_err(|source| DecodeError::Json { source })?;
                body.put_slice(&json);
            }
            Self::Echo(number) => {
                body.put_u8(ECHO);
                body.put_u64(*number);
            }
            Self::EchoReply(number) => {
                body.put_u8(ECHO_REPLY);
                body.put_u64(*number);
            }
            Self::Drain => body.put_u8(DRAIN),
            Self::Close(reason) => {
                body.put_u8(CLOSE);
                body.put_slice(cut(reason, MAX_CONTROL_BYTES - 1).as_bytes());
            }
            Self::Unknown { kind } => body.put_u8(*kind),
        }
        let too_long = DecodeError::TooLong {
            length: body.len(),
            max: MAX_CONTROL_BYTES,
        };
        if body.len() > MAX_CONTROL_BYTES {
            return Err(too_long);
        }
        out.put_u16(u16::try_from(body.len()).map_err(|_| too_long)?);
        out.put_slice(&body);
        Ok(())
    }

    /// Takes one frame off the front of `buffer`; `None` when more bytes are needed.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, DecodeError> {
        let Some(mut body) = take_block(buffer, MAX_CONTROL_BYTES)? else {
            return Ok(None);
        };
        if body.is_empty() {
            return Err(DecodeError::Empty);
        }
        let kind = body.get_u8();
        let frame = match kind {
            HELLO => Self::Hello(
                serde_json::from_slice(&body).map_err(|source| DecodeError::Json { source })?,
            ),
            ECHO => Self::Echo(number(kind, &mut body)?),
            ECHO_REPLY => Self::EchoReply(number(kind, &mut body)?),
            DRAIN => Self::Drain,
            CLOSE => Self::Close(
                std::str::from_utf8(&body)
                    .map_err(|_| DecodeError::NotText)?
                    .to_owned(),
            ),
            kind => Self::Unknown { kind },
        };
        Ok(Some(frame))
    }
}

fn number(kind: u8, body: &mut BytesMut) -> Result<u64, DecodeError> {
    body.try_get_u64()
        .map_err(|_| DecodeError::Truncated { kind })
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
