//! What a plane's own API server says: whether it is ready, its nodes, its requests.

use std::time::Duration;

use axum::http::Request;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, ListParams};

use crate::error::Error;

/// A plane that does not answer holds nothing up for longer.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
const LIST_TIMEOUT: Duration = Duration::from_secs(10);

/// What a ready plane says.
pub(crate) struct Observed {
    pub nodes: Vec<Node>,
    pub requests: Vec<CertificateSigningRequest>,
}

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
pub(crate) async fn observe(client: &Client) -> Result<Observed, Error> {
    let all = ListParams::default();
    let nodes = Api::<Node>::all(client.clone());
    let requests = Api::<CertificateSigningRequest>::all(client.clone());
    let both = async { futures::try_join!(nodes.list(&all), requests.list(&all)) };
    let (nodes, requests) = tokio::time::timeout(LIST_TIMEOUT, both)
        .await
        .unwrap_or_else(|_| Err(kube::Error::Service("no answer in time".into())))
        .map_err(Error::plane("list nodes and signing requests"))?;
    Ok(Observed {
        nodes: nodes.items,
        requests: requests.items,
    })
}
