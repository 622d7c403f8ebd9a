//! Gathers what there is to know about a function.

use anyhow::Result;
use farplane_functions_types::{
    Environment, ExecutorType, Function, HTTPTrigger, Package, TimeTrigger, names::label,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::kinds::calls;
use crate::failure::{About, Scope};
use crate::objects;

/// What there is to know about a function at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The function.
    pub function: Function,
    /// Its environment; none when there is none of that name.
    pub environment: Option<Environment>,
    /// Its package; none when there is none of that name.
    pub package: Option<Package>,
    /// The pools of its environment.
    pub pools: Vec<Deployment>,
    /// Pods of those pools that no function has taken.
    pub waiting: Vec<Pod>,
    /// Deployments of the function itself.
    pub deployments: Vec<Deployment>,
    /// Its instances.
    pub instances: Vec<Pod>,
    /// Routes to it.
    pub routes: Vec<HTTPTrigger>,
    /// Timers that call it.
    pub timers: Vec<TimeTrigger>,
}

/// Looks at everything.
pub(crate) async fn gather(client: &Client, namespace: &str, name: &str) -> Result<Facts> {
    let place = Some(namespace);
    let function: Function = objects::get(client, place, name).await?;
    let environment = function.spec.environment.name.clone();
    let package = function.spec.package.package_ref.name.clone();
    let of_pool = format!(
        "{}={environment},{}=poolmgr",
        label::ENVIRONMENT_NAME,
        label::EXECUTOR_TYPE
    );
    let waiting = format!("{of_pool},{}=true", label::MANAGED);
    let of_function = format!("{}={name}", label::FUNCTION_NAME);
    let pooled = function.spec.executor_type() == ExecutorType::Poolmgr && !environment.is_empty();
    let pools = pools(client, namespace, pooled.then_some((&of_pool, &waiting)));
    // On the heap: together they are too large for a stack of futures.
    let all = Box::pin(async {
        tokio::try_join!(
            find::<Environment>(client, place, &environment),
            find::<Package>(client, place, &package),
            pools,
            deployments(client, namespace, &of_function),
            pods(client, namespace, &of_function),
            objects::list::<HTTPTrigger>(client, place),
            objects::list::<TimeTrigger>(client, place),
        )
    });
    let (environment, package, (pools, waiting), deployments, instances, routes, timers) =
        all.await?;
    Ok(Facts {
        function,
        environment,
        package,
        pools,
        waiting,
        deployments,
        instances,
        routes: routes
            .into_iter()
            .filter(|route| calls(&route.spec.function_ref, name))
            .collect(),
        timers: timers
            .into_iter()
            .filter(|timer| calls(&timer.spec.function_ref, name))
            .collect(),
    })
}

async fn find<K: objects::Kind>(
    client: &Client,
    place: Option<&str>,
    name: &str,
) -> Result<Option<K>> {
    match name {
        "" => Ok(None),
        name => objects::find(client, place, name).await,
    }
}

async fn pools(
    client: &Client,
    namespace: &str,
    selectors: Option<(&String, &String)>,
) -> Result<(Vec<Deployment>, Vec<Pod>)> {
    match selectors {
        None => Ok((Vec::new(), Vec::new())),
        Some((pools, waiting)) => tokio::try_join!(
            deployments(client, namespace, pools),
            pods(client, namespace, waiting)
        ),
    }
}

/// A request about objects that are not ours.
fn about<'a>(noun: &'a str, namespace: &'a str) -> About<'a> {
    About {
        noun,
        command: "fn",
        name: "",
        scope: Scope::Namespace(namespace),
        verb: "list",
    }
}

async fn deployments(client: &Client, namespace: &str, selector: &str) -> Result<Vec<Deployment>> {
    let api = Api::<Deployment>::namespaced(client.clone(), namespace);
    let list = api.list(&ListParams::default().labels(selector)).await;
    let mut items = list
        .map_err(|error| about("Deployment", namespace).explain(error))?
        .items;
    items.sort_by_key(ResourceExt::name_any);
    Ok(items)
}

/// Pods of a namespace by their labels, in the order of their names.
pub(crate) async fn pods(client: &Client, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let list = api.list(&ListParams::default().labels(selector)).await;
    let mut items = list
        .map_err(|error| about("Pod", namespace).explain(error))?
        .items;
    items.sort_by_key(ResourceExt::name_any);
    Ok(items)
}
