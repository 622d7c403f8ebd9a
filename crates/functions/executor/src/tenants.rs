//! What a namespace needs before its first Pod: accounts, their rights within the namespace, and
//! the keys with which its fetchers and builders are talked to.
//!
//! Written again when a pool is made and now and then, so what was deleted comes back; no
//! process is restarted for a new namespace.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use farplane_functions_types::auth::{Service, derive};
use farplane_functions_types::names::{AUTH_KEYS_SECRET, BUILDER_ACCOUNT, FETCHER_ACCOUNT};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::objects::FIELD_MANAGER;

/// The platform's controllers: triggers of message queues name a Secret of their namespace.
const CONTROLLERS_ACCOUNT: &str = "fission-controllers";

/// What is known to be right is not written again for so long.
const FRESH: Duration = Duration::from_secs(300);

/// Prepares namespaces.
pub(crate) struct Tenants {
    client: Client,
    secret: Vec<u8>,
    /// Namespace of the platform.
    platform: String,
    written: Mutex<HashMap<String, Instant>>,
}

impl Tenants {
    pub fn new(client: Client, secret: Vec<u8>, platform: String) -> Self {
        Self {
            client,
            secret,
            platform,
            written: Mutex::default(),
        }
    }

    /// Makes sure that a namespace has what Pods of functions need.
    pub async fn ensure(&self, namespace: &str) -> Result<(), kube::Error> {
        let lock = || {
            self.written
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        if lock().get(namespace).is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        // Builders ask nothing of the API server; theirs has no rights.
        for account in [FETCHER_ACCOUNT, BUILDER_ACCOUNT] {
            self.apply::<ServiceAccount>(namespace, account_object(account))
                .await?;
        }
        for (account, of) in [
            (FETCHER_ACCOUNT, namespace),
            (CONTROLLERS_ACCOUNT, &self.platform),
        ] {
            self.apply::<RoleBinding>(namespace, binding(account, of))
                .await?;
        }
        self.apply::<Secret>(namespace, keys(&self.secret, namespace))
            .await?;
        lock().insert(namespace.to_owned(), Instant::now());
        Ok(())
    }

    /// Namespaces that are not in use any more are forgotten.
    pub fn keep(&self, used: impl Fn(&str) -> bool) {
        let mut written = self
            .written
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        written.retain(|namespace, _| used(namespace));
    }

    async fn apply<K>(&self, namespace: &str, object: Value) -> Result<(), kube::Error>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Serialize,
    {
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(name, &parameters, &Patch::Apply(&object)).await?;
        Ok(())
    }
}

fn account_object(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": name },
        "automountServiceAccountToken": false,
    })
}

/// Rights where it is made only: a RoleBinding, whatever the role is, for the account of `namespace`.
fn binding(account: &str, namespace: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": { "name": account },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": format!("{account}-tenant-workload"),
        },
        "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": namespace }],
    })
}

/// Keys that are good in this namespace only. Nothing of the master secret can be found from
/// them.
fn keys(secret: &[u8], namespace: &str) -> Value {
    let key = |service| {
        if secret.is_empty() {
            return ByteString(Vec::new());
        }
        let key = derive(secret, service, Some(namespace));
        ByteString(hex::encode(key).into_bytes())
    };
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": AUTH_KEYS_SECRET },
        "data": {
            "fetcherKey": key(Service::Fetcher),
            "builderKey": key(Service::Builder),
            "storageKey": key(Service::Storage),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_two_namespaces_have_nothing_in_common() {
        let (one, other) = (keys(b"master", "one"), keys(b"master", "other"));
        for name in ["fetcherKey", "builderKey", "storageKey"] {
            let (one, other) = (&one["data"][name], &other["data"][name]);
            // 32 bytes in hex in base64.
            assert_eq!(one.as_str().unwrap().len(), 88);
            assert_ne!(one, other, "{name}");
        }
    }

    #[test]
    fn accounts_are_bound_in_their_own_namespace_only() {
        let bound = binding(FETCHER_ACCOUNT, "one");
        assert_eq!(bound["kind"], "RoleBinding");
        assert_eq!(bound["subjects"].as_array().unwrap().len(), 1);
        assert_eq!(bound["subjects"][0]["namespace"], "one");
        assert_eq!(bound["roleRef"]["name"], "fission-fetcher-tenant-workload");
        assert_eq!(
            account_object(FETCHER_ACCOUNT)["automountServiceAccountToken"],
            false
        );
    }
}
