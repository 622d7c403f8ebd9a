//! Prometheus metrics of all sessions of a process.
//!
//! Make one [`Metrics`], register it once, put a clone into each session's
//! [`crate::Config`].

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::wire::RefusalCode;

/// Who opened a stream, or which way bytes went, seen from this process.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RefusalLabel {
    direction: &'static str,
    code: &'static str,
}

const IN: DirectionLabel = DirectionLabel { direction: "in" };
const OUT: DirectionLabel = DirectionLabel { direction: "out" };

/// Counters and gauges; a clone counts into the same place.
#[derive(Clone, Debug)]
pub struct Metrics {
    sessions: Gauge,
    streams: Gauge,
    pending: Family<DirectionLabel, Gauge>,
    pub(crate) pending_in: Gauge,
    pub(crate) pending_out: Gauge,
    resets: Counter,
    moves: Counter,
    refused: Family<RefusalLabel, Counter>,
    bytes: Family<DirectionLabel, Counter>,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    echo: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let pending = Family::<DirectionLabel, Gauge>::default();
        let bytes = Family::<DirectionLabel, Counter>::default();
        let buckets = [
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0,
        ];
        Self {
            sessions: Gauge::default(),
            streams: Gauge::default(),
            pending_in: pending.get_or_create_owned(&IN),
            pending_out: pending.get_or_create_owned(&OUT),
            pending,
            resets: Counter::default(),
            moves: Counter::default(),
            refused: Family::default(),
            bytes_in: bytes.get_or_create_owned(&IN),
            bytes_out: bytes.get_or_create_owned(&OUT),
            bytes,
            echo: Histogram::new(buckets),
        }
    }
}

impl Metrics {
    /// Adds everything to `registry` under `farplane_tunnel_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("farplane_tunnel");
        registry.register("sessions", "Live sessions", self.sessions.clone());
        registry.register("streams", "Open streams", self.streams.clone());
        registry.register(
            "pending_opens",
            "Opens that wait for a reply (pending dials)",
            self.pending.clone(),
        );
        registry.register(
            "resets",
            "Streams that ended other than by both sides finishing",
            self.resets.clone(),
        );
        registry.register(
            "moves",
            "Streams opened here that moved to the bulk session",
            self.moves.clone(),
        );
        registry.register(
            "refused",
            "Streams refused by this side (in) or by the peer (out)",
            self.refused.clone(),
        );
        registry.register(
            "carrier_bytes",
            "Bytes on the carriers, inside TLS",
            self.bytes.clone(),
        );
        registry.register_with_unit(
            "echo_rtt",
            "Round trip of the control stream's echo",
            Unit::Seconds,
            self.echo.clone(),
        );
    }

    pub(crate) fn session_opened(&self) {
        self.sessions.inc();
    }

    pub(crate) fn session_closed(&self) {
        self.sessions.dec();
    }

    pub(crate) fn stream_opened(&self) {
        self.streams.inc();
    }

    pub(crate) fn stream_closed(&self) {
        self.streams.dec();
    }

    pub(crate) fn reset(&self) {
        self.resets.inc();
    }

    pub(crate) fn moved(&self) {
        self.moves.inc();
    }

    pub(crate) fn refused_here(&self, code: RefusalCode) {
        self.count_refusal("in", code);
    }

    pub(crate) fn refused_by_peer(&self, code: RefusalCode) {
        self.count_refusal("out", code);
    }

    fn count_refusal(&self, direction: &'static str, code: RefusalCode) {
        let label = RefusalLabel {
            direction,
            code: code.as_str(),
        };
        self.refused.get_or_create(&label).inc();
    }

    pub(crate) fn echoed(&self, rtt: Duration) {
        self.echo.observe(rtt.as_secs_f64());
    }
}
