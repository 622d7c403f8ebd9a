//! FissionTenants: a namespace that somebody names gets what Pods of functions need before its
//! first environment, and the object's status tells so.
//!
//! Nothing else follows from them: every namespace with an environment is served.

use std::sync::Arc;
use std::time::Duration;

use farplane_functions_types::FissionTenant;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;
use kube::api::Api;
use serde_json::json;

use crate::engine::Engine;
use crate::objects::{READY, Said, Watched, apply_status, is_code, now, set_condition};

/// What was deleted in a namespace is told, and comes back, after this time.
const AGAIN: Duration = Duration::from_secs(300);
/// After something failed.
const RETRY: Duration = Duration::from_secs(5);
/// What Fission tells one by one, and is written together here.
const PARTS: [&str; 4] = [
    "RBACProvisioned",
    "ServiceAccountsReady",
    "AuthKeyProvisioned",
    "WatchActive",
];

/// Runs until it is dropped.
pub(crate) async fn run(engine: Arc<Engine>, mut tenants: Watched<FissionTenant>) {
    loop {
        let mut pause = AGAIN;
        for tenant in tenants.all() {
            let namespace = &tenant.spec.namespace;
            let said = match engine.tenants.ensure(namespace).await {
                Ok(()) => Said::yes("Provisioned", "the namespace has what functions need"),
                Err(error) => {
                    pause = RETRY;
                    refused(namespace, &error)
                }
            };
            if let Err(error) = write(&engine, &tenant, &said).await {
                let tenant = tenant.name_any();
                tracing::warn!(tenant, %error, "the status of a tenant cannot be written");
                pause = RETRY;
            }
        }
        // Nothing that it could miss is lost: all are looked at again.
        _ = tokio::time::timeout(pause, tenants.changed()).await;
    }
}

fn refused(namespace: &str, error: &kube::Error) -> Said {
    if is_code(error, 404) {
        let message = format!("namespace {namespace} does not exist; create it");
        return Said::no("NamespaceNotFound", message);
    }
    Said::no("NotProvisioned", error.to_string())
}

/// The conditions as they shall be; none when they are so already.
fn wanted(tenant: &FissionTenant, said: &Said, now: &Time) -> Option<Vec<Condition>> {
    let before = tenant.status.clone().unwrap_or_default();
    let mut conditions = before.conditions.clone();
    let generation = tenant.metadata.generation;
    for type_ in PARTS.into_iter().chain([READY]) {
        set_condition(&mut conditions, type_, said, generation, now);
    }
    let same = conditions == before.conditions && before.observed_generation == generation;
    (!same).then_some(conditions)
}

async fn write(engine: &Engine, tenant: &FissionTenant, said: &Said) -> Result<(), kube::Error> {
    let Some(conditions) = wanted(tenant, said, &now()) else {
        return Ok(());
    };
    let status = json!({
        "observedGeneration": tenant.metadata.generation,
        "conditions": conditions,
    });
    let api = Api::all(engine.client.clone());
    apply_status(&api, tenant, &status).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_conditions_are_written_once() {
        let object = json!({
            "apiVersion": "fission.io/v1", "kind": "FissionTenant",
            "metadata": { "name": "t", "generation": 3 }, "spec": { "namespace": "ns" },
        });
        let mut tenant: FissionTenant = serde_json::from_value(object).unwrap();
        let said = Said::yes("Provisioned", "");
        let conditions = wanted(&tenant, &said, &now()).unwrap();
        assert_eq!(conditions.len(), 5);
        assert!(conditions.iter().all(|it| it.status == "True"));
        tenant.status = Some(farplane_functions_types::release::FissionTenantStatus {
            observed_generation: Some(3),
            conditions,
        });
        assert_eq!(wanted(&tenant, &said, &now()), None);
        let gone = Said::no("NamespaceNotFound", "");
        assert!(wanted(&tenant, &gone, &now()).is_some());
    }
}
