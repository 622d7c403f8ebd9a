//! The platform itself, as a set of objects in its namespace.

use anyhow::{Context as _, Result};
use farplane_embedded::chart::Identity;
use farplane_functions_types::names;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::failure::{About, Scope};

/// Field manager of what the chart renders.
pub(crate) const FIELD_MANAGER: &str = "farplane-functions-install";
/// ConfigMap that names what an installation applied.
const RECORD: &str = "farplane-functions";
const APPLIED: &str = "applied.json";
/// Label that the platform's own Deployments have.
const PART_OF: &str = "app.kubernetes.io/part-of=farplane-functions";

/// A request about one of the platform's own objects.
pub(crate) fn about<'a>(verb: &'a str, noun: &'a str, name: &'a str) -> About<'a> {
    About {
        noun,
        command: "functions",
        name,
        scope: Scope::Namespace(names::NAMESPACE),
        verb,
    }
}

/// The platform's Deployments by name; none when it is not installed.
pub(crate) async fn deployments(client: &Client) -> Result<Vec<Deployment>> {
    let api = Api::<Deployment>::namespaced(client.clone(), names::NAMESPACE);
    let list = api
        .list(&ListParams::default().labels(PART_OF))
        .await
        .map_err(|error| about("list", "Deployment", "").explain(error))?;
    let mut items = list.items;
    items.sort_by_key(|deployment| deployment.name_any());
    Ok(items)
}

/// The Pods of one of the platform's Deployments, or of all.
pub(crate) async fn pods(client: &Client) -> Result<Vec<Pod>> {
    let api = Api::<Pod>::namespaced(client.clone(), names::NAMESPACE);
    let list = api
        .list(&ListParams::default().labels(names::label::SERVICE))
        .await
        .map_err(|error| about("list", "Pod", "").explain(error))?;
    Ok(list.items)
}

/// Those Pods that are of one Deployment.
pub(crate) fn pods_of(pods: &[Pod], deployment: &str) -> Vec<Pod> {
    pods.iter()
        .filter(|pod| {
            pod.labels().get(names::label::SERVICE).map(String::as_str) == Some(deployment)
        })
        .cloned()
        .collect()
}

/// The secret that internal requests are signed with; empty when there is none.
pub(crate) async fn secret(client: &Client) -> Result<Vec<u8>> {
    let api = Api::<Secret>::namespaced(client.clone(), names::NAMESPACE);
    let found = api
        .get_opt(names::AUTH_SECRET)
        .await
        .map_err(|error| about("read", "Secret", names::AUTH_SECRET).explain(error))?;
    let value = found
        .and_then(|secret| secret.data)
        .and_then(|mut data| data.remove("secret"));
    Ok(value.map(|value| value.0).unwrap_or_default())
}

/// What the last installation applied; none when nothing is known of one.
pub(crate) async fn applied(client: &Client) -> Result<Option<Vec<Identity>>> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), names::NAMESPACE);
    let found = api
        .get_opt(RECORD)
        .await
        .map_err(|error| about("read", "ConfigMap", RECORD).explain(error))?;
    let text = found
        .and_then(|map| map.data)
        .and_then(|mut data| data.remove(APPLIED));
    text.map(|text| serde_json::from_str(&text))
        .transpose()
        .context("read what the last installation applied")
}

/// Writes down what an installation applies. Before it does, the objects of both the last and
/// this one are named, so that an interrupted one leaves nothing unknown.
pub(crate) async fn record(client: &Client, identities: &[Identity]) -> Result<()> {
    let text = serde_json::to_string(identities).context("write the record of the installation")?;
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": RECORD, "namespace": names::NAMESPACE },
        "data": { APPLIED: text },
    });
    let api = Api::<ConfigMap>::namespaced(client.clone(), names::NAMESPACE);
    api.patch(
        RECORD,
        &PatchParams::apply(FIELD_MANAGER).force(),
        &Patch::Apply(&object),
    )
    .await
    .map_err(|error| about("write", "ConfigMap", RECORD).explain(error))?;
    Ok(())
}

/// Forgets the installation.
pub(crate) async fn forget(client: &Client) -> Result<()> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), names::NAMESPACE);
    match api.delete(RECORD, &Default::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(about("delete", "ConfigMap", RECORD).explain(error)),
        Ok(_) => Ok(()),
    }
}
