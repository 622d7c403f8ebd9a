//! `farplane functions uninstall`
//!
//! Order: with `--purge`, what users made (while its controllers still run), then the
//! platform, then the Pods of pools, functions and builders. Without it, functions and their
//! archives stay and answer again after the next installation.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use farplane_embedded::chart::{self, Identity};
use farplane_functions_types::{Function, all_crds, names};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use super::place::InCluster;
use super::platform;
use crate::App;
use crate::ask::Consent;
use crate::failure::Failure;
use crate::wait::{self, Goal, State, Step, Verdict};
use crate::{objects, time};

/// Labels of what the executor and the controllers make for functions.
const MADE: [&str; 3] = [
    "executorType",
    "fission.io/managed-by=fission",
    "owner=buildermgr",
];
/// Kinds of what leads to routes from outside; the cluster may lack the second.
const EXPOSING: [(&str, &str); 2] = [
    ("networking.k8s.io", "Ingress"),
    ("gateway.networking.k8s.io", "HTTPRoute"),
];
/// A volume with the archives.
const VOLUME: &str = "PersistentVolumeClaim";

/// From where.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  farplane functions uninstall --cluster first --org demo
  farplane functions uninstall --purge --yes")]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    at: InCluster,
    /// Delete every function, environment, route and archive too
    #[arg(long)]
    purge: bool,
    #[command(flatten)]
    consent: Consent,
    /// How long to wait at most
    #[arg(long, default_value = "5m", value_parser = time::parse, value_name = "DURATION")]
    timeout: Duration,
}

/// Removes it.
pub(crate) async fn run(app: &App, args: UninstallArgs) -> Result<()> {
    let client = args.at.connect(app).await?;
    let applied = platform::applied(&client).await?;
    let Some(applied) = applied else {
        return Err(Failure::NotFound(format!(
            "functions were not installed in this cluster by `{}`",
            args.at.command("functions install")
        ))
        .into());
    };
    let functions = objects::list::<Function>(&client, None)
        .await
        .map(|list| list.len());
    args.consent
        .to(&words(args.purge, functions.unwrap_or(0)))?;
    if args.purge {
        delete_objects(app, &args, &client).await?;
    }
    let gone: Vec<Identity> = applied
        .into_iter()
        .filter(|one| args.purge || one.kind != VOLUME)
        .collect();
    chart::delete(&client, names::NAMESPACE, &gone).await?;
    wait_platform(app, &args, &client).await?;
    delete_workloads(&client).await?;
    if args.purge {
        purge(&client).await?;
        app.out
            .say("functions are gone, and everything that was made of them");
        return Ok(());
    }
    platform::forget(&client).await?;
    app.out.say(format_args!(
        "the function platform is gone; functions and archives are kept, `{}` brings them back",
        args.at.command("functions install")
    ));
    Ok(())
}

fn words(purge: bool, functions: usize) -> String {
    match purge {
        true => format!(
            "remove the function platform with its {functions} functions, their archives and every environment, route and timer"
        ),
        false => format!(
            "remove the function platform: its {functions} functions stop answering until it is installed again"
        ),
    }
}

/// Kinds of the platform, as anything.
fn kinds() -> Vec<ApiResource> {
    all_crds()
        .iter()
        .map(|definition| {
            let spec = &definition.spec;
            let kind = GroupVersionKind::gvk(names::GROUP, names::VERSION, &spec.names.kind);
            ApiResource::from_gvk_with_plural(&kind, &spec.names.plural)
        })
        .collect()
}

/// Every object of a kind that a list finds; none when the kind is unknown.
async fn all_of(
    client: &Client,
    kind: &ApiResource,
    list: &ListParams,
) -> Result<Vec<DynamicObject>> {
    let api = Api::<DynamicObject>::all_with(client.clone(), kind);
    match api.list(list).await {
        Ok(list) => Ok(list.items),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(platform::about("list", &kind.kind, "").explain(error)),
    }
}

