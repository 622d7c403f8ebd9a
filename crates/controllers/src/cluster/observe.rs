//! What a plane's own API server says: whether it is ready, its nodes, its requests.

use std::time::Duration;

use axum::http::Request;
use farplane_kubernetes::View;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, ListParams};

use crate::error::Error;

/// A plane that does not answer holds nothing up for longer.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
const DNS_NAMESPACE: &str = "kube-system";
const DNS_SELECTOR: &str = "k8s-app=kube-dns";
const LIST_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks `/readyz`. Any failure is an answer too: it is not ready.
pub(crate) async fn is_ready(client: &Client) -> bool {
    let Ok(request) = Request::get("/readyz").body(Vec::new()) else {
        return false;
    };
    let asked = tokio::time::timeout(READY_TIMEOUT, client.request_text(request)).await;
    match asked {
        Ok(Ok(answer)) => answer.trim() == "ok",
        Ok(Err(error)) => {
            tracing::debug!(%error, "the API server is not ready");
            false
        }
        Err(_) => false,
    }
}

/// Lists what the controller decides about.
pub(crate) async fn observe(client: &Client) -> Result<View, Error> {
    let all = ListParams::default();
    let of_dns = ListParams::default().labels(DNS_SELECTOR);
    let nodes = Api::<Node>::all(client.clone());
    let requests = Api::<CertificateSigningRequest>::all(client.clone());
    let dns = Api::<Pod>::namespaced(client.clone(), DNS_NAMESPACE);
    let lists =
        async { futures::try_join!(nodes.list(&all), requests.list(&all), dns.list(&of_dns)) };
    let (nodes, requests, dns) = tokio::time::timeout(LIST_TIMEOUT, lists)
        .await
        .unwrap_or_else(|_| Err(kube::Error::Service("no answer in time".into())))
        .map_err(Error::plane("list nodes, signing requests and DNS"))?;
    let ready = dns.items.iter().filter(|pod| is_pod_ready(pod)).count();
    Ok(View {
        nodes: nodes.items,
        requests: requests.items,
        dns_ready: u32::try_from(ready).ok(),
    })
}

fn is_pod_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
