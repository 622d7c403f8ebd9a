//! What is said at the start of a stream, and the hello of a session; pure, no IO.
//!
//! A block is a big-endian `u16` length and that many bytes. The length is compared with a
//! constant before anything is allocated. Unknown JSON fields are ignored.

use bytes::{Buf, BufMut, BytesMut};
use serde::{Deserialize, Serialize};

/// Longest JSON body of an [`OpenHeader`], in bytes.
pub const MAX_HEADER_BYTES: usize = 4096;
/// Longest text of a refusal, in bytes.
pub const MAX_REFUSAL_BYTES: usize = 1024;

/// What a session or stream is used for; the two travel on separate connections.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Small and urgent: probes, watches, calls.
    Interactive,
    /// Large copies: images, logs, port forwards.
    Bulk,
}

/// First bytes of every stream.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OpenHeader {
    /// How urgent the stream is.
    pub class: Class,
    /// Name of the wanted service; the receiver authorises by it.
    pub service: String,
    /// Plane that the stream is for, by UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plane: Option<String>,
    /// What to reach within the service; the receiver checks it and never dials it unchecked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// How long the opener waits for the reply, in milliseconds; 0 is the receiver's default.
    #[serde(default)]
    pub deadline_ms: u32,
    /// Trace id, passed on as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Key by which the opener may move the stream to another session later; see [`crate::MOVE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves: Option<String>,
}

impl OpenHeader {
    /// A header with only class and service; the rest is empty.
    pub fn new(class: Class, service: impl Into<String>) -> Self {
        Self {
            class,
            service: service.into(),
            plane: None,
            target: None,
            deadline_ms: 0,
            trace: None,
            moves: None,
        }
    }

    /// The block that is sent. Fails when the body is longer than [`MAX_HEADER_BYTES`].
    pub fn encode(&self) -> Result<BytesMut, DecodeError> {
        encode_json(self, MAX_HEADER_BYTES)
    }

    /// Takes one header off the front of `buffer`; `None` when more bytes are needed.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, DecodeError> {
        decode_json(buffer, MAX_HEADER_BYTES)
    }
}

/// First frame of the control stream, in both directions.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// Protocol version, normally [`crate::VERSION`].
    pub version: u16,
    /// Version of the program, for people.
    pub agent_version: String,
    /// Grows with every start of the program; the newer of two sessions wins.
    #[serde(default)]
    pub epoch: u64,
    /// Class of the connection.
    pub class: Class,
    /// Optional abilities; unknown ones are ignored.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

impl Hello {
    /// A hello of this build's protocol version without capabilities.
    pub fn new(agent_version: impl Into<String>, epoch: u64, class: Class) -> Self {
        Self {
            version: crate::VERSION,
            agent_version: agent_version.into(),
            epoch,
            class,
            capabilities: Vec::new(),
        }
    }

    /// True when both versions have the same major part.
    pub fn compatible_with(&self, other: &Hello) -> bool {
        self.version >> 8 == other.version >> 8
    }
}

/// Why a stream was refused.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub enum RefusalCode {
    /// The receiver has no service of that name.
    UnknownService,
    /// The opener may not use it.
    Forbidden,
    /// The service exists and could not be reached.
    Unreachable,
    /// The service did not answer in time.
    Timeout,
    /// Too many streams or pending opens.
    Busy,
    /// The receiver takes no new streams; another connection may.
    Draining,
}

impl RefusalCode {
    /// Every code, for metrics and tests.
    pub const ALL: [Self; 6] = [
        Self::UnknownService,
        Self::Forbidden,
        Self::Unreachable,
        Self::Timeout,
        Self::Busy,
        Self::Draining,
    ];

    /// Name used in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownService => "unknown-service",
            Self::Forbidden => "forbidden",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::Draining => "draining",
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::UnknownService => 1,
            Self::Forbidden => 2,
            Self::Unreachable => 3,
            Self::Timeout => 4,
            Self::Busy => 5,
            Self::Draining => 6,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.byte() == byte)
    }
}

/// Answer to an [`OpenHeader`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenReply {
    /// The stream is open; what follows is the service's bytes.
    Ok,
    /// The stream is not open and ends after this.
    Refused {
        /// The kind of refusal.
        code: RefusalCode,
        /// For people.
        message: String,
    },
}

