//! A headless Service per function with instances in pools: for tools that look for it. Nothing
//! of ours needs it, so it is written beside requests, and goes with its function.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use farplane_functions_types::names::{self, label, port};
use farplane_functions_types::wire::FunctionKey;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::objects::FIELD_MANAGER;

/// Writes Services.
#[derive(Default)]
pub(crate) struct Services {
    written: Arc<Mutex<HashSet<FunctionKey>>>,
}

impl Services {
    /// An instance of a function was made: its Service is to lead to it.
    pub fn made(&self, engine: &Arc<Engine>, key: &FunctionKey) {
        let lock = |written: &Mutex<HashSet<FunctionKey>>, key: &FunctionKey, new: bool| {
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            if new {
                return written.insert(key.clone());
            }
            written.remove(key)
        };
        if !lock(&self.written, key, true) {
            return;
        }
        let (engine, key, written) = (engine.clone(), key.clone(), self.written.clone());
        let client = engine.client.clone();
        engine.tasks.spawn(async move {
            let object = service(&key);
            let api = Api::<Service>::namespaced(client, &key.namespace);
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let parameters = PatchParams::apply(FIELD_MANAGER).force();
            let applied = api.patch(name, &parameters, &Patch::Apply(&object)).await;
            if let Err(error) = applied {
                tracing::warn!(function = key.name, %error, "could not write a Service");
                // With the next instance again.
                lock(&written, &key, false);
            }
        });
    }

    /// Forgets functions that are gone.
    pub fn keep(&self, used: impl Fn(&FunctionKey) -> bool) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.retain(used);
    }
}

fn service(key: &FunctionKey) -> Value {
    let mut name = names::function_service(&key.name, &key.uid);
    let mut selector = json!({
        label::FUNCTION_UID: key.uid,
        label::SERVED: "true",
    });
    let mut labels = json!({
        label::MANAGED_BY: "fission",
        label::FUNCTION_NAME: key.name,
        label::FUNCTION_NAMESPACE: key.namespace,
        label::FUNCTION_UID: key.uid,
    });
    if key.version.is_empty() {
        selector[label::FUNCTION_GENERATION] = key.generation.to_string().into();
    } else {
        // Versions end in their number, which no function's Service does.
        let number = key.version.rsplit('-').next().unwrap_or_default();
        name = format!("{name}-{number}");
        selector[label::FUNCTION_VERSION] = key.version.clone().into();
        labels[label::FUNCTION_VERSION] = key.version.clone().into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "labels": labels,
            "ownerReferences": [{
                "apiVersion": "fission.io/v1",
                "kind": "Function",
                "name": key.name,
                "uid": key.uid,
            }],
        },
        "spec": {
            "clusterIP": "None",
            "selector": selector,
            "ports": [{ "name": "http", "port": port::RUNTIME, "targetPort": port::RUNTIME }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_leads_to_the_instances_of_one_state() {
        let mut key = FunctionKey {
            namespace: "n".into(),
            name: "hello".into(),
            uid: "u".into(),
            generation: 3,
            version: String::new(),
        };
        let live = service(&key);
        let name = live["metadata"]["name"].as_str().unwrap().to_owned();
        assert_eq!(
            live["spec"]["selector"]["fission.io/function-generation"],
            "3"
        );
        assert_eq!(live["spec"]["selector"]["fission.io/served"], "true");
        assert_eq!(
            live["metadata"]["labels"]["fission.io/managed-by"],
            "fission"
        );
        key.version = "hello-v2".into();
        let version = service(&key);
        assert_eq!(version["metadata"]["name"], format!("{name}-v2"));
        assert_eq!(
            version["spec"]["selector"]["fission.io/function-version"],
            "hello-v2"
        );
        let _: Service = serde_json::from_value(version).unwrap();
    }
}
