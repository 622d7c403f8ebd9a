//! What is said of functions in their status: conditions `Ready` and `PackageReady`, and the last
//! error in its own words.
//!
//! [`desired`] is pure. Written beside requests, and only what has changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use farplane_functions_types::function::FunctionStatus;
use farplane_functions_types::{ExecutorType, Function, Package};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;
use kube::api::Api;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::engine::{Engine, Report};
use crate::failed::Failed;
use crate::objects::{READY, Said, apply_status, now, set_condition};
use crate::provision::Floor;
use crate::revision::{Revision, ready_package};
use crate::services::Services;

const PACKAGE_READY: &str = "PackageReady";
const PROVISIONED: &str = "Provisioned";
/// Changes that arrive together cause one look.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// After a write failed.
const RETRY: Duration = Duration::from_secs(5);
/// Longest text that is kept of an error.
const LONGEST: usize = 4096;

/// Our part of a status.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Desired {
    conditions: Vec<Condition>,
    last_error: Option<Value>,
    provisioned: Option<Provisioned>,
}

/// Instances that are made before they are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Provisioned {
    pub ready: i64,
    pub floor: Floor,
    /// What the function says for outside of its windows.
    pub base: i64,
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Provisioned {
    fn of(engine: &Engine, function: &Function, revision: &Revision) -> Option<Self> {
        let base = function.spec.provisioned_concurrency.as_ref()?.target;
        let id = revision.id();
        let state = engine.state();
        let floor = state.floor(&id)?.clone();
        let ready = number(state.live(&id).min(floor.target));
        Some(Self { ready, floor, base })
    }

    fn words(&self) -> Said {
        let Floor {
            target,
            said,
            wrong,
        } = &self.floor;
        let ready = self.ready;
        let message = format!("{ready} of {target} instances are ready");
        if let Some(wrong) = wrong {
            return Said::no("InvalidWindow", format!("{message}; {wrong}"));
        }
        if ready < number(*target) {
            return Said::no("Warming", message);
        }
        if target < said {
            let message = format!("{message}; {said} are more than one function may have");
            return Said::yes("Clamped", message);
        }
        Said::yes("Satisfied", message)
    }
}

/// The last error as it is written; `code` says of which code it is.
fn error_value(failed: &Failed, code: &str, at: &Time) -> Value {
    let reason: String = failed.reason.chars().take(LONGEST).collect();
    json!({ "component": failed.component, "reason": reason, "time": at, "code": code })
}

fn reason_of(component: &str) -> &'static str {
    match component {
        "environment" => "EnvironmentNotReady",
        "fetcher" => "CodeNotFetched",
        "function" => "CodeNotLoaded",
        _ => "NotRunnable",
    }
}

/// Decides. `error` is the last error as it was or will be written.
pub(crate) fn desired(
    function: &Function,
    package: Option<&Package>,
    resolved: &Result<Arc<Revision>, Failed>,
    error: Option<&Value>,
    provisioned: Option<Provisioned>,
    at: &Time,
) -> Desired {
    let generation = function.metadata.generation;
    let mut conditions: Vec<Condition> = function
        .status
        .as_ref()
        .map(|status| status.conditions.clone())
        .unwrap_or_default();
    let ours = [READY, PACKAGE_READY, PROVISIONED];
    conditions.retain(|one| ours.contains(&one.type_.as_str()));
    conditions.retain(|one| one.type_ != PROVISIONED || provisioned.is_some());
    // An error of other code says nothing of this.
    let error = error.filter(|error| {
        resolved
            .as_ref()
            .is_ok_and(|revision| error["code"] == revision.code_hash.as_str())
    });
    let text = |field: &str| {
        error
            .and_then(|error| error[field].as_str())
            .unwrap_or_default()
    };
    let ready = match resolved {
        Err(failed) => Said::no(reason_of(&failed.component), failed.reason.clone()),
        Ok(_) if error.is_some() => Said::no(reason_of(text("component")), text("reason")),
        Ok(_) => Said::yes("Available", "calls are served"),
    };
    set_condition(&mut conditions, READY, &ready, generation, at);
    if function.spec.executor_type() != ExecutorType::Container {
        let namespace = function.namespace().unwrap_or_default();
        let said = match ready_package(&function.spec, package, &namespace) {
            Ok(_) => Said::yes("PackageReady", "the package has its code"),
            Err(failed) => Said::no("PackageNotReady", failed.reason),
        };
        set_condition(&mut conditions, PACKAGE_READY, &said, generation, at);
    }
    if let Some(provisioned) = &provisioned {
        let said = provisioned.words();
        set_condition(&mut conditions, PROVISIONED, &said, generation, at);
    }
    Desired {
        conditions,
        last_error: error.cloned(),
        provisioned,
    }
}

