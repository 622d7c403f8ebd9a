//! Prometheus metrics of the gateway.

use farplane_tunnel::metrics::Metrics as TunnelMetrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// One thing and how it went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// What.
    pub what: &'static str,
    /// How it went.
    pub outcome: &'static str,
}

/// Counters and gauges; a clone counts into the same place.
#[derive(Clone, Default)]
pub struct Metrics {
    events: Family<Outcome, Counter>,
    /// Hosts whose tunnel is held here.
    pub hosts: Gauge,
    /// Connections that have not finished their handshake.
    pub handshakes: Gauge,
    /// Counts of every session.
    pub tunnel: TunnelMetrics,
}

impl Metrics {
    /// Counts one event.
    pub fn count(&self, what: &'static str, outcome: &'static str) {
        self.events.get_or_create(&Outcome { what, outcome }).inc();
    }

    /// Adds everything to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        self.tunnel.register(registry);
        let gateway = registry.sub_registry_with_prefix("farplane_gateway");
        gateway.register(
            "events",
            "Connections, streams, joins and egress requests by outcome",
            self.events.clone(),
        );
        gateway.register(
            "hosts",
            "Hosts whose tunnel is held here",
            self.hosts.clone(),
        );
        gateway.register(
            "handshakes",
            "Connections before the end of their handshake",
            self.handshakes.clone(),
        );
    }
}
