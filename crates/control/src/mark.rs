//! Says by a label which of a part's Pods leads: Services of parts of which only the leader
//! answers select it. Readiness cannot say it: a rolling upgrade waits until all are ready.
//!
//! A mark that a process left behind when it died leads to a Pod that answers «ask again»; the
//! next leader takes it away.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

/// Label of the Pod that leads.
pub const LEADS: &str = "farplane.io/leads";
/// Marks that somebody took away come back after this time.
const AGAIN: Duration = Duration::from_secs(30);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the mark at the Pod `own` and away from others with these labels, for as long as it is
/// polled: run it while leading.
pub async fn keep(pods: Api<Pod>, labels: &str, own: &str) {
    loop {
        let pause = match mark(&pods, labels, own).await {
            Ok(()) => AGAIN,
            Err(error) => {
                tracing::warn!(%error, own, "the Pod that leads cannot be marked");
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn mark(pods: &Api<Pod>, labels: &str, own: &str) -> Result<(), kube::Error> {
    set(pods, own, Some("true")).await?;
    let marked = ListParams::default().labels(&format!("{labels},{LEADS}"));
    for pod in pods.list(&marked).await? {
        let name = pod.name_any();
        if name == own {
            continue;
        }
        match set(pods, &name, None).await {
            // It went by itself.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => other?,
        }
    }
    Ok(())
}

async fn set(pods: &Api<Pod>, name: &str, value: Option<&str>) -> Result<(), kube::Error> {
    let patch = json!({ "metadata": { "labels": { LEADS: value } } });
    let patch = Patch::Merge(&patch);
    pods.patch_metadata(name, &PatchParams::default(), &patch)
        .await
        .map(drop)
}
