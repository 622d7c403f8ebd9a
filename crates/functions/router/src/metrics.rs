//! Numbers about calls. The names are Fission's: canaries and dashboards look for them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use farplane_control::process;
use farplane_functions_types::wire::FunctionKey;
use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    function_name: String,
    function_namespace: String,
    path: String,
    method: String,
    code: u16,
    /// Empty, which is as good as absent, when the live function was called.
    function_version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Function {
    function_name: String,
    function_namespace: String,
}

/// By namespace, name and version of the function.
type Meters = HashMap<String, HashMap<String, HashMap<String, Arc<Meter>>>>;

/// Everything that is counted.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    calls: Family<Call, Counter>,
    errors: Family<Call, Counter>,
    overhead: Family<Function, Histogram, fn() -> Histogram>,
    cold_starts: Family<Function, Counter>,
    routes: Gauge,
    meters: Arc<RwLock<Meters>>,
}

/// The numbers of one function, at hand without a label being written.
struct Meter {
    function: Function,
    version: String,
    overhead: Histogram,
    cold_starts: Counter,
    /// By path of the trigger.
    paths: RwLock<HashMap<String, Vec<Outcome>>>,
}

/// Calls at one path that ended alike.
struct Outcome {
    method: Method,
    status: StatusCode,
    calls: Counter,
    errors: Option<Counter>,
}

impl Outcome {
    fn count(&self) {
        self.calls.inc();
        if let Some(errors) = &self.errors {
            errors.inc();
        }
    }
}

/// From 10 µs, which no call is faster than, to 10 s and more.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_01, 3.0, 14))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let calls = Family::<Call, Counter>::default();
        let errors = Family::<Call, Counter>::default();
        let overhead =
            Family::<Function, Histogram, fn() -> Histogram>::new_with_constructor(buckets);
        let cold_starts = Family::<Function, Counter>::default();
        let routes = Gauge::default();
        registry.register("fission_function_calls", "Calls", calls.clone());
        registry.register(
            "fission_function_errors",
            "Calls answered with a status of 400 or above",
            errors.clone(),
        );
        registry.register(
            "fission_function_overhead_seconds",
            "From a call to its being sent to an instance",
            overhead.clone(),
        );
        registry.register(
            "fission_function_cold_starts",
            "Calls for which an instance was made",
            cold_starts.clone(),
        );
        registry.register("fission_router_routes", "Routes", routes.clone());
        process::register(&mut registry);
        Self {
            registry: Arc::new(registry),
            calls,
            errors,
            overhead,
            cold_starts,
            routes,
            meters: Arc::default(),
        }
    }

    /// A call was answered. `path` is that of the trigger, not of the request: the number of
    /// series stays that of the triggers. `overhead` is the time before it was sent to an instance.
    pub fn called(
        &self,
        function: &FunctionKey,
        path: &str,
        method: &Method,
        status: StatusCode,
        overhead: Duration,
        cold: bool,
    ) {
        let meter = self.meter(function);
        meter.overhead.observe(overhead.as_secs_f64());
        if cold {
            meter.cold_starts.inc();
        }
        let paths = meter.paths.read().unwrap_or_else(PoisonError::into_inner);
        let outcomes = paths.get(path).map_or(&[][..], Vec::as_slice);
        let same = |it: &&Outcome| it.status == status && it.method == *method;
        if let Some(outcome) = outcomes.iter().find(same) {
            return outcome.count();
        }
        drop(paths);
        let outcome = self.outcome(&meter, path, method, status);
        outcome.count();
        let mut paths = meter.paths.write().unwrap_or_else(PoisonError::into_inner);
        let outcomes = paths.entry(path.to_owned()).or_default();
        // Counters of the same labels are the same, so one that came in between does no harm.
        if !outcomes.iter().any(|it| same(&it)) {
            outcomes.push(outcome);
        }
    }

    fn meter(&self, key: &FunctionKey) -> Arc<Meter> {
        let meters = self.meters.read().unwrap_or_else(PoisonError::into_inner);
        let names = meters.get(&key.namespace);
        let versions = names.and_then(|names| names.get(&key.name));
        let known = versions.and_then(|versions| versions.get(&key.version));
        if let Some(meter) = known {
            return meter.clone();
        }
        drop(meters);
        let function = Function {
            function_name: key.name.clone(),
            function_namespace: key.namespace.clone(),
        };
        let meter = Arc::new(Meter {
            overhead: self.overhead.get_or_create(&function).clone(),
            cold_starts: self.cold_starts.get_or_create(&function).clone(),
            paths: RwLock::default(),
            function,
            version: key.version.clone(),
        });
        let mut meters = self.meters.write().unwrap_or_else(PoisonError::into_inner);
        let names = meters.entry(key.namespace.clone()).or_default();
        let versions = names.entry(key.name.clone()).or_default();
        let known = versions.entry(key.version.clone());
        known.or_insert(meter).clone()
    }

    fn outcome(&self, meter: &Meter, path: &str, method: &Method, status: StatusCode) -> Outcome {
        let labels = Call {
            function_name: meter.function.function_name.clone(),
            function_namespace: meter.function.function_namespace.clone(),
            function_version: meter.version.clone(),
            path: path.to_owned(),
            method: method.to_string(),
            code: status.as_u16(),
        };
        let failed = status.as_u16() >= 400;
        Outcome {
            method: method.clone(),
            status,
            calls: self.calls.get_or_create(&labels).clone(),
            errors: failed.then(|| self.errors.get_or_create(&labels).clone()),
        }
    }

    /// How many routes there are.
    pub fn routes(&self, count: usize) {
        self.routes.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// In the format of Prometheus.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::warn!(%error, "the metrics cannot be written");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_under_the_names_that_canaries_ask_for() {
        let metrics = Metrics::new();
        let call = |version: &str, status, cold| {
            let function = FunctionKey {
                namespace: "ns".to_owned(),
                name: "f".to_owned(),
                version: version.to_owned(),
                ..FunctionKey::default()
            };
            let overhead = Duration::from_micros(50);
            metrics.called(&function, "/hello", &Method::GET, status, overhead, cold);
        };
        call("", StatusCode::OK, true);
        call("", StatusCode::OK, false);
        call("f-v2", StatusCode::OK, false);
        call("", StatusCode::BAD_GATEWAY, false);
        metrics.routes(3);
        let text = metrics.text();
        let labels = r#"function_name="f",function_namespace="ns",path="/hello",method="GET""#;
        for line in [
            format!("fission_function_calls_total{{{labels},code=\"200\",function_version=\"\"}} 2"),
            format!("fission_function_calls_total{{{labels},code=\"200\",function_version=\"f-v2\"}} 1"),
            format!("fission_function_errors_total{{{labels},code=\"502\",function_version=\"\"}} 1"),
            r#"fission_function_cold_starts_total{function_name="f",function_namespace="ns"} 1"#
                .to_owned(),
            r#"fission_function_overhead_seconds_count{function_name="f",function_namespace="ns"} 4"#
                .to_owned(),
            "fission_router_routes 3".to_owned(),
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
    }
}
