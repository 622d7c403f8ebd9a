//! Bounds and times of a session.

use std::time::Duration;

use tokio::runtime::Handle;

use crate::metrics::Metrics;

const KIB: usize = 1024;

/// Bounds and times of a session. Both ends may differ; each holds its own.
#[derive(Clone, Debug)]
pub struct Config {
    /// Streams at a time, both directions together, pending opens included. More are refused
    /// with [`crate::RefusalCode::Busy`].
    pub max_streams: usize,
    /// By how many bytes the receive windows of all streams together may grow beyond the 256 KiB
    /// that each stream has from the start. Windows grow with the measured round trip.
    pub connection_window: usize,
    /// Bytes received and not yet read by consumers, all streams together. Beyond it the
    /// stream with the most is reset.
    pub max_buffered: usize,
    /// Payload of one yamux frame, in bytes. Larger costs less per byte, smaller lets other
    /// streams in sooner.
    pub frame_size: usize,
    /// Time between an echo's reply and the next echo.
    pub echo_interval: Duration,
    /// Silence after an echo that ends the session.
    pub echo_timeout: Duration,
    /// Longest wait of an open on either side, and of the hello.
    pub open_timeout: Duration,
    /// Opens that wait for a reply, per direction. More are refused with
    /// [`crate::RefusalCode::Busy`].
    pub max_pending_opens: usize,
    /// Where the work of a session of class bulk is done; where it was made, if there is none.
    pub bulk: Option<Handle>,
    /// Where the session counts; share one between all sessions of a process.
    pub metrics: Metrics,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_streams: 1024,
            connection_window: 16 * KIB * KIB,
            max_buffered: 64 * KIB * KIB,
            frame_size: 16 * KIB,
            echo_interval: Duration::from_secs(10),
            echo_timeout: Duration::from_secs(15),
            open_timeout: Duration::from_secs(10),
            max_pending_opens: 256,
            bulk: None,
            metrics: Metrics::default(),
        }
    }
}

impl Config {
    /// The multiplexer's own bounds. Its stream bound ends the whole connection, so it is far
    /// above ours, which refuses one stream.
    pub(crate) fn yamux(&self) -> yamux::Config {
        let streams = self.yamux_streams();
        let window = streams
            .saturating_mul(yamux::DEFAULT_CREDIT as usize)
            .saturating_add(self.connection_window);
        let mut config = yamux::Config::default();
        // Order matters: each setter checks the pair of bounds.
        config.set_max_connection_receive_window(None);
        config.set_max_num_streams(streams);
        config.set_max_connection_receive_window(Some(window));
        config.set_split_send_size(self.frame_size.clamp(KIB, 256 * KIB));
        config
    }

    /// Streams that the multiplexer itself can hold.
    pub(crate) fn yamux_streams(&self) -> usize {
        self.max_streams
            .saturating_add(self.max_pending_opens)
            .saturating_mul(3)
            .saturating_add(1024)
    }
}