impl OpenReply {
    /// Bytes to send. A text longer than [`MAX_REFUSAL_BYTES`] is cut.
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        match self {
            Self::Ok => out.put_u8(0),
            Self::Refused { code, message } => {
                let text = cut(message, MAX_REFUSAL_BYTES);
                out.put_u8(code.byte());
                out.put_u16(u16::try_from(text.len()).unwrap_or(0));
                out.put_slice(text.as_bytes());
            }
        }
        out
    }

    /// Takes one reply off the front of `buffer`; `None` when more bytes are needed.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, DecodeError> {
        let Some(&status) = buffer.first() else {
            return Ok(None);
        };
        if status == 0 {
            buffer.advance(1);
            return Ok(Some(Self::Ok));
        }
        let code = RefusalCode::from_byte(status).ok_or(DecodeError::UnknownStatus { status })?;
        let Some(length) = peek_length(&buffer[1..], MAX_REFUSAL_BYTES)? else {
            return Ok(None);
        };
        if buffer.len() < 3 + length {
            return Ok(None);
        }
        buffer.advance(3);
        let text = buffer.split_to(length);
        let message = std::str::from_utf8(&text)
            .map_err(|_| DecodeError::NotText)?
            .to_owned();
        Ok(Some(Self::Refused { code, message }))
    }

    /// Bytes still missing before [`OpenReply::decode`] can go on; at least 1. Reading exactly
    /// this much never takes bytes that belong to the service.
    pub(crate) fn missing(buffer: &[u8]) -> usize {
        match buffer {
            [] => 1,
            [_] => 2,
            [_, _] => 1,
            [_, high, low, rest @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                length.saturating_sub(rest.len()).max(1)
            }
        }
    }
}

/// Why bytes from the peer are not a message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The announced length is over the bound.
    #[error("block of {length} bytes is longer than the bound of {max}")]
    TooLong {
        /// Announced length, in bytes.
        length: usize,
        /// The bound.
        max: usize,
    },
    /// A control frame without a kind.
    #[error("block is empty")]
    Empty,
    /// The JSON body is wrong.
    #[error("body is not the expected JSON")]
    Json {
        /// What the parser said.
        source: serde_json::Error,
    },
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    NotText,
    /// A known frame that is too short for its fields.
    #[error("control frame of kind {kind} is too short")]
    Truncated {
        /// Kind of the frame.
        kind: u8,
    },
    /// A status byte of an open reply that this version does not know.
    #[error("open reply has unknown status {status}")]
    UnknownStatus {
        /// The byte.
        status: u8,
    },
}

/// Length of the block at the front, checked against `max`; `None` without two bytes.
pub(crate) fn peek_length(buffer: &[u8], max: usize) -> Result<Option<usize>, DecodeError> {
    let [high, low, ..] = buffer else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length > max {
        return Err(DecodeError::TooLong { length, max });
    }
    Ok(Some(length))
}

/// Takes the block at the front; `None` when it is not complete.
pub(crate) fn take_block(
    buffer: &mut BytesMut,
    max: usize,
) -> Result<Option<BytesMut>, DecodeError> {
    let Some(length) = peek_length(buffer, max)? else {
        return Ok(None);
    };
    if buffer.len() < 2 + length {
        return Ok(None);
    }
    buffer.advance(2);
    Ok(Some(buffer.split_to(length)))
}

fn encode_json<T: Serialize>(value: &T, max: usize) -> Result<BytesMut, DecodeError> {
    let body = serde_json::to_vec(value).map_err(|source| DecodeError::Json { source })?;
    let too_long = DecodeError::TooLong {
        length: body.len(),
        max,
    };
    if body.len() > max {
        return Err(too_long);
    }
    let length = u16::try_from(body.len()).map_err(|_| too_long)?;
    let mut out = BytesMut::with_capacity(2 + body.len());
    out.put_u16(length);
    out.put_slice(&body);
    Ok(out)
}

fn decode_json<T: for<'a> Deserialize<'a>>(
    buffer: &mut BytesMut,
    max: usize,
) -> Result<Option<T>, DecodeError> {
    let Some(body) = take_block(buffer, max)? else {
        return Ok(None);
    };
    serde_json::from_slice(&body)
        .map(Some)
        .map_err(|source| DecodeError::Json { source })
}

/// The longest prefix of `text` with at most `max` bytes that ends between characters.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
