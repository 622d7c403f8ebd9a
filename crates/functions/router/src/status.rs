//! What is said of HTTPTriggers in their status: `RouteAdmitted` and `Ready`.
//!
//! [`Board`] remembers what the API server says of each trigger; [`Board::desired`] is pure. Only
//! what differs is written, so that several routers write the same once, and a trigger that does
//! not change costs nothing. Conditions of others, such as `Exposed`, are left to them.

use std::collections::HashMap;

use farplane_control::conditions::{READY, Said, set_condition};
use farplane_functions_types::triggers::HTTPTriggerStatus;
use farplane_functions_types::{FunctionReference, HTTPTrigger};
use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;

use crate::route::{Invalid, Route};
use crate::router::{Router, read};
use crate::world::Event;

const MANAGER: &str = "fission-router";
const ADMITTED: &str = "RouteAdmitted";
/// Statuses that are written at a time.
const WRITES: usize = 8;

/// Namespace and name of a trigger.
pub type Key = (String, String);

/// What the rest of the router knows.
pub trait Known {
    /// Why a function, or with a label one of its versions or aliases, cannot be called.
    fn missing(&self, namespace: &str, name: &str, label: &str) -> Option<String>;
    /// The older trigger that has what this one wants.
    fn conflict(&self, key: &Key) -> Option<Key>;
}

impl Known for Router {
    fn missing(&self, namespace: &str, name: &str, label: &str) -> Option<String> {
        let found = self.labelled(namespace, name, label);
        found.err().map(|missing| missing.to_string())
    }

    fn conflict(&self, key: &Key) -> Option<Key> {
        read(&self.table).conflict(&key.0, &key.1)
    }
}

struct Seen {
    uid: String,
    generation: Option<i64>,
    status: HTTPTriggerStatus,
    function: FunctionReference,
    /// Why it makes no route.
    invalid: Option<(&'static str, String)>,
}

/// The triggers that exist, with what their status says.
#[derive(Default)]
pub struct Board {
    triggers: HashMap<Key, Seen>,
}

/// A status to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    key: Key,
    uid: String,
    status: HTTPTriggerStatus,
}

impl Board {
    /// Takes in a change. True when statuses may be different now.
    pub fn note(&mut self, event: &Event) -> bool {
        match event {
            Event::Trigger(trigger) => {
                let key = (trigger.namespace().unwrap_or_default(), trigger.name_any());
                self.triggers.insert(key, Seen::of(trigger));
            }
            Event::TriggerGone { namespace, name } => {
                self.triggers.remove(&(namespace.clone(), name.clone()));
            }
            Event::Instance { .. } | Event::InstanceGone { .. } => return false,
            _ => {}
        }
        true
    }

    /// What has to be written so that every status is right.
    pub fn desired(&self, known: &impl Known, at: &Time) -> Vec<Write> {
        let wrong = self.triggers.iter().filter_map(|(key, seen)| {
            let status = seen.desired(key, known, at);
            let write = || Write {
                key: key.clone(),
                uid: seen.uid.clone(),
                status: status.clone(),
            };
            (status != seen.status).then(write)
        });
        wrong.collect()
    }
}

impl Seen {
    fn of(trigger: &HTTPTrigger) -> Self {
        let open = trigger.spec.cors_config.as_ref().is_some_and(|cors| {
            cors.allow_credentials && cors.allow_origins.iter().any(|origin| origin == "*")
        });
        let invalid = match Route::of(trigger) {
            Err(error @ Invalid::Template { .. }) => {
                Some(("InvalidRouteTemplate", error.to_string()))
            }
            Err(error) => Some(("MuxBuildFailed", error.to_string())),
            Ok(_) if open => {
                let reason = "allowOrigins * excludes allowCredentials";
                Some(("InvalidCorsConfig", reason.to_owned()))
            }
            Ok(_) => None,
        };
        Self {
            uid: trigger.uid().unwrap_or_default(),
            generation: trigger.metadata.generation,
            status: own(trigger.status.clone().unwrap_or_default()),
            function: trigger.spec.function_ref.clone(),
            invalid,
        }
    }

    fn desired(&self, key: &Key, known: &impl Known, at: &Time) -> HTTPTriggerStatus {
        let admitted = self.admitted(key, known);
        let ready = match self.missing(&key.0, known) {
            _ if !admitted.holds => Said::no(admitted.reason, admitted.message.clone()),
            Some(message) => Said::no("FunctionNotFound", message),
            None => Said::yes(READY, "calls are passed on"),
        };
        let mut conditions = self.status.conditions.clone();
        for (kind, said) in [(ADMITTED, admitted), (READY, ready)] {
            set_condition(&mut conditions, kind, &said, self.generation, at);
        }
        HTTPTriggerStatus {
            observed_generation: self.generation,
            conditions,
        }
    }

    fn admitted(&self, key: &Key, known: &impl Known) -> Said {
        if let Some((reason, message)) = &self.invalid {
            return Said::no(reason, message.clone());
        }
        match known.conflict(key) {
            Some((namespace, name)) => Said::no(
                "RouteConflict",
                format!(
                    "HTTPTrigger {namespace}/{name} is older and has the same path, host and \
                     method; this one takes over when it is deleted"
                ),
            ),
            None => Said::yes(ADMITTED, "the route is in the table"),
        }
    }

    /// What is missing of the first function that is not there.
    fn missing(&self, namespace: &str, known: &impl Known) -> Option<String> {
        let function = &self.function;
        if function.kind == "function-weights" {
            let mut names = function.function_weights.keys();
            return names.find_map(|name| known.missing(namespace, name, ""));
        }
        let label = if function.version.is_empty() {
            &function.alias
        } else {
            &function.version
        };
        known.missing(namespace, &function.name, label)
    }
}

/// What is ours of a status. The rest is of other field managers, and no reason to write.
fn own(mut status: HTTPTriggerStatus) -> HTTPTriggerStatus {
    let is_own = |type_: &str| type_ == ADMITTED || type_ == READY;
    status.conditions.retain(|one| is_own(&one.type_));
    status
}

/// Now, as the API server keeps times: to the second.
pub fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// Writes statuses. True when all of them were.
pub async fn write(client: &Client, writes: Vec<Write>) -> bool {
    let mut written = futures::stream::iter(writes)
        .map(|write| write_one(client, write))
        .buffer_unordered(WRITES);
    let mut all = true;
    while let Some(good) = written.next().await {
        all &= good;
    }
    all
}

async fn write_one(client: &Client, write: Write) -> bool {
    let Write {
        key: (namespace, name),
        uid,
        status,
    } = write;
    let triggers: Api<HTTPTrigger> = Api::namespaced(client.clone(), &namespace);
    let patch = json!({
        "apiVersion": HTTPTrigger::api_version(&()),
        "kind": HTTPTrigger::kind(&()),
        // One that was made anew meanwhile has its own.
        "metadata": {"name": name, "uid": uid},
        "status": status,
    });
    let parameters = PatchParams::apply(MANAGER).force();
    match triggers
        .patch_status(&name, &parameters, &Patch::Apply(patch))
        .await
    {
        Ok(_) => true,
        // Deleted, or made anew: its event comes.
        Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => true,
        Err(error) => {
            tracing::warn!(namespace, name, %error, "the status of a trigger cannot be written");
            false
        }
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
