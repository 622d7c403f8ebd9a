//! Ingresses and HTTPRoutes of HTTPTriggers, in the platform's own namespace.
//!
//! - A trigger with `routeConfig`, or with `createingress`, asks for one; an operator's
//!   [`Exposure`] says what may be asked for. What asks for more gets nothing, and its condition
//!   `Exposed` says why and what to change.
//! - An object leads to Service `router`, for no more than the trigger's own path.
//! - Objects are found by a label; one that somebody changed is made right again, one whose
//!   trigger is gone, or is refused now, is deleted.
//! - A cluster without the Gateway API has Ingresses all the same; once it has it, its
//!   HTTPRoutes come.
//!
//! [`decide`] is pure. Everything is looked at again after each change, so a process may be
//! killed at any moment.

mod ask;
mod decide;
mod effects;
mod objects;
mod policy;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use farplane_control::objects::{Watched, now};
use farplane_functions_types::HTTPTrigger;
use farplane_functions_types::names::label;
use k8s_openapi::api::networking::v1::Ingress;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use tokio::task::JoinSet;

use crate::context::Context;
use crate::objects::{Said, apply_status};

use decide::{Apply, Gateways, Plan, Word, World};
use effects::NotApplied;
use objects::{Existing, HTTPRoute, Kind};
pub use policy::{Exposure, PolicyError};

/// Changes that arrive together cause one look.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// After something failed that may go well the next time.
const RETRY: Duration = Duration::from_secs(3);
/// After something was refused, and while there is no Gateway API.
const LATER: Duration = Duration::from_secs(30);

/// Version and digest of each object after it was applied. One that is still of that version is
/// not applied again: what differs was put there by the cluster itself.
type Applied = HashMap<(Kind, String), (String, String)>;

/// Watches our Ingresses; ends with `tasks`.
pub(crate) fn watch(client: &Client, namespace: &str, tasks: &mut JoinSet<()>) -> Watched<Ingress> {
    let api = Api::<Ingress>::namespaced(client.clone(), namespace);
    Watched::start_at(api, ours(), tasks, |_| {})
}

fn ours() -> watcher::Config {
    watcher::Config::default().labels(label::EXPOSES)
}

/// The HTTPRoutes, in a cluster that has them.
#[derive(Default)]
struct Routes {
    watched: Option<Watched<HTTPRoute>>,
    is_missing: bool,
    asked: Option<Instant>,
    tasks: JoinSet<()>,
}

impl Routes {
    /// Begins to watch them once the cluster has them.
    async fn find(&mut self, client: &Client, namespace: &str) {
        let wait = if self.is_missing { LATER } else { RETRY };
        let is_early = self.asked.is_some_and(|asked| asked.elapsed() < wait);
        if self.watched.is_some() || is_early {
            return;
        }
        self.asked = Some(Instant::now());
        match effects::has_http_routes(client).await {
            Ok(true) => {
                let api = Api::<HTTPRoute>::namespaced(client.clone(), namespace);
                self.watched = Some(Watched::start_at(api, ours(), &mut self.tasks, |_| {}));
                self.is_missing = false;
            }
            Ok(false) => self.is_missing = true,
            Err(error) => {
                tracing::warn!(%error, "could not ask whether there are HTTPRoutes");
                self.is_missing = false;
            }
        }
    }

    /// After their kind went away.
    fn lose(&mut self) {
        self.watched = None;
        self.asked = None;
        self.tasks.abort_all();
    }

    fn state(&self) -> Gateways {
        match &self.watched {
            Some(watched) if watched.is_ready() => Gateways::There,
            None if self.is_missing => Gateways::Missing,
            _ => Gateways::Unknown,
        }
    }

    /// When to ask again.
    fn pause(&self) -> Option<Duration> {
        match self.state() {
            Gateways::There => None,
            Gateways::Missing => Some(LATER),
            Gateways::Unknown => Some(RETRY),
        }
    }

    async fn changed(&mut self) {
        match &mut self.watched {
            Some(watched) => watched.changed().await,
            None => std::future::pending().await,
        }
    }
}

