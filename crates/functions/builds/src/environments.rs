//! Keeps a builder for each environment that has a builder image.

use std::sync::Arc;
use std::time::Duration;

use farplane_functions_types::Environment;
use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::Settings;
use crate::error::Error;
use crate::objects::{self, ENVIRONMENT, OWNER, WANTED};

const MANAGER: &str = "farplane-builds";
/// Builders are gone through again after this time.
const RESYNC: Duration = Duration::from_secs(600);
const RETRY: Duration = Duration::from_secs(2);
const LASTING_RETRY: Duration = Duration::from_secs(60);

struct Context {
    client: Client,
    settings: Settings,
}

/// Runs until the shutdown.
pub async fn run(client: Client, settings: Settings, shutdown: CancellationToken) {
    let owned = watcher::Config::default().labels(&format!("{}={}", OWNER.0, OWNER.1));
    let controller = Controller::new(
        Api::<Environment>::all(client.clone()),
        watcher::Config::default(),
    )
    .owns(Api::<Deployment>::all(client.clone()), owned.clone())
    .owns(Api::<Service>::all(client.clone()), owned);
    let context = Arc::new(Context { client, settings });
    let running = controller
        .run(reconcile, policy, context)
        .for_each(|_| std::future::ready(()));
    // Not graceful: that did not always come to its end, and the next process begins from what
    // the objects say.
    tokio::select! {
        () = running => {}
        () = shutdown.cancelled() => {}
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the controller's signature")]
fn policy(environment: Arc<Environment>, error: &Error, _: Arc<Context>) -> Action {
    tracing::warn!(environment = environment.name_any(), %error, "builder is not as it should be");
    Action::requeue(if error.is_lasting() {
        LASTING_RETRY
    } else {
        RETRY
    })
}

async fn reconcile(environment: Arc<Environment>, context: Arc<Context>) -> Result<Action, Error> {
    // What it owns is deleted with it.
    if environment.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let name = environment.name_any();
    let wanted = match objects::builder(&environment, &context.settings) {
        Ok(wanted) => wanted,
        // Said in the status of its packages.
        Err(refused) => {
            tracing::warn!(environment = name, %refused, "no builder");
            None
        }
    };
    let namespace = environment.namespace().unwrap_or_default();
    let deployments = Api::<Deployment>::namespaced(context.client.clone(), &namespace);
    let services = Api::<Service>::namespaced(context.client.clone(), &namespace);
    if let Some(wanted) = &wanted {
        let found = deployments.get_opt(&wanted.name).await;
        let found = found.map_err(Error::api("read Deployment", &wanted.name))?;
        let hash = found.and_then(|found| found.annotations().get(WANTED).cloned());
        if hash.as_ref() != Some(&wanted.hash) {
            apply(&deployments, &wanted.name, &wanted.deployment).await?;
        }
        let found = services.get_opt(&wanted.name).await;
        let found = found.map_err(Error::api("read Service", &wanted.name))?;
        if found.is_none() {
            apply(&services, &wanted.name, &wanted.service).await?;
        }
    }
    let keep = wanted.as_ref().map(|wanted| wanted.name.as_str());
    remove_others(&deployments, &name, keep).await?;
    remove_others(&services, &name, keep).await?;
    Ok(Action::requeue(RESYNC))
}

async fn apply<K>(api: &Api<K>, name: &str, object: &Value) -> Result<(), Error>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let parameters = PatchParams::apply(MANAGER).force();
    api.patch(name, &parameters, &Patch::Apply(object))
        .await
        .map_err(Error::api("apply", name))?;
    tracing::info!(name, "applied a builder");
    Ok(())
}

/// Builders of the environment as it was before.
async fn remove_others<K>(api: &Api<K>, environment: &str, keep: Option<&str>) -> Result<(), Error>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let labels = format!("{}={},{ENVIRONMENT}={environment}", OWNER.0, OWNER.1);
    let listed = api.list(&ListParams::default().labels(&labels)).await;
    let listed = listed.map_err(Error::api("list builders of", environment))?;
    for object in listed {
        let name = object.name_any();
        if Some(name.as_str()) == keep || object.meta().deletion_timestamp.is_some() {
            continue;
        }
        match api.delete(&name, &DeleteParams::background()).await {
            Ok(_) => tracing::info!(name, "removed an old builder"),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(Error::api("delete", name)(error)),
        }
    }
    Ok(())
}
