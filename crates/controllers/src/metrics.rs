//! Numbers about the controllers, and the port that tells them: `/metrics`, `/healthz`,
//! `/readyz`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabel {
    kind: &'static str,
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: String,
}

/// Everything that is counted.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    reconciliations: Family<KindLabel, Counter>,
    errors: Family<ErrorLabel, Counter>,
    seconds: Family<KindLabel, Histogram>,
    clusters: Family<PhaseLabel, Gauge>,
    phases: Arc<Mutex<std::collections::BTreeMap<String, String>>>,
}

impl Metrics {
    pub fn new() -> Self {
        let reconciliations = Family::<KindLabel, Counter>::default();
        let errors = Family::<ErrorLabel, Counter>::default();
        let clusters = Family::<PhaseLabel, Gauge>::default();
        let seconds = Family::<KindLabel, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.005, 2.0, 12))
        });
        let mut registry = Registry::with_prefix("farplane_controllers");
        registry.register(
            "reconciliations",
            "Reconciliations",
            reconciliations.clone(),
        );
        registry.register("errors", "Failed reconciliations", errors.clone());
        registry.register(
            "reconcile_seconds",
            "Time of a reconciliation",
            seconds.clone(),
        );
        registry.register("clusters", "Clusters by phase", clusters.clone());
        Self {
            registry: Arc::new(registry),
            reconciliations,
            errors,
            seconds,
            clusters,
            phases: Arc::default(),
        }
    }

    pub fn reconciled(&self, kind: &'static str, took: Duration) {
        self.reconciliations
            .get_or_create(&KindLabel { kind })
            .inc();
        self.seconds
            .get_or_create(&KindLabel { kind })
            .observe(took.as_secs_f64());
    }

    pub fn failed(&self, kind: &'static str, class: crate::error::Class) {
        let class = match class {
            crate::error::Class::Retry => "retry",
            crate::error::Class::Wait => "wait",
            crate::error::Class::Fatal => "fatal",
        };
        self.errors.get_or_create(&ErrorLabel { kind, class }).inc();
    }

    /// Phase of one cluster, `None` once it is gone.
    pub fn phase(&self, uid: &str, phase: Option<&str>) {
        let mut phases = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
        let old = match phase {
            Some(phase) => phases.insert(uid.to_owned(), phase.to_owned()),
            None => phases.remove(uid),
        };
        let gauge = |phase: &str, by: i64| {
            let label = PhaseLabel {
                phase: phase.to_owned(),
            };
            self.clusters.get_or_create(&label).inc_by(by);
        };
        if let Some(old) = old {
            gauge(&old, -1);
        }
        if let Some(phase) = phase {
            gauge(phase, 1);
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::warn!(%error, "could not write the metrics");
        }
        text
    }

    /// Routes of the port. A process that waits for the lease is healthy and ready too.
    pub fn router(self) -> Router {
        const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        let metrics = move || async move { ([(CONTENT_TYPE, TYPE)], self.text()).into_response() };
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok" }))
            .route("/readyz", get(|| async { "ok" }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_counted_in_one_phase_only() {
        let metrics = Metrics::new();
        metrics.phase("a", Some("Provisioning"));
        metrics.phase("b", Some("Provisioning"));
        metrics.phase("a", Some("Ready"));
        metrics.phase("b", None);
        let text = metrics.text();
        assert!(
            text.contains("clusters{phase=\"Provisioning\"} 0"),
            "{text}"
        );
        assert!(text.contains("clusters{phase=\"Ready\"} 1"), "{text}");
    }
}
