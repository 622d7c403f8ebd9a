//! Objects of the API, and how statuses are written.

pub(crate) use farplane_control::conditions::{READY, Said, set_condition};
pub(crate) use farplane_control::objects::{Kind, Watched, is_code, now};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde_json::json;

/// Owner of the fields that we write.
pub(crate) const FIELD_MANAGER: &str = "farplane-triggers";

/// Writes a status by server-side apply: only our fields of it.
pub(crate) async fn apply_status<K, S>(
    client: &Client,
    object: &K,
    status: &S,
) -> Result<(), kube::Error>
where
    K: Kind + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    S: Serialize,
{
    let namespace = object.namespace().unwrap_or_default();
    let api = Api::<K>::namespaced(client.clone(), &namespace);
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": object.name_any() },
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let written = api
        .patch_status(&object.name_any(), &parameters, &Patch::Apply(&body))
        .await;
    match written {
        // Deleted meanwhile: nobody is left to tell.
        Err(error) if !is_code(&error, 404) => Err(error),
        _ => Ok(()),
    }
}
