//! Numbers about the executor. Names without `farplane` are Fission's.

use std::sync::Arc;
use std::time::Duration;

use farplane_control::process;
use farplane_functions_types::wire::FunctionKey;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::state::Summary;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FunctionLabels {
    function_name: String,
    function_namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

/// Everything that is counted.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    cold_starts: Family<FunctionLabels, Counter>,
    failures: Family<FunctionLabels, Counter>,
    seconds: Histogram,
    pods: Family<PhaseLabel, Gauge>,
    waiting: Gauge,
    leads: Gauge,
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let cold_starts = Family::<FunctionLabels, Counter>::default();
        let failures = Family::<FunctionLabels, Counter>::default();
        let seconds = Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let (pods, waiting) = (Family::default(), Gauge::default());
        let leads = Gauge::default();
        registry.register(
            "fission_function_cold_starts",
            "Instances made for a call",
            cold_starts.clone(),
        );
        registry.register(
            "farplane_specialization_failures",
            "Pods that did not take the code",
            failures.clone(),
        );
        registry.register(
            "farplane_cold_start_seconds",
            "From request to instance, within the executor",
            seconds.clone(),
        );
        registry.register(
            "farplane_executor_pods",
            "Pods by phase",
            Clone::clone(&pods),
        );
        registry.register(
            "farplane_executor_waiting",
            "Callers that wait for a pool",
            waiting.clone(),
        );
        registry.register("farplane_executor_leads", "1 while it leads", leads.clone());
        process::register(&mut registry);
        Self {
            registry: Arc::new(registry),
            cold_starts,
            failures,
            seconds,
            pods,
            waiting,
            leads,
        }
    }

    pub fn cold_start(&self, key: &FunctionKey, took: Duration) {
        self.cold_starts.get_or_create(&labels(key)).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub fn specialization_failed(&self, key: &FunctionKey) {
        self.failures.get_or_create(&labels(key)).inc();
    }

    pub fn leads(&self, leads: bool) {
        self.leads.set(i64::from(leads));
    }

    /// As Prometheus reads it.
    pub fn text(&self, summary: &Summary) -> String {
        let set = |phase, count: usize| {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.pods.get_or_create(&PhaseLabel { phase }).set(count);
        };
        set("coming", summary.coming);
        set("ready", summary.ready);
        set("claimed", summary.claimed);
        set("live", summary.live);
        set("ending", summary.ending);
        self.waiting
            .set(i64::try_from(summary.waiting).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Fails only when a String cannot be written to.
        _ = encode(&mut text, &self.registry);
        text
    }
}

fn labels(key: &FunctionKey) -> FunctionLabels {
    FunctionLabels {
        function_name: key.name.clone(),
        function_namespace: key.namespace.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_contract() {
        let metrics = Metrics::new();
        let key = FunctionKey {
            name: "hello".into(),
            namespace: "n".into(),
            ..FunctionKey::default()
        };
        metrics.cold_start(&key, Duration::from_millis(5));
        let text = metrics.text(&Summary::default());
        let line = "fission_function_cold_starts_total{function_name=\"hello\",function_namespace=\"n\"} 1";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
    }
}
