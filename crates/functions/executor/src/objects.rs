//! Objects of the API, whose fields we write, and how statuses are written.

pub(crate) use farplane_control::conditions::{READY, Said, set_condition};
pub(crate) use farplane_control::objects::{Kind, Watched, is_code, now};
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

/// Owner of the fields that we write.
pub(crate) const FIELD_MANAGER: &str = "farplane-executor";

/// Writes a status by server-side apply: only our fields of it, and only of this very object.
pub(crate) async fn apply_status<K: Kind>(
    api: &Api<K>,
    object: &K,
    status: &Value,
) -> Result<(), kube::Error> {
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": object.name_any(), "uid": object.uid() },
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let written = api
        .patch_status(&object.name_any(), &parameters, &Patch::Apply(&body))
        .await;
    match written {
        // Deleted or made anew meanwhile: nobody is left to tell, or the watch tells.
        Err(error) if !is_code(&error, 404) && !is_code(&error, 409) => Err(error),
        _ => Ok(()),
    }
}
