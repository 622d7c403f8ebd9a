//! Which functions have a Deployment of their own, what it is to be, and which are refused one.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use farplane_functions_types::wire::FunctionKey;
use farplane_functions_types::{ExecutorType, Function, FunctionVersion};
use kube::ResourceExt as _;

use super::objects::{self, Objects, Source};
use super::slots::{SlotId, slot_id};
use super::{Arc, Deployments};
use crate::failed::Failed;
use crate::pod::Platform;

/// A function that has objects.
pub(super) struct Wanted {
    pub(super) id: SlotId,
    pub(super) key: FunctionKey,
    pub(super) idle: Duration,
    pub(super) objects: Objects,
}

/// Whose objects cannot be made, and why.
#[derive(Clone, PartialEq)]
pub(super) struct Refusal {
    pub(super) key: FunctionKey,
    pub(super) why: Failed,
}

/// What there is to do.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) wanted: Vec<Wanted>,
    /// UIDs of functions whose objects are left alone.
    pub(super) kept: HashSet<String>,
    pub(super) refused: HashMap<SlotId, Refusal>,
}

/// What an API server says of an object that it does not take, whoever asks again.
pub(super) fn not_taken(error: &kube::Error) -> Option<Failed> {
    match error {
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => {
            let reason = format!("its objects are refused: {}", status.message);
            Some(Failed::wrong("function", reason))
        }
        _ => None,
    }
}

impl Deployments {
    /// Every function that has objects.
    pub(super) fn plan(&self) -> Plan {
        let world = &self.engine.world;
        let settings = &self.engine.settings;
        let platform = Platform {
            image: settings.fetcher_image.clone(),
            pull_policy: settings.pull_policy.clone(),
        };
        let mut plan = Plan::default();
        let mut add = |function: &Function, version: Option<&FunctionVersion>| {
            let spec = version.map_or(&function.spec, |version| &version.spec.snapshot);
            if spec.executor_type() == ExecutorType::Poolmgr {
                return;
            }
            let uid = function.uid().unwrap_or_default();
            let namespace = function.namespace().unwrap_or_default();
            let environment = world.environments.get(&namespace, &spec.environment.name);
            // Whoever calls it is told; what ran before goes on.
            let Ok(revision) = world.resolve(function, version) else {
                plan.kept.insert(uid);
                return;
            };
            let id = slot_id(&revision);
            let objects = objects::objects(&Source {
                function,
                spec,
                environment: environment.as_deref(),
                revision: &revision,
                platform: &platform,
                writer: &settings.pod_name,
            });
            match objects {
                Ok(objects) => plan.wanted.push(Wanted {
                    id,
                    key: revision.key.clone(),
                    idle: revision.idle,
                    objects,
                }),
                Err(why) => {
                    let key = revision.key.clone();
                    plan.refused.insert(id, Refusal { key, why });
                    plan.kept.insert(uid);
                }
            }
        };
        let functions = world.functions.all();
        for function in &functions {
            if function.metadata.deletion_timestamp.is_none() {
                add(function, None);
            }
        }
        for version in world.versions.all() {
            let of = |one: &&Arc<Function>| {
                one.uid().as_ref() == Some(&version.spec.function_uid)
                    && one.namespace() == version.namespace()
            };
            if let Some(function) = functions.iter().find(of) {
                add(function, Some(&version));
            }
        }
        plan
    }

    /// Says what is refused from now on: to callers, and in the status of functions.
    pub(super) fn refuse(&self, refused: HashMap<SlotId, Refusal>) {
        let before = std::mem::replace(&mut *self.refused(), refused.clone());
        for (id, refusal) in refused {
            if before.get(&id) != Some(&refusal) {
                self.engine.report(refusal.key, Some(refusal.why));
            }
        }
        // Those that wait learn of it.
        self.slots().wake();
    }
}
