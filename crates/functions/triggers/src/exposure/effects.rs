//! Does what was decided: applies, deletes.
//!
//! By server-side apply with a field manager of its own. A deletion names the object's UID, so
//! that one that was made anew meanwhile stays.

use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt as _};

use super::ask::quoted;
use super::objects::{Existing, HTTPRoute, Kind, Wanted};
use crate::objects::{Said, is_code};

/// Owner of the fields of Ingresses and HTTPRoutes.
const FIELD_MANAGER: &str = "farplane-exposure";

/// Of what the cluster says, in a message.
const SAID: usize = 1000;

/// Why an object was not made.
#[derive(Debug)]
pub(crate) enum NotApplied {
    /// The API server or a webhook of the cluster does not want it.
    Refused(Said),
    /// The kind is gone.
    NoKind,
    /// It may be tried again.
    Failed(kube::Error),
}

/// Makes an object, or makes it right again. Gives its version.
pub(crate) async fn apply(
    client: &Client,
    namespace: &str,
    wanted: &Wanted,
) -> Result<String, NotApplied> {
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let api = api(client, namespace, wanted.kind);
    let applied = api
        .patch(&wanted.name, &parameters, &Patch::Apply(&wanted.body))
        .await;
    match applied {
        Ok(object) => Ok(object.resource_version().unwrap_or_default()),
        Err(error) if is_code(&error, 404) && wanted.kind == Kind::HttpRoute => {
            Err(NotApplied::NoKind)
        }
        Err(kube::Error::Api(answer)) if matches!(answer.code, 400 | 403 | 422) => {
            let kind = wanted.kind.name();
            let message = quoted(&answer.message, SAID);
            Err(NotApplied::Refused(Said::no(
                "Refused",
                format!("the cluster refuses the {kind}: {message}"),
            )))
        }
        Err(error) => Err(NotApplied::Failed(error)),
    }
}

/// Deletes an object.
pub(crate) async fn delete(
    client: &Client,
    namespace: &str,
    existing: &Existing,
) -> Result<(), kube::Error> {
    let same = Preconditions {
        uid: Some(existing.uid.clone()),
        resource_version: None,
    };
    let parameters = DeleteParams::background().preconditions(same);
    let api = api(client, namespace, existing.kind);
    match api.delete(&existing.name, &parameters).await {
        // Gone, or another one: the next look sees it.
        Err(error) if !is_code(&error, 404) && !is_code(&error, 409) => Err(error),
        _ => Ok(()),
    }
}

fn api(client: &Client, namespace: &str, kind: Kind) -> Api<DynamicObject> {
    let resource = match kind {
        Kind::Ingress => ApiResource::erase::<Ingress>(&()),
        Kind::HttpRoute => ApiResource::erase::<HTTPRoute>(&()),
    };
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// Whether the cluster has HTTPRoutes.
pub(crate) async fn has_http_routes(client: &Client) -> Result<bool, kube::Error> {
    match client
        .list_api_group_resources("gateway.networking.k8s.io/v1")
        .await
    {
        Ok(list) => Ok(list.resources.iter().any(|one| one.kind == "HTTPRoute")),
        Err(error) if is_code(&error, 404) => Ok(false),
        Err(error) => Err(error),
    }
}
