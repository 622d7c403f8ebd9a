//! Objects of the API, whose fields we write, and how statuses are written.

pub(crate) use farplane_control::conditions::{READY, Said, set_condition};
pub(crate) use farplane_control::objects::{Kind, Watched, is_code, now};
use kube::api::Api;
use serde_json::Value;

/// Owner of the fields that we write.
pub(crate) const FIELD_MANAGER: &str = "farplane-executor";

/// Writes our fields of a status.
pub(crate) async fn apply_status<K: Kind>(
    api: &Api<K>,
    object: &K,
    status: &Value,
) -> Result<(), kube::Error> {
    farplane_control::objects::apply_status(api, FIELD_MANAGER, object, status).await
}