/// True when a status says the same.
fn says(status: Option<&FunctionStatus>, desired: &Desired, generation: Option<i64>) -> bool {
    let Some(status) = status else {
        return false;
    };
    status.observed_generation == generation
        && status.last_error.as_ref().map(|error| &error.0) == desired.last_error.as_ref()
        && desired
            .conditions
            .iter()
            .all(|one| status.conditions.contains(one))
}

/// Writes statuses until it is dropped.
pub(crate) async fn run(engine: Arc<Engine>, mut reported: mpsc::UnboundedReceiver<Report>) {
    // By UID; none says that the last instance was made well.
    let mut news: HashMap<String, Option<Failed>> = HashMap::new();
    let services = Services::default();
    let note = |news: &mut HashMap<String, Option<Failed>>, (key, outcome): Report| {
        if outcome.is_none() && engine.is_pooled(&key) {
            services.made(&engine, &key);
        }
        news.insert(key.uid, outcome);
    };
    let mut functions = engine.world.functions.clone();
    let mut packages = engine.world.packages.clone();
    let mut environments = engine.world.environments.clone();
    loop {
        while let Ok(report) = reported.try_recv() {
            note(&mut news, report);
        }
        services.keep(|key| engine.world.current(key).is_ok());
        let failed = look(&engine, &mut news).await;
        let retry = async {
            if !failed {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(RETRY).await;
        };
        tokio::select! {
            () = functions.changed() => {}
            () = packages.changed() => {}
            () = environments.changed() => {}
            () = engine.moved.notified() => {}
            () = retry => {}
            Some(report) = reported.recv() => note(&mut news, report),
        }
        tokio::time::sleep(DEBOUNCE).await;
    }
}

/// Compares every function's status once. True when a write failed.
async fn look(engine: &Engine, news: &mut HashMap<String, Option<Failed>>) -> bool {
    let mut again = false;
    for function in engine.world.functions.all() {
        let uid = function.uid().unwrap_or_default();
        if function.metadata.deletion_timestamp.is_some() {
            news.remove(&uid);
            continue;
        }
        let namespace = function.namespace().unwrap_or_default();
        let name = &function.spec.package.package_ref.name;
        let package = engine.world.packages.get(&namespace, name);
        let resolved = engine.world.resolve(&function, None);
        let code = resolved.as_ref().map(|one| one.code_hash.clone());
        let at = now();
        let old = function
            .status
            .as_ref()
            .and_then(|status| status.last_error.as_ref());
        let error = match news.get(&uid) {
            None => old.map(|error| error.0.clone()),
            Some(None) => None,
            Some(Some(failed)) => {
                let new = error_value(failed, &code.unwrap_or_default(), &at);
                Some(same_but_later(old.map(|old| &old.0), new))
            }
        };
        let provisioned = resolved
            .as_ref()
            .ok()
            .and_then(|revision| Provisioned::of(engine, &function, revision));
        let want = desired(
            &function,
            package.as_deref(),
            &resolved,
            error.as_ref(),
            provisioned,
            &at,
        );
        if says(
            function.status.as_ref(),
            &want,
            function.metadata.generation,
        ) {
            news.remove(&uid);
            continue;
        }
        if let Err(error) = write(engine, &function, &want).await {
            let name = function.name_any();
            tracing::warn!(namespace, name, %error, "could not write a status");
            again = true;
        } else {
            news.remove(&uid);
        }
    }
    again
}

/// The same error again is not worth a write.
fn same_but_later(old: Option<&Value>, new: Value) -> Value {
    let same = |old: &&Value| {
        ["component", "reason", "code"]
            .iter()
            .all(|field| old[field] == new[field])
    };
    old.filter(same).cloned().unwrap_or(new)
}

async fn write(engine: &Engine, function: &Function, want: &Desired) -> Result<(), kube::Error> {
    let namespace = function.namespace().unwrap_or_default();
    let api = Api::<Function>::namespaced(engine.client.clone(), &namespace);
    let mut status = json!({
        "observedGeneration": function.metadata.generation,
        "conditions": want.conditions,
    });
    if let Some(error) = &want.last_error {
        status["lastError"] = error.clone();
    }
    if let Some(provisioned) = &want.provisioned {
        status["provisionedReady"] = provisioned.ready.into();
        status["provisionedTarget"] = number(provisioned.floor.target).into();
        status["provisionedSpecTarget"] = provisioned.base.into();
    }
    apply_status(&api, function, &status).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::{Parts, resolve};

    fn objects() -> (Function, Package, farplane_functions_types::Environment) {
        let read = |value: Value| serde_json::from_value::<Value>(value).unwrap();
        let meta =
            |name: &str| json!({ "name": name, "namespace": "n", "uid": name, "generation": 1 });
        let function = read(json!({
            "apiVersion": "fission.io/v1", "kind": "Function", "metadata": meta("f"),
            "spec": { "environment": { "name": "e" }, "package": { "packageref": { "name": "p" } } },
        }));
        let package = read(json!({
            "apiVersion": "fission.io/v1", "kind": "Package", "metadata": meta("p"),
            "spec": { "environment": { "name": "e" }, "deployment": { "literal": "eA==" } },
        }));
        let environment = read(json!({
            "apiVersion": "fission.io/v1", "kind": "Environment", "metadata": meta("e"),
            "spec": { "version": 3, "runtime": { "image": "i" } },
        }));
        (
            serde_json::from_value(function).unwrap(),
            serde_json::from_value(package).unwrap(),
            serde_json::from_value(environment).unwrap(),
        )
    }

    fn said<'a>(desired: &'a Desired, type_: &str) -> (&'a str, &'a str) {
        let mut all = desired.conditions.iter();
        let one = all.find(|one| one.type_ == type_).unwrap();
        (&one.status, &one.reason)
    }

    #[test]
    fn a_function_is_ready_until_its_code_does_not_load_and_again_with_other_code() {
        let (function, mut package, environment) = objects();
        let resolved = |package: &Package| {
            resolve(&Parts {
                function: &function,
                spec: &function.spec,
                version: "",
                environment: Some(&environment),
                package: Some(package),
                storage_url: "",
            })
            .map(Arc::new)
        };
        let at = now();
        let first = resolved(&package);
        let want = desired(&function, Some(&package), &first, None, None, &at);
        assert_eq!(said(&want, READY), ("True", "Available"));
        assert_eq!(said(&want, PACKAGE_READY), ("True", "PackageReady"));
        let failed = Failed::wrong("function", "NameError: x");
        let code = first.as_ref().unwrap().code_hash.clone();
        let error = error_value(&failed, &code, &at);
        let want = desired(&function, Some(&package), &first, Some(&error), None, &at);
        assert_eq!(said(&want, READY), ("False", "CodeNotLoaded"));
        assert_eq!(want.last_error.as_ref().unwrap()["reason"], "NameError: x");
        package.spec.deployment.literal = "eQ==".into();
        let second = resolved(&package);
        let want = desired(&function, Some(&package), &second, Some(&error), None, &at);
        assert_eq!(said(&want, READY), ("True", "Available"));
        assert_eq!(want.last_error, None);
    }

    #[test]
    fn what_is_missing_is_said() {
        let (function, _, environment) = objects();
        let missing = resolve(&Parts {
            function: &function,
            spec: &function.spec,
            version: "",
            environment: Some(&environment),
            package: None,
            storage_url: "",
        })
        .map(Arc::new);
        let want = desired(&function, None, &missing, None, None, &now());
        assert_eq!(said(&want, READY), ("False", "NotRunnable"));
        assert_eq!(said(&want, PACKAGE_READY), ("False", "PackageNotReady"));
    }

    #[test]
    fn what_is_provisioned_is_said() {
        let words = |ready, target, said, wrong: Option<&str>| {
            let wrong = wrong.map(str::to_owned);
            let floor = Floor {
                target,
                said,
                wrong,
            };
            let base = 1;
            Provisioned { ready, floor, base }.words()
        };
        assert_eq!(words(1, 3, 3, None).reason, "Warming");
        assert_eq!(words(3, 3, 3, None).reason, "Satisfied");
        assert_eq!(words(20, 20, 50, None).reason, "Clamped");
        let wrong = words(3, 3, 3, Some("window w: no"));
        assert_eq!((wrong.holds, wrong.reason), (false, "InvalidWindow"));
        assert!(wrong.message.contains("window w"));
    }

    #[test]
    fn the_same_error_is_not_written_twice() {
        let failed = Failed::wrong("function", "x");
        let at = |second| Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap());
        let old = error_value(&failed, "c", &at(1));
        let kept = same_but_later(Some(&old), error_value(&failed, "c", &at(2)));
        assert_eq!(kept, old);
        let other = error_value(&Failed::wrong("function", "y"), "c", &at(2));
        assert_eq!(same_but_later(Some(&old), other.clone()), other);
    }
}