/// Keeps objects and conditions until told to stop.
pub(crate) async fn run(
    context: Context,
    mut triggers: Watched<HTTPTrigger>,
    mut ingresses: Watched<Ingress>,
) {
    let ready = async {
        triggers.ready().await;
        ingresses.ready().await;
    };
    tokio::select! {
        () = ready => {}
        () = context.stop.cancelled() => return,
    }
    let (client, namespace) = (&context.client, context.settings.namespace.as_str());
    let mut routes = Routes::default();
    let mut applied = Applied::new();
    loop {
        routes.find(client, namespace).await;
        let mut existing: Vec<Existing> = ingresses
            .all()
            .iter()
            .filter_map(|object| Existing::of(Kind::Ingress, object.as_ref()))
            .collect();
        if let Some(watched) = &routes.watched {
            let all = watched.all();
            let all = all.iter();
            existing.extend(all.filter_map(|one| Existing::of(Kind::HttpRoute, one.as_ref())));
        }
        let plan = decide::decide(&World {
            triggers: &triggers.all(),
            existing: &existing,
            gateways: routes.state(),
            policy: &context.settings.exposure,
            namespace,
        });
        let pause = carry_out(&context, plan, &mut routes, &mut applied).await;
        tokio::select! {
            () = triggers.changed() => {}
            () = ingresses.changed() => {}
            () = routes.changed() => {}
            () = pause_for(pause) => {}
            () = context.stop.cancelled() => return,
        }
        tokio::time::sleep(DEBOUNCE).await;
    }
}

async fn pause_for(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// Does what was decided. Gives when to look again, without a change.
async fn carry_out(
    context: &Context,
    mut plan: Plan,
    routes: &mut Routes,
    applied: &mut Applied,
) -> Option<Duration> {
    let mut pauses: Vec<Duration> = Vec::new();
    pauses.extend(routes.pause());
    for object in &plan.delete {
        pauses.extend(delete(context, object, applied).await);
    }
    for apply in std::mem::take(&mut plan.apply) {
        let Some((word, pause)) = make(context, &apply, routes, applied).await else {
            continue;
        };
        if let Some(tell) = plan.tell.get_mut(apply.tell) {
            tell.word = word;
        }
        pauses.push(pause);
    }
    for tell in &plan.tell {
        let Some(status) = decide::status(tell, &now()) else {
            continue;
        };
        let trigger = tell.trigger.as_ref();
        if let Err(error) = apply_status(&context.client, trigger, &status).await {
            let (namespace, name) = (trigger.namespace(), trigger.name_any());
            tracing::warn!(namespace, name, %error, "could not write condition Exposed");
            pauses.push(RETRY);
        }
    }
    pauses.into_iter().min()
}

async fn delete(context: &Context, object: &Existing, applied: &mut Applied) -> Option<Duration> {
    let (client, namespace) = (&context.client, context.settings.namespace.as_str());
    let (kind, name) = (object.kind.name(), &object.name);
    applied.remove(&(object.kind, name.clone()));
    match effects::delete(client, namespace, object).await {
        Ok(()) => {
            tracing::info!(kind, name, "no trigger may have it any more; deleted");
            None
        }
        Err(error) => {
            tracing::warn!(kind, name, %error, "an object of a trigger was not deleted");
            Some(RETRY)
        }
    }
}

/// Makes an object. When it could not: what to say then, and when to try again.
async fn make(
    context: &Context,
    apply: &Apply,
    routes: &mut Routes,
    applied: &mut Applied,
) -> Option<(Word, Duration)> {
    let Apply { wanted, before, .. } = apply;
    let key = (wanted.kind, wanted.name.clone());
    let is_done = before.as_ref().is_some_and(|before| {
        let last = applied.get(&key);
        last.is_some_and(|(version, digest)| *version == before.version && *digest == wanted.digest)
    });
    if is_done {
        return None;
    }
    let (kind, name) = (wanted.kind.name(), &wanted.name);
    let failed = match effects::apply(&context.client, &context.settings.namespace, wanted).await {
        Ok(version) => {
            tracing::info!(kind, name, "leads to a trigger");
            applied.insert(key, (version, wanted.digest.clone()));
            return None;
        }
        Err(failed) => failed,
    };
    let error = match failed {
        NotApplied::Refused(said) => {
            // It was for something that is not asked for any more.
            if let Some(before) = before {
                delete(context, before, applied).await;
            }
            return Some((Word::Say(said), LATER));
        }
        NotApplied::NoKind => {
            routes.lose();
            return Some((Word::AsBefore, RETRY));
        }
        NotApplied::Failed(error) => error,
    };
    tracing::warn!(kind, name, %error, "an object of a trigger was not made");
    let word = if before.is_some() {
        Word::AsBefore
    } else {
        let message = format!("the {kind} could not be made yet; it is tried again");
        Word::Say(Said::no("NotMadeYet", message))
    };
    Some((word, RETRY))
}

#[cfg(test)]
pub(crate) mod chart_tests;
