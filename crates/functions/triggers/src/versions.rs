//! Versions of functions, and the aliases that name them.
//!
//! - A function with `versioning.mode: auto` is published when its spec or its code is another
//!   one than that of its newest version: a copy of its package first, then the version, so a
//!   version never lacks its code.
//! - Of each function the newest `retain` versions are kept, and those that an alias needs.
//! - A version that is deleted while an alias needs it stays until none does ([`FINALIZER`]);
//!   its copy of the package goes with it.
//! - An alias says which version it leads to, where it led before, and whether the
//!   environment has changed since.
//!
//! [`decide`] is pure. Everything is looked at again after each change.

mod decide;
mod effects;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use farplane_functions_types::{Environment, FunctionAlias, FunctionVersion, Package};
use kube::ResourceExt as _;
use kube::runtime::events::{Recorder, Reporter};

use crate::context::Context;
use crate::objects::{self, Watched};

use decide::World;
pub(crate) use decide::strip;

/// Keeps versions that aliases need.
pub(crate) const FINALIZER: &str = "fission.io/alias-guard";
/// On a version: the package that its own copy was made of.
pub(crate) const SOURCE_PACKAGE: &str = "fission.io/source-package";
/// On a version: name and UID of its function.
pub(crate) const FUNCTION_NAME: &str = "fission.io/function-name";
pub(crate) const FUNCTION_UID: &str = "fission.io/function-uid";

/// Changes that arrive together cause one look.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// After something failed.
const RETRY: Duration = Duration::from_secs(3);

/// What is watched.
pub(crate) struct Watches {
    pub versions: Watched<FunctionVersion>,
    pub aliases: Watched<FunctionAlias>,
    pub environments: Watched<Environment>,
    /// Without their code, see [`strip`].
    pub packages: Watched<Package>,
}

/// What was found out already.
#[derive(Default)]
struct Memory {
    /// Functions that are as their newest version: by UID, their generation and what their
    /// package was then.
    unchanged: HashMap<String, (Option<i64>, Option<String>)>,
    /// Versions of which was told that they are still needed.
    told: HashSet<String>,
}

/// Publishes, resolves and tidies until told to stop.
pub(crate) async fn run(context: Context, mut watches: Watches) {
    let ready = async {
        watches.versions.ready().await;
        watches.aliases.ready().await;
        watches.environments.ready().await;
        watches.packages.ready().await;
    };
    tokio::select! {
        () = ready => {}
        () = context.stop.cancelled() => return,
    }
    let reporter = Reporter {
        controller: "fission-triggers".to_owned(),
        instance: Some(context.settings.pod_name.clone()),
    };
    let recorder = Recorder::new(context.client.clone(), reporter);
    let mut functions = context.functions.clone();
    let mut memory = Memory::default();
    loop {
        let settled = look(&context, &watches, &recorder, &mut memory).await;
        let retry = async {
            if settled {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(RETRY).await;
        };
        tokio::select! {
            () = functions.changed() => {}
            () = watches.versions.changed() => {}
            () = watches.aliases.changed() => {}
            () = watches.environments.changed() => {}
            () = watches.packages.changed() => {}
            () = retry => {}
            () = context.stop.cancelled() => return,
        }
        tokio::time::sleep(DEBOUNCE).await;
    }
}

/// One look at everything. True when nothing is left to be tried again.
async fn look(
    context: &Context,
    watches: &Watches,
    recorder: &Recorder,
    memory: &mut Memory,
) -> bool {
    let (versions, aliases) = (watches.versions.all(), watches.aliases.all());
    let functions = context.functions.all();
    let world = World {
        versions: &versions,
        aliases: &aliases,
        functions: &functions,
    };
    let mut settled = true;
    let live: HashSet<String> = functions.iter().filter_map(|one| one.uid()).collect();
    memory.unchanged.retain(|uid, _| live.contains(uid));
    for function in &functions {
        let namespace = function.namespace().unwrap_or_default();
        let package = &function.spec.package.package_ref.name;
        let Some(package) = watches.packages.get(&namespace, package) else {
            continue;
        };
        let uid = function.uid().unwrap_or_default();
        let seen = (function.metadata.generation, package.resource_version());
        if memory.unchanged.get(&uid) == Some(&seen) || !world.may_publish(function, &package) {
            continue;
        }
        let environment = &function.spec.environment.name;
        let environment = watches.environments.get(&namespace, environment);
        match effects::publish(context, &world, function, environment.as_deref()).await {
            Ok(effects::Published::Made | effects::Published::Unchanged) => {
                memory.unchanged.insert(uid, seen);
            }
            Ok(effects::Published::NotReady) => settled = false,
            Err(reason) => {
                let name = function.name_any();
                tracing::warn!(namespace, name, reason, "a version was not published");
                settled = false;
            }
        }
    }
    for alias in &aliases {
        let namespace = alias.namespace().unwrap_or_default();
        let environment = |name: &str| watches.environments.get(&namespace, name);
        let Some(status) = decide::alias(alias, &versions, environment, &objects::now()) else {
            continue;
        };
        if let Err(error) = objects::apply_status(&context.client, alias.as_ref(), &status).await {
            let name = alias.name_any();
            tracing::warn!(namespace, name, %error, "could not write the status of an alias");
            settled = false;
        }
    }
    for step in world.tidy() {
        if let Err(error) = effects::tidy(context, recorder, &step, &mut memory.told).await {
            let name = step.version.name_any();
            tracing::warn!(name, %error, "a version was not tidied up");
            settled = false;
        }
    }
    settled
}
