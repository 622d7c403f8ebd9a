//! State that every part of one session sees: counts, caps, and how it ended.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    carrier::Wire, config::Config, error::CloseReason, metrics::Metrics, stream::RawStream,
};

/// Asks the driver for a new outbound stream; a dropped receiver takes the request back.
pub(crate) type OpenRequest = oneshot::Sender<RawStream>;

/// Asks the liveness task to say something on the control stream.
pub(crate) enum Say {
    /// Drain, with a notice once it is on its way.
    Drain(oneshot::Sender<()>),
}

/// State of one session.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) wire: Arc<Wire>,
    pub(crate) opens: mpsc::Sender<OpenRequest>,
    pub(crate) say: mpsc::Sender<Say>,
    pub(crate) peer_draining: watch::Sender<bool>,
    pub(crate) draining: AtomicBool,
    closed: watch::Sender<Option<CloseReason>>,
    open: AtomicUsize,
    pending_in: AtomicUsize,
    pending_out: AtomicUsize,
    rtt_micros: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        opens: mpsc::Sender<OpenRequest>,
        say: mpsc::Sender<Say>,
    ) -> Arc<Self> {
        config.metrics.session_opened();
        Arc::new(Self {
            wire: Wire::new(config.max_buffered, config.metrics.clone()),
            config,
            opens,
            say,
            peer_draining: watch::Sender::new(false),
            draining: AtomicBool::new(false),
            closed: watch::Sender::new(None),
            open: AtomicUsize::new(0),
            pending_in: AtomicUsize::new(0),
            pending_out: AtomicUsize::new(0),
            rtt_micros: AtomicU64::new(u64::MAX),
        })
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.config.metrics
    }

    /// Ends the session; the first reason stays. Streams fail at once.
    pub(crate) fn finish(&self, reason: CloseReason) {
        self.closed.send_if_modified(|closed| {
            let first = closed.is_none();
            if first {
                self.config.metrics.session_closed();
                *closed = Some(reason);
            }
            first
        });
        self.wire.end();
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.closed.borrow().clone()
    }

    pub(crate) fn watch_closed(&self) -> watch::Receiver<Option<CloseReason>> {
        self.closed.subscribe()
    }

    pub(crate) async fn closed(&self) -> CloseReason {
        let mut closed = self.closed.subscribe();
        match closed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone(),
            // The sender lives in `self`.
            Err(_) => None,
        }
        .unwrap_or_else(|| CloseReason::Local("dropped".to_owned()))
    }

    pub(crate) fn set_rtt(&self, rtt: Duration) {
        self.metrics().echoed(rtt);
        let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX - 1);
        self.rtt_micros.store(micros, Ordering::Relaxed);
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        match self.rtt_micros.load(Ordering::Relaxed) {
            u64::MAX => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        (
            self.open.load(Ordering::Relaxed),
            self.pending_in.load(Ordering::Relaxed),
            self.pending_out.load(Ordering::Relaxed),
        )
    }

    /// Takes a place for a pending open; `None` when a cap is reached.
    pub(crate) fn reserve(self: &Arc<Self>, direction: Direction) -> Option<Slot> {
        let pending = self.pending(direction);
        let mine = pending.fetch_add(1, Ordering::AcqRel);
        let (open, pending_in, pending_out) = self.counts();
        let total = open + pending_in + pending_out;
        if mine >= self.config.max_pending_opens || total > self.config.max_streams {
            pending.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        match direction {
            Direction::In => self.metrics().pending_in.inc(),
            Direction::Out => self.metrics().pending_out.inc(),
        };
        Some(Slot {
            shared: self.clone(),
            pending: Some(direction),
        })
    }

    fn pending(&self, direction: Direction) -> &AtomicUsize {
        match direction {
            Direction::In => &self.pending_in,
            Direction::Out => &self.pending_out,
        }
    }
}

/// Who opened a stream, seen from this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

/// A stream's place in the counts, first as a pending open, then as an open stream.
pub(crate) struct Slot {
    shared: Arc<Shared>,
    pending: Option<Direction>,
}

impl Slot {
    /// From pending to open.
    pub(crate) fn promote(&mut self) {
        self.leave_pending();
        self.shared.open.fetch_add(1, Ordering::AcqRel);
        self.shared.metrics().stream_opened();
    }

    fn leave_pending(&mut self) -> bool {
        let Some(direction) = self.pending.take() else {
            return false;
        };
        self.shared
            .pending(direction)
            .fetch_sub(1, Ordering::AcqRel);
        match direction {
            Direction::In => self.shared.metrics().pending_in.dec(),
            Direction::Out => self.shared.metrics().pending_out.dec(),
        };
        true
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.leave_pending() {
            self.shared.open.fetch_sub(1, Ordering::AcqRel);
            self.shared.metrics().stream_closed();
        }
    }
}

/// Held by everything a user holds; the session closes when the last one goes.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared
            .finish(CloseReason::Local("no handle left".to_owned()));
    }
}
