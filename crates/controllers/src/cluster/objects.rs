//! Applying objects of any kind, at the hub or in a plane, without applying again what
//! did not change.
//!
//! Kinds are taken from the objects themselves, so no discovery is asked for. What was
//! applied is remembered by its hash for [`MEMORY`]; after that it is applied again, which
//! undoes edits by others.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use farplane_types::names::FIELD_MANAGER;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt as _};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::error::Error;

/// After this time an object is applied again although it is the same.
const MEMORY: Duration = Duration::from_secs(60);

type Entries = HashMap<String, (Instant, [u8; 32])>;

/// What was applied lately, by plane.
#[derive(Default)]
pub(crate) struct Memory {
    planes: Mutex<HashMap<String, Entries>>,
}

impl Memory {
    fn is_known(&self, plane: &str, key: &str, hash: &[u8; 32]) -> bool {
        let planes = self.planes.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = planes.get(plane).and_then(|entries| entries.get(key));
        entry.is_some_and(|(since, known)| since.elapsed() < MEMORY && known == hash)
    }

    fn learn(&self, plane: &str, key: String, hash: [u8; 32]) {
        let mut planes = self.planes.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = planes.entry(plane.to_owned()).or_default();
        entries.insert(key, (Instant::now(), hash));
    }

    /// Applies everything again from now on: something was deleted or edited.
    pub fn forget(&self, plane: &str) {
        let mut planes = self.planes.lock().unwrap_or_else(PoisonError::into_inner);
        planes.remove(plane);
    }
}

/// Whose API.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Hub,
    Plane,
}

/// Applies objects for one plane.
pub(crate) struct Applier<'a> {
    pub client: &'a Client,
    pub memory: &'a Memory,
    pub plane: &'a str,
    pub at: At,
}

impl Applier<'_> {
    /// Applies one object, unless just that was applied lately.
    pub async fn apply<T: Serialize + Sync>(&self, object: &T) -> Result<(), Error> {
        let value = serde_json::to_value(object).map_err(|source| Error::Decide {
            cluster: self.plane.to_owned(),
            source: Box::new(source),
        })?;
        let place = match self.at {
            At::Hub => "hub",
            At::Plane => "plane",
        };
        let key = format!("{place} {}", describe(&value));
        let hash: [u8; 32] = Sha256::digest(value.to_string().as_bytes()).into();
        if self.memory.is_known(self.plane, &key, &hash) {
            return Ok(());
        }
        self.send(&value).await?;
        self.memory.learn(self.plane, key, hash);
        Ok(())
    }

    /// Applies one after the other.
    pub async fn apply_all<T: Serialize + Sync>(&self, objects: &[T]) -> Result<(), Error> {
        for object in objects {
            self.apply(object).await?;
        }
        Ok(())
    }

    /// Applies objects of which none needs another one to be there.
    pub async fn apply_together<T: Serialize + Sync>(&self, objects: &[T]) -> Result<(), Error> {
        let all = objects.iter().map(|object| self.apply(object));
        futures::future::try_join_all(all).await.map(|_| ())
    }

    async fn send(&self, value: &Value) -> Result<DynamicObject, Error> {
        let failed = |error| {
            let step = format!("apply {}", describe(value));
            match self.at {
                At::Hub => Error::hub(step)(error),
                At::Plane => Error::plane(step)(error),
            }
        };
        let object: DynamicObject = serde_json::from_value(value.clone())
            .map_err(|source| failed(kube::Error::SerdeError(source)))?;
        let api = api(self.client, &object);
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&object.name_any(), &parameters, &Patch::Apply(value))
            .await
            .map_err(failed)
    }
}

fn api(client: &Client, object: &DynamicObject) -> Api<DynamicObject> {
    let types = object.types.clone().unwrap_or_default();
    let (group, version) = types
        .api_version
        .split_once('/')
        .unwrap_or(("", &types.api_version));
    let kind = GroupVersionKind::gvk(group, version, &types.kind);
    let resource = ApiResource::from_gvk(&kind);
    match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

fn describe(value: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &value["metadata"];
    let kind = text(&value["kind"]);
    match metadata["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{}", text(&metadata["name"])),
        None => format!("{kind} {}", text(&metadata["name"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::Hub;
    use serde_json::json;

    const PATH: &str = "/api/v1/namespaces/n/configmaps/c";

    fn map(value: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "c", "namespace": "n" },
            "data": { "a": value },
        })
    }

    fn version(hub: &Hub) -> Value {
        hub.object(PATH).unwrap()["metadata"]["resourceVersion"].clone()
    }

    #[tokio::test]
    async fn only_changes_are_sent_until_told_to_forget() {
        let (hub, memory) = (Hub::default(), Memory::default());
        let client = hub.client();
        let applier = Applier {
            client: &client,
            memory: &memory,
            plane: "u",
            at: At::Hub,
        };
        applier.apply(&map("1")).await.unwrap();
        let first = version(&hub);
        applier.apply(&map("1")).await.unwrap();
        assert_eq!(version(&hub), first);
        applier.apply(&map("2")).await.unwrap();
        let second = version(&hub);
        assert_ne!(second, first);
        memory.forget("u");
        applier.apply(&map("2")).await.unwrap();
        assert_ne!(version(&hub), second);
    }
}
