//! Objects of the API, and how statuses are written.

pub(crate) use farplane_control::conditions::{READY, Said, set_condition};
pub(crate) use farplane_control::objects::{Kind, Watched, is_code, now};
use kube::api::Api;
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;

/// Owner of the fields that we write.
pub(crate) const FIELD_MANAGER: &str = "farplane-triggers";

/// Writes our fields of a status.
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
    farplane_control::objects::apply_status(&api, FIELD_MANAGER, object, status).await
}
