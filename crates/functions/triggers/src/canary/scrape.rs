//! Reads the metrics of all routers.

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

use farplane_functions_types::names::{label, port};

use crate::canary::metrics::{self, Sample};
use crate::context::Context;
use crate::settings::MetricsSource;

const TIMEOUT: Duration = Duration::from_secs(5);
const AT_A_TIME: usize = 8;

/// A router.
struct Source {
    name: String,
    started: Option<Timestamp>,
    url: String,
}

/// What every router says that can be asked.
pub(crate) async fn all(context: &Context) -> Vec<Sample> {
    let sources = match &context.settings.metrics {
        MetricsSource::Urls(urls) => urls
            .iter()
            .map(|url| Source {
                name: url.clone(),
                started: None,
                url: url.clone(),
            })
            .collect(),
        MetricsSource::RouterPods => pods(&context.client, &context.settings.namespace).await,
    };
    let asked = futures::stream::iter(sources).map(|source| async move {
        match context.caller.get(&source.url, TIMEOUT).await {
            Ok(text) => Some(Sample {
                router: source.name,
                started: source.started,
                counters: metrics::parse(&String::from_utf8_lossy(&text)),
            }),
            Err(error) => {
                let url = source.url;
                tracing::warn!(url, %error, "a router's metrics cannot be read");
                None
            }
        }
    });
    asked
        .buffer_unordered(AT_A_TIME)
        .filter_map(std::future::ready)
        .collect()
        .await
}

async fn pods(client: &Client, namespace: &str) -> Vec<Source> {
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let selector = format!("{}=router", label::SERVICE);
    let pods = match api.list(&ListParams::default().labels(&selector)).await {
        Ok(pods) => pods,
        Err(error) => {
            tracing::warn!(%error, "the routers cannot be listed");
            return Vec::new();
        }
    };
    let sources = pods.items.iter().filter_map(|pod| {
        let status = pod.status.as_ref()?;
        let running = status.phase.as_deref() == Some("Running");
        let address = status.pod_ip.as_ref().filter(|_| running)?;
        // A container that was restarted counts from nought: that is seen by its counters.
        let restarts = status.container_statuses.iter().flatten();
        let restarts: i32 = restarts.map(|container| container.restart_count).sum();
        let host = if address.contains(':') {
            format!("[{address}]")
        } else {
            address.clone()
        };
        Some(Source {
            name: format!("{}/{restarts}", pod.uid()?),
            started: status.start_time.as_ref().map(|time| time.0),
            url: format!("http://{host}:{}/metrics", port::METRICS),
        })
    });
    sources.collect()
}
