//! Traces of calls, for an OpenTelemetry collector.
//!
//! Each call of a route or of the internal listener is one span, which goes on with the trace
//! that the caller names in `traceparent` (W3C Trace Context); the function gets the span in the
//! same header, so what it tells itself comes below. A call for which an instance was made has a
//! span for that below it. A span ends with the head of the answer. Names and attributes are
//! OpenTelemetry's for HTTP servers and functions as a service.
//!
//! Promises: without a collector nothing is done, and `traceparent` is passed on as it came; a
//! collector that is slow or away costs spans, never calls.

use std::time::{Duration, SystemTime};

use farplane_functions_types::names::header;
use farplane_functions_types::wire::FunctionKey;
use http::{HeaderMap, Method, StatusCode};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _,
    TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_otlp::{
    HttpExporterBuilderSet, SpanExporter, SpanExporterBuilder, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::runtime::Tokio;
use opentelemetry_sdk::trace::span_processor_with_async_runtime::BatchSpanProcessor;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanProcessor};

/// Either of them names a collector that speaks OTLP over HTTP.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
/// What a collector may take for a batch.
const TIMEOUT: Duration = Duration::from_secs(10);
const SERVICE: &str = "fission-router";

/// Where spans go.
#[derive(Clone, Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// As OpenTelemetry's environment variables say; none when they name no collector. Needs the
    /// runtime that batches are sent from.
    ///
    /// # Errors
    /// When the collector's address cannot be used.
    pub fn from_env() -> Result<Option<Self>, String> {
        let named = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
        if !ENDPOINTS.into_iter().any(named) {
            return Ok(None);
        }
        let exporter = exporter().build();
        let exporter = exporter
            .map_err(|error| format!("the collector that {} names: {error}", ENDPOINTS[1]))?;
        Ok(Some(Self::in_batches(exporter)))
    }

    fn in_batches(exporter: SpanExporter) -> Self {
        Self::to(BatchSpanProcessor::builder(exporter, Tokio).build())
    }

    /// To a processor.
    pub fn to(processor: impl SpanProcessor + 'static) -> Self {
        let named = std::env::var("OTEL_SERVICE_NAME").is_ok();
        let resource = match named {
            true => Resource::builder(),
            false => Resource::builder().with_service_name(SERVICE),
        };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_span_processor(processor)
            .build();
        let tracer = provider.tracer("farplane");
        Self { provider, tracer }
    }

    /// A call begins. From here on its headers name its span.
    pub fn begin(&self, call: &Call<'_>, headers: &mut HeaderMap) -> Traced {
        let propagator = TraceContextPropagator::new();
        let parent = propagator.extract_with_context(&Context::new(), &HeaderExtractor(headers));
        let Call {
            method,
            route,
            function,
            id,
        } = call;
        let place = if route.is_empty() {
            function.name.as_str()
        } else {
            route
        };
        let builder = SpanBuilder::from_name(format!("{method} {place}"))
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("http.request.method", method.to_string()),
                KeyValue::new("http.route", (*route).to_owned()),
                KeyValue::new("faas.name", function.name.clone()),
                KeyValue::new("faas.version", function.version.clone()),
                KeyValue::new("k8s.namespace.name", function.namespace.clone()),
                KeyValue::new(
                    format!("http.request.header.{}", header::REQUEST_ID),
                    (*id).to_owned(),
                ),
            ]);
        let span = self.tracer.build_with_context(builder, &parent);
        let context = parent.with_span(span);
        propagator.inject_context(&context, &mut HeaderInjector(headers));
        Traced {
            context,
            tracer: self.tracer.clone(),
            began: SystemTime::now(),
        }
    }

    /// Sends what is left; blocks for as long.
    pub fn end(&self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::warn!(%error, "the last traces are lost");
        }
    }
}

fn exporter() -> SpanExporterBuilder<HttpExporterBuilderSet> {
    SpanExporter::builder()
        .with_http()
        .with_http_client(HyperClient::with_default_connector(TIMEOUT, None))
}

/// What a span is told at its begin.
pub struct Call<'a> {
    pub method: &'a Method,
    /// Path of the trigger; empty for internal calls.
    pub route: &'a str,
    pub function: &'a FunctionKey,
    /// Of the request.
    pub id: &'a str,
}

/// A call that runs. It ends unanswered when dropped: the client is gone.
pub struct Traced {
    context: Context,
    tracer: SdkTracer,
    began: SystemTime,
}

