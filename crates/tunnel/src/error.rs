//! What can go wrong with a session and with opening a stream.

use std::time::Duration;

use crate::wire::{DecodeError, RefusalCode};

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// This side closed it.
    #[error("closed here: {0}")]
    Local(String),
    /// The peer closed it.
    #[error("closed by the peer: {0}")]
    Peer(String),
    /// No sign of life from the peer after an echo.
    #[error("peer silent for {} s after an echo", .0.as_secs())]
    EchoTimeout(Duration),
    /// The carrier failed.
    #[error("carrier failed: {0}")]
    Carrier(String),
    /// The peer broke the protocol.
    #[error("protocol broken: {0}")]
    Protocol(String),
}

/// Why a session could not be established.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The hello does not fit a control frame.
    #[error("failed to encode the hello")]
    EncodeHello {
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The control stream could not be opened.
    #[error("failed to open the control stream: {reason}")]
    OpenControl {
        /// How the session ended.
        reason: CloseReason,
    },
    /// The hello could not be sent.
    #[error("failed to send the hello")]
    SendHello {
        /// What the stream said.
        source: std::io::Error,
    },
    /// The peer's hello could not be read.
    #[error("failed to receive the peer's hello")]
    ReceiveHello {
        /// What the stream said.
        source: std::io::Error,
    },
    /// The peer's hello is malformed.
    #[error("failed to decode the peer's hello")]
    DecodeHello {
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The first control frame was something else.
    #[error("peer began with another control frame than hello")]
    NoHello,
    /// No hello in time.
    #[error("no hello from the peer within {} s", timeout.as_secs_f32())]
    HelloTimeout {
        /// How long was waited.
        timeout: Duration,
    },
    /// The peer speaks another major version.
    #[error(
        "peer speaks protocol version {}.{}, this side {}.{}",
        theirs >> 8, theirs & 0xff, ours >> 8, ours & 0xff
    )]
    Version {
        /// This side's version.
        ours: u16,
        /// The peer's version.
        theirs: u16,
    },
}

/// Why a stream could not be opened. Until an open succeeds no byte of the service was sent,
/// so trying another connection is safe.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The header does not fit.
    #[error("failed to encode the open header")]
    Header {
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The session is over.
    #[error("session is closed: {reason}")]
    Closed {
        /// How it ended.
        reason: CloseReason,
    },
    /// The peer asked for no new streams.
    #[error("peer is draining")]
    Draining,
    /// Too many streams or pending opens on this side.
    #[error("too many streams or pending opens on this session")]
    Busy,
    /// The peer refused, with its reason.
    #[error("peer refused the stream ({}): {message}", code.as_str())]
    Refused {
        /// The kind of refusal.
        code: RefusalCode,
        /// The peer's text.
        message: String,
    },
    /// No reply in time.
    #[error("no reply to the open within {} ms", deadline.as_millis())]
    Timeout {
        /// How long was waited.
        deadline: Duration,
    },
    /// The stream broke before the reply.
    #[error("stream failed before the reply")]
    Stream {
        /// What the stream said.
        source: std::io::Error,
    },
    /// The reply is malformed.
    #[error("failed to decode the open reply")]
    Reply {
        /// What is wrong with it.
        source: DecodeError,
    },
}

impl OpenError {
    /// True when the same open may succeed later or over another connection.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Header { .. } | Self::Reply { .. } => false,
            Self::Refused { code, .. } => {
                !matches!(code, RefusalCode::UnknownService | RefusalCode::Forbidden)
            }
            Self::Closed { .. }
            | Self::Draining
            | Self::Busy
            | Self::Timeout { .. }
            | Self::Stream { .. } => true,
        }
    }
}
