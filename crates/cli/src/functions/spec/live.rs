//! What a cluster has of the specs' kinds.

use anyhow::Result;
use farplane_functions_types::names::annotation::SPEC_UID;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt as _};

use super::kinds::{ALL, SpecKind};
use crate::failure::{About, Scope};

/// An object that the cluster has.
#[derive(Clone, Debug)]
pub(super) struct Live {
    /// Its kind.
    pub kind: &'static SpecKind,
    /// The object.
    pub object: DynamicObject,
}

impl Live {
    /// Its namespace.
    pub fn namespace(&self) -> String {
        self.object.namespace().unwrap_or_default()
    }
}

/// A request about an object of a kind.
pub(super) fn about<'a>(
    verb: &'a str,
    kind: &SpecKind,
    namespace: Option<&'a str>,
    name: &'a str,
) -> About<'a> {
    About {
        noun: kind.noun,
        command: "spec",
        name,
        scope: namespace.map_or(Scope::Cluster, Scope::Namespace),
        verb,
    }
}

/// Access to a kind in a namespace.
pub(super) fn api(client: &Client, kind: &SpecKind, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &kind.resource())
}

/// Every object of a kind.
pub(super) async fn all(client: &Client, kind: &SpecKind) -> Result<Vec<DynamicObject>> {
    let api = Api::<DynamicObject>::all_with(client.clone(), &kind.resource());
    let list = api.list(&ListParams::default()).await;
    let mut items = list
        .map_err(|error| about("list", kind, None, "").explain(error))?
        .items;
    items.sort_by_key(|object| (object.namespace(), object.name_any()));
    Ok(items)
}

/// Uid of the specs that an object was made of.
pub(super) fn owner(object: &DynamicObject) -> Option<&str> {
    object.annotations().get(SPEC_UID).map(String::as_str)
}

/// Everything that was made of specs, of those with this uid when one is given; in the order
/// in which it was applied.
pub(super) async fn made(client: &Client, uid: Option<&str>) -> Result<Vec<Live>> {
    let mut found = Vec::new();
    for kind in &ALL {
        for object in all(client, kind).await? {
            let owner = owner(&object);
            if owner.is_some() && (uid.is_none() || owner == uid) {
                found.push(Live { kind, object });
            }
        }
    }
    Ok(found)
}

/// Deletes an object; one that is gone is fine.
pub(super) async fn delete(client: &Client, live: &Live) -> Result<()> {
    let (namespace, name) = (live.namespace(), live.object.name_any());
    let deleted = api(client, live.kind, &namespace)
        .delete(&name, &DeleteParams::background())
        .await;
    match deleted {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(about("delete", live.kind, Some(&namespace), &name).explain(error)),
        Ok(_) => Ok(()),
    }
}