async fn delete_objects(app: &App, args: &UninstallArgs, client: &Client) -> Result<()> {
    let goal = goal(
        app,
        args,
        "every function, environment and trigger to be gone",
    );
    let kinds = kinds();
    wait::poll(goal, async || {
        let mut left = 0;
        for kind in &kinds {
            for object in all_of(client, kind, &ListParams::default()).await? {
                left += 1;
                if object.metadata.deletion_timestamp.is_none() {
                    delete(client, kind, &object).await?;
                }
            }
        }
        Ok(progress("objects", left))
    })
    .await
}

async fn delete(client: &Client, kind: &ApiResource, object: &DynamicObject) -> Result<()> {
    let name = object.name_any();
    let api = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, kind),
        None => Api::<DynamicObject>::all_with(client.clone(), kind),
    };
    let deleted = api.delete(&name, &DeleteParams::background()).await;
    gone(deleted, &kind.kind, &name)
}

fn progress(name: &str, left: usize) -> Verdict {
    match left {
        0 => Verdict::Done(vec![Step::new(name, State::Done(None))]),
        left => Verdict::Going(vec![Step::new(
            name,
            State::Working(format!("{left} are left")),
        )]),
    }
}

fn goal<'a>(app: &'a App, args: &UninstallArgs, what: &str) -> Goal<'a> {
    Goal {
        what: what.to_owned(),
        look: args.at.command("functions status"),
        timeout: args.timeout,
        out: &app.out,
    }
}

fn gone<T>(deleted: kube::Result<T>, noun: &str, name: &str) -> Result<()> {
    match deleted {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(platform::about("delete", noun, name).explain(error)),
        Ok(_) => Ok(()),
    }
}

/// Nobody is left who would make Pods again.
async fn wait_platform(app: &App, args: &UninstallArgs, client: &Client) -> Result<()> {
    let goal = goal(app, args, "the platform's Pods to be gone");
    wait::poll(goal, async || {
        Ok(progress("platform", platform::pods(client).await?.len()))
    })
    .await
}

/// Deployments, Services and Pods of pools, functions and builders, and what leads to routes from
/// outside.
async fn delete_workloads(client: &Client) -> Result<()> {
    for label in MADE {
        let list = ListParams::default().labels(label);
        delete_all::<HorizontalPodAutoscaler>(client, &list).await?;
        delete_all::<Deployment>(client, &list).await?;
        delete_all::<Service>(client, &list).await?;
        delete_all::<Pod>(client, &list).await?;
    }
    let list = ListParams::default().labels(names::label::EXPOSES);
    for (group, kind) in EXPOSING {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        for object in all_of(client, &kind, &list).await? {
            delete(client, &kind, &object).await?;
        }
    }
    Ok(())
}

/// Deletes what a list finds, in every namespace.
async fn delete_all<K>(client: &Client, list: &ListParams) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let noun = K::kind(&()).into_owned();
    let found = Api::<K>::all(client.clone())
        .list(list)
        .await
        .map_err(|error| platform::about("list", &noun, "").explain(error))?;
    for object in found.items {
        let Some(namespace) = object.namespace() else {
            continue;
        };
        let name = object.name_any();
        let api = Api::<K>::namespaced(client.clone(), &namespace);
        gone(
            api.delete(&name, &DeleteParams::background()).await,
            &noun,
            &name,
        )?;
    }
    Ok(())
}

/// Definitions, what tenants' namespaces were given, and the platform's namespace.
async fn purge(client: &Client) -> Result<()> {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    for definition in all_crds() {
        let name = definition.name_any();
        let deleted = definitions.delete(&name, &DeleteParams::background()).await;
        gone(deleted, "CustomResourceDefinition", &name)?;
    }
    for name in [names::FETCHER_ACCOUNT, names::BUILDER_ACCOUNT] {
        let list = ListParams::default().fields(&format!("metadata.name={name}"));
        delete_all::<ServiceAccount>(client, &list).await?;
        delete_all::<RoleBinding>(client, &list).await?;
    }
    let keys = format!("metadata.name={}", names::AUTH_KEYS_SECRET);
    delete_all::<Secret>(client, &ListParams::default().fields(&keys)).await?;
    let namespaces = Api::<Namespace>::all(client.clone());
    let deleted = namespaces
        .delete(names::NAMESPACE, &DeleteParams::background())
        .await;
    gone(deleted, "namespace", names::NAMESPACE)
}
