//! Server-side apply of status fields, for one object by name and UID.
//!
//! Each part of a status has a field manager of its own, so that parts written by different
//! gateways or at different times never take one another away.

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Manager of what agents report; the same for every gateway, as agents move between them.
pub const AGENT_MANAGER: &str = "farplane-agent";
/// Manager of what enrolment writes.
pub const ENROLMENT_MANAGER: &str = "farplane-enrolment";

/// A status that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write the status of {kind} {name}")]
pub struct StatusError {
    /// Kind of the object.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What the API says.
    pub source: kube::Error,
}

/// Applies `status` to the object, if it is still the one with this UID.
///
/// # Errors
/// When the API refuses or does not answer; an object that is gone is no error.
pub async fn apply<K>(
    api: &Api<K>,
    name: &str,
    uid: &str,
    manager: &str,
    status: Value,
) -> Result<(), StatusError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        // The API refuses the patch when an object of this name has another UID.
        "metadata": { "name": name, "uid": uid },
        "status": status,
    });
    let params = PatchParams::apply(manager).force();
    match api.patch_status(name, &params, &Patch::Apply(body)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if [404, 409, 422].contains(&answer.code) => {
            tracing::debug!(kind = %K::kind(&()), name, uid, reason = answer.message, "object is gone");
            Ok(())
        }
        Err(source) => Err(StatusError {
            kind: K::kind(&()).into_owned(),
            name: name.to_owned(),
            source,
        }),
    }
}

/// What enrolment says of a host.
pub fn enrolled(previous: &[Condition], not_after: Time, now: Time) -> Value {
    let mut conditions: Vec<_> = previous
        .iter()
        .filter(|condition| condition.type_ == farplane_types::host::ENROLLED)
        .cloned()
        .collect();
    farplane_types::conditions::set(
        &mut conditions,
        farplane_types::host::ENROLLED,
        true,
        "CertificateIssued",
        "",
        None,
        now,
    );
    json!({ "conditions": conditions, "certificateNotAfter": not_after })
}
