//! The multiplexed connection between agent and gateway, and between gateways.
//!
//! TLS 1.3 with mutual authentication on TCP carries yamux; both sides open streams.
//! This crate takes an established byte stream (any `AsyncRead + AsyncWrite`), so tests run
//! over an in-memory pipe. Who may open what is decided by the caller, per stream.
//!
//! Flow of a session: carrier -> [`Hello`] both ways on the control stream -> streams in
//! both directions -> [`Session::drain`] -> [`Session::close`], or death found by echo.
//!
//! Flow of a stream: [`OpenHeader`] -> [`OpenReply`] -> bytes with half-close -> end, or reset.
//!
//! Promises:
//! - A slow reader stalls its own stream only: the task that reads the carrier never waits
//!   for a consumer; credit per stream bounds what the peer may send.
//! - Every open has a deadline on both sides; pending opens and streams are capped, and more
//!   are refused with [`RefusalCode::Busy`] instead of queued.
//! - A silent peer is found within `echo_interval + echo_timeout` (25 s); then every stream
//!   fails at once with `ConnectionReset`.
//! - End of stream is reported only when the peer ended the stream on purpose: a stream dropped
//!   before both directions ended, or cut by the session's death, is a reset at the other
//!   end, never an end of file.
//! - A stream that turns out bulky moves to the bulk session, with every byte in order
//!   ([`MovingStream`]).
//! - No input from the peer makes this crate panic or allocate without bound.

mod bulk;
mod carrier;
mod config;
mod control;
pub mod dial;
mod driver;
mod error;
pub mod lines;
mod liveness;
pub mod metrics;
mod moving;
pub mod proxy;
mod session;
mod shared;
mod splice;
mod stream;
mod wire;

pub use bulk::{bulk_runtime, give_way, urgent_thread};
pub use config::Config;
pub use control::{Frame, MAX_CONTROL_BYTES};
pub use error::{CloseReason, OpenError, SessionError};
pub use moving::{MOVE, Moves, MovingStream};
pub use session::{Incoming, IncomingStream, Session, Stats};
pub use splice::{splice, splice_moving, splice_tcp};
pub use stream::TunnelStream;
pub use wire::{
    Class, DecodeError, Hello, MAX_HEADER_BYTES, MAX_REFUSAL_BYTES, OpenHeader, OpenReply,
    RefusalCode,
};

/// ALPN protocol of an agent's tunnel.
pub const ALPN: &[u8] = b"farplane-tunnel/1";
/// ALPN protocol between gateways; the same protocol inside.
pub const PEER_ALPN: &[u8] = b"farplane-peer/1";
/// Version that this build speaks: major in the high byte, minor in the low byte. Peers with
/// the same major version understand each other.
pub const VERSION: u16 = 0x0100;