impl Traced {
    /// The call was answered. `cold` says how long an instance was waited for, if one was made.
    pub fn answered(self, status: StatusCode, cold: Option<Duration>) {
        if let Some(took) = cold {
            let builder = SpanBuilder::from_name("instance")
                .with_kind(SpanKind::Internal)
                .with_start_time(self.began);
            let mut made = self.tracer.build_with_context(builder, &self.context);
            made.end_with_timestamp(self.began + took);
        }
        let span = self.context.span();
        span.set_attribute(KeyValue::new(
            "http.response.status_code",
            i64::from(status.as_u16()),
        ));
        span.set_attribute(KeyValue::new("faas.coldstart", cold.is_some()));
        if status.is_server_error() {
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use hyper::body::Incoming;
    use hyper_util::rt::TokioIo;
    use opentelemetry::trace::{SpanId, TraceId};
    use opentelemetry_otlp::WithExportConfig as _;
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SimpleSpanProcessor};

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn begin(traces: &Traces, headers: &mut HeaderMap) -> Traced {
        let function = FunctionKey {
            namespace: "ns".into(),
            name: "f".into(),
            ..FunctionKey::default()
        };
        let call = Call {
            method: &Method::GET,
            route: "/hello",
            function: &function,
            id: "1",
        };
        traces.begin(&call, headers)
    }

    #[test]
    fn a_call_goes_on_with_its_callers_trace_and_gives_it_to_the_function() {
        let exporter = InMemorySpanExporter::default();
        let traces = Traces::to(SimpleSpanProcessor::new(exporter.clone()));
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", PARENT.parse().unwrap());
        let traced = begin(&traces, &mut headers);
        let given = headers["traceparent"].to_str().unwrap().to_owned();
        traced.answered(StatusCode::BAD_GATEWAY, Some(Duration::from_millis(9)));
        let spans = exporter.get_finished_spans().unwrap();
        let [instance, call] = spans.as_slice() else {
            panic!("{spans:?}")
        };
        let trace = TraceId::from_hex("4bf92f3577b34da6a3ce929d0e0e4736").unwrap();
        assert_eq!(call.span_context.trace_id(), trace);
        let parent = SpanId::from_hex("00f067aa0ba902b7").unwrap();
        assert_eq!(call.parent_span_id, parent);
        assert_eq!(call.name, "GET /hello");
        assert_eq!(call.status, Status::error(""));
        let own = call.span_context.span_id();
        assert_eq!(given, format!("00-{trace}-{own}-01"));
        assert_eq!(
            (instance.name.as_ref(), instance.parent_span_id),
            ("instance", own)
        );
        let took = instance.end_time.duration_since(instance.start_time);
        assert_eq!(took.unwrap(), Duration::from_millis(9));
        let said = |name: &str| {
            let found = call.attributes.iter().find(|it| it.key.as_str() == name);
            found.map(|it| it.value.to_string())
        };
        assert_eq!(said("http.response.status_code").as_deref(), Some("502"));
        assert_eq!(said("faas.coldstart").as_deref(), Some("true"));
        assert_eq!(said("faas.name").as_deref(), Some("f"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_collector_gets_spans_over_http() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, mut got) = tokio::sync::mpsc::channel(8);
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(|request: http::Request<Incoming>| {
                let sender = sender.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await?.to_bytes();
                    sender.send((path, body)).await.unwrap();
                    Ok::<_, hyper::Error>(http::Response::new(String::new()))
                }
            });
            let served = hyper::server::conn::http1::Builder::new();
            served.serve_connection(TokioIo::new(socket), service).await
        });
        let endpoint = format!("http://{address}/v1/traces");
        let exporter = exporter().with_endpoint(endpoint).build().unwrap();
        let traces = Traces::in_batches(exporter);
        begin(&traces, &mut HeaderMap::new()).answered(StatusCode::OK, None);
        tokio::task::spawn_blocking(move || traces.end())
            .await
            .unwrap();
        let (path, body) = got.recv().await.unwrap();
        assert_eq!(path, "/v1/traces");
        let has = |text: &str| body.windows(text.len()).any(|it| it == text.as_bytes());
        assert!(has("GET /hello") && has(SERVICE));
    }

    #[test]
    fn what_the_caller_does_not_sample_is_not_told() {
        let exporter = InMemorySpanExporter::default();
        let traces = Traces::to(SimpleSpanProcessor::new(exporter.clone()));
        let mut headers = HeaderMap::new();
        let not = PARENT.replace("-01", "-00");
        headers.insert("traceparent", not.parse().unwrap());
        begin(&traces, &mut headers).answered(StatusCode::OK, None);
        assert!(exporter.get_finished_spans().unwrap().is_empty());
        assert!(headers["traceparent"].to_str().unwrap().ends_with("-00"));
    }

    #[test]
    fn a_client_that_is_gone_leaves_a_span() {
        let exporter = InMemorySpanExporter::default();
        let traces = Traces::to(SimpleSpanProcessor::new(exporter.clone()));
        drop(begin(&traces, &mut HeaderMap::new()));
        let spans = exporter.get_finished_spans().unwrap();
        assert_eq!(spans.len(), 1);
        assert_eq!(spans[0].parent_span_id, SpanId::INVALID);
    }
}
