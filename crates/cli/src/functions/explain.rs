//! Says what keeps a function from answering, and what to do about it. Pure.
//!
//! Each part of the way to an answer has a [`Finding`], in the order in which a call depends
//! on them: code, environment, pool or Deployment, instances, the last error, routes.

use farplane_embedded::pod_reason;
use farplane_functions_types::package::build_status as build;
use farplane_functions_types::{ExecutorType, Package};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use serde::Serialize;
use serde_json::Value;

use super::facts::Facts;
use super::kinds;
use super::reach::is_ready;
use crate::failure::Failure;
use crate::wait::{State, Step, Verdict};

/// Lines of a build's log that are shown.
const LOG_LINES: usize = 25;

/// How a part of the way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Health {
    /// As it should be.
    Good,
    /// Not yet.
    Waiting,
    /// Wrong, and it stays so until somebody does something.
    Bad,
}

/// How one part of the way to an answer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Which part.
    pub part: &'static str,
    /// How it is.
    pub health: Health,
    /// In words.
    pub words: String,
    /// What to do next; empty when there is nothing to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

impl Finding {
    fn new(part: &'static str, health: Health, words: impl Into<String>) -> Self {
        Self {
            part,
            health,
            words: words.into(),
            next: String::new(),
        }
    }

    fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }
}

/// Makes a command that works in the same place.
pub(crate) type Repeat<'a> = &'a dyn Fn(&str) -> String;

/// How every part is.
pub(crate) fn findings(facts: &Facts, repeat: Repeat<'_>) -> Vec<Finding> {
    let mut all = way(facts, repeat);
    all.extend(last_error(facts, repeat));
    all.extend(routes(facts));
    all
}

/// What a first call depends on.
fn way(facts: &Facts, repeat: Repeat<'_>) -> Vec<Finding> {
    match facts.function.spec.executor_type() {
        ExecutorType::Container => vec![deployment(facts, repeat)],
        ExecutorType::Newdeploy => vec![
            code(facts, repeat),
            environment(facts, repeat),
            deployment(facts, repeat),
        ],
        ExecutorType::Poolmgr => vec![
            code(facts, repeat),
            environment(facts, repeat),
            pool(facts, repeat),
            instances(facts),
        ],
    }
}

/// Whether a first call can be answered.
pub(crate) fn callable(facts: &Facts, repeat: Repeat<'_>) -> Verdict {
    let parts: Vec<Finding> = way(facts, repeat)
        .into_iter()
        .filter(|finding| finding.part != "instances")
        .collect();
    let lost = parts.iter().find(|finding| {
        // An image may still come, a build that failed does not.
        finding.health == Health::Bad && finding.part == "code"
    });
    if let Some(lost) = lost {
        let next = match lost.next.as_str() {
            "" => String::new(),
            next => format!("\n{next}"),
        };
        return Verdict::Failed(Failure::Refused(format!("{}{next}", lost.words)));
    }
    let ready = parts.iter().all(|finding| finding.health == Health::Good);
    let steps = parts
        .into_iter()
        .map(|finding| match finding.health {
            Health::Good => Step::new(finding.part, State::Done(None)),
            _ => Step::new(finding.part, State::Waiting(finding.words)),
        })
        .collect();
    match ready {
        true => Verdict::Done(steps),
        false => Verdict::Going(steps),
    }
}

fn code(facts: &Facts, repeat: Repeat<'_>) -> Finding {
    let finding = |health, words: String| Finding::new("code", health, words);
    let reference = &facts.function.spec.package.package_ref.name;
    let function = facts.function.name_any();
    let Some(package) = &facts.package else {
        let words = match reference.as_str() {
            "" => "the function names no package, so it has no code".to_owned(),
            name => format!("there is no package {name}, so the function has no code"),
        };
        let next = repeat(&format!("fn update {function} --code FILE"));
        return finding(Health::Bad, words).next(format!("`{next}` gives it code"));
    };
    package_finding(package, &function, repeat)
}

/// How a package is.
pub(crate) fn package_finding(package: &Package, function: &str, repeat: Repeat<'_>) -> Finding {
    let finding = |health, words: String| Finding::new("code", health, words);
    let name = package.name_any();
    let status = package.status.clone().unwrap_or_default();
    let to_build = !package.spec.source.is_empty() && package.spec.deployment.is_empty();
    let seen = status.observed_generation;
    if seen.is_some() && seen < package.metadata.generation && !package.spec.source.is_empty() {
        let words = format!("package {name} was changed and waits to be built");
        return finding(Health::Waiting, words);
    }
    match status.build_status.as_str() {
        build::FAILED => {
            let log = tail(&status.build_log, LOG_LINES);
            let words = match log.as_str() {
                "" => match reason(&status.conditions) {
                    Some(reason) => format!("package {name} is not built: {reason}"),
                    None => format!("the build of package {name} failed and said nothing"),
                },
                log => format!("the build of package {name} failed:\n{log}"),
            };
            let environment = &package.spec.environment.name;
            let next = repeat(&format!(
                "fn deploy DIR --name {function} --env {environment}"
            ));
            finding(Health::Bad, words).next(format!("mend the source, then `{next}`"))
        }
        build::PENDING => finding(
            Health::Waiting,
            match reason(&status.conditions) {
                Some(reason) => format!("package {name} waits: {reason}"),
                None => format!("package {name} waits to be built"),
            },
        ),
        build::RUNNING => finding(Health::Waiting, format!("package {name} is being built")),
        build::SUCCEEDED if !package.spec.source.is_empty() => {
            finding(Health::Good, format!("package {name} is built"))
        }
        "" if to_build => finding(
            Health::Waiting,
            format!("package {name} waits for the controllers to take it up"),
        ),
        _ if package.spec.deployment.is_empty() => {
            let next = repeat(&format!("fn update {function} --code FILE"));
            finding(Health::Bad, format!("package {name} has no code"))
                .next(format!("`{next}` gives it code"))
        }
        _ => finding(Health::Good, format!("package {name} is ready")),
    }
}

/// Why a package is not ready, in the words of the controllers.
fn reason(conditions: &[Condition]) -> Option<&str> {
    let unready = conditions.iter().find(|one| one.status == "False");
    unready
        .map(|one| one.message.as_str())
        .filter(|message| !message.is_empty())
}

/// Whether a package is built.
pub(crate) fn built(package: &Package, repeat: Repeat<'_>) -> Verdict {
    let finding = package_finding(package, "NAME", repeat);
    let step = |state| vec![Step::new(format!("package {}", package.name_any()), state)];
    match finding.health {
        Health::Good => Verdict::Done(step(State::Done(None))),
        Health::Waiting => Verdict::Going(step(State::Working(finding.words))),
        Health::Bad => Verdict::Failed(Failure::Refused(finding.words)),
    }
}

/// The last lines of a text, without a line feed at the end.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn environment(facts: &Facts, repeat: Repeat<'_>) -> Finding {
    let name = &facts.function.spec.environment.name;
    match &facts.environment {
        Some(environment) => Finding::new(
            "environment",
            Health::Good,
            format!("{name}, image {}", environment.spec.runtime.image),
        ),
        None => {
            let next = repeat(&format!("env create {name}"));
            Finding::new(
                "environment",
                Health::Bad,
                format!("there is no environment {name}"),
            )
            .next(format!("`{next}` makes it"))
        }
    }
}

fn pool(facts: &Facts, repeat: Repeat<'_>) -> Finding {
    let finding = |health, words: String| Finding::new("pool", health, words);
    let Some(environment) = &facts.environment else {
        return finding(Health::Waiting, "waits for the environment".to_owned());
    };
    let ready = facts.waiting.iter().filter(|pod| is_ready(pod)).count();
    let wanted = usize::try_from(environment.spec.pool_size()).unwrap_or(0);
    let words = format!("{ready} of {wanted} Pods are ready to take a function");
    let instance = facts.instances.iter().any(is_ready);
    if ready > 0 || instance || wanted == 0 {
        return finding(Health::Good, words);
    }
    let name = environment.name_any();
    if let Some(reason) = facts.waiting.iter().find_map(pod_reason) {
        let (health, next) = judge(
            &reason,
            &format!("environment {name}"),
            &repeat(&format!("env describe {name}")),
        );
        return finding(health, format!("{words}: {reason}")).next(next);
    }
    let refused = facts.pools.iter().find_map(replica_failure);
    match refused {
        Some(message) => finding(Health::Bad, format!("no Pod can be made: {message}"))
            .next("change what forbids it: a quota, a policy, or the environment"),
        None if facts.pools.is_empty() => {
            let next = repeat_cluster(repeat, "functions status");
            finding(
                Health::Waiting,
                "the executor has not made the pool yet".to_owned(),
            )
            .next(format!(
                "when that lasts, `{next}` tells whether the executor works"
            ))
        }
        None => finding(Health::Waiting, "the pool has no Pod yet".to_owned()),
    }
}

fn replica_failure(deployment: &k8s_openapi::api::apps::v1::Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failed = conditions.iter().find(|one| {
        one.type_.as_deref() == Some("ReplicaFailure") && one.status.as_deref() == Some("True")
    })?;
    failed.message.clone()
}

/// `functions status` knows no namespace.
fn repeat_cluster(repeat: Repeat<'_>, words: &str) -> String {
    let with = repeat(words);
    match with.split_once(" -n ") {
        Some((before, after)) => {
            let rest = after.split_once(' ').map(|(_, rest)| format!(" {rest}"));
            format!("{before}{}", rest.unwrap_or_default())
        }
        None => with,
    }
}

/// Whether a reason goes away by itself, and what to do when it does not.
fn judge(reason: &str, of: &str, describe: &str) -> (Health, String) {
    if reason.contains("image") && reason.contains("is missing") {
        let next = format!(
            "the image of {of} cannot be pulled: is its name right, and may the nodes pull it? `{describe}` shows it"
        );
        return (Health::Bad, next);
    }
    if reason.contains("ends with code") || reason.contains("ended with code") {
        let next =
            format!("the container of {of} ends by itself: `kubectl logs` of the Pod tells why");
        return (Health::Bad, next);
    }
    if reason.contains("cannot be placed") {
        let next = "no node has room for the Pod: add a node, or ask for less".to_owned();
        return (Health::Bad, next);
    }
    (Health::Waiting, String::new())
}

fn deployment(facts: &Facts, repeat: Repeat<'_>) -> Finding {
    let finding = |health, words: String| Finding::new("deployment", health, words);
    let strategy = &facts.function.spec.invoke_strategy.execution_strategy;
    let least = strategy.min_scale.unwrap_or(1);
    let ready = facts.instances.iter().filter(|pod| is_ready(pod)).count();
    if ready > 0 {
        return finding(Health::Good, format!("{ready} instances are ready"));
    }
    if let Some(reason) = facts.instances.iter().find_map(pod_reason) {
        let name = facts.function.name_any();
        let (health, next) = judge(
            &reason,
            &format!("function {name}"),
            &repeat(&format!("fn describe {name} -o yaml")),
        );
        return finding(health, reason).next(next);
    }
    if let Some(message) = facts.deployments.iter().find_map(replica_failure) {
        return finding(Health::Bad, format!("no Pod can be made: {message}"))
            .next("change what forbids it: a quota, a policy, or the function");
    }
    match (least, facts.deployments.is_empty()) {
        (0, _) => finding(
            Health::Good,
            "no instance runs; the first call makes one".to_owned(),
        ),
        (_, true) => finding(
            Health::Waiting,
            "the executor has not made it yet".to_owned(),
        ),
        (_, false) => finding(Health::Waiting, "it has no Pod yet".to_owned()),
    }
}

fn instances(facts: &Facts) -> Finding {
    let ready = facts.instances.iter().filter(|pod| is_ready(pod)).count();
    match facts.instances.len() {
        0 => Finding::new("instances", Health::Good, "none; a call makes one"),
        all if ready == all => Finding::new("instances", Health::Good, format!("{ready} ready")),
        all => {
            let reason = facts.instances.iter().find_map(unready);
            let words = format!(
                "{ready} of {all} ready{}",
                reason
                    .map(|reason| format!(": {reason}"))
                    .unwrap_or_default()
            );
            Finding::new("instances", Health::Waiting, words)
        }
    }
}

fn unready(pod: &Pod) -> Option<String> {
    match pod.metadata.deletion_timestamp {
        Some(_) => Some("one is being ended".to_owned()),
        None => pod_reason(pod),
    }
}

fn last_error(facts: &Facts, repeat: Repeat<'_>) -> Option<Finding> {
    let status = facts.function.status.as_ref()?;
    let Some(error) = &status.last_error else {
        return unserved(facts);
    };
    let words = error_words(&error.0)?;
    let name = facts.function.name_any();
    let next = match error.0["component"].as_str() {
        Some("environment") => {
            let environment = &facts.function.spec.environment.name;
            let look = repeat(&format!("env describe {environment}"));
            format!("`{look}` shows how its Pods are")
        }
        Some("executor" | "router" | "fetcher") => {
            let look = repeat_cluster(repeat, "functions status");
            format!("`{look}` shows how the platform is")
        }
        _ => {
            let logs = repeat(&format!("fn logs {name}"));
            let update = repeat(&format!("fn update {name} --code FILE"));
            format!("mend the code, then `{update}`; `{logs}` shows what it printed")
        }
    };
    Some(Finding::new("last error", Health::Bad, words).next(next))
}

/// Why the executor does not serve the function, when that is of its current state.
fn unserved(facts: &Facts) -> Option<Finding> {
    let status = facts.function.status.as_ref()?;
    let ready = status.conditions.iter().find(|one| one.type_ == "Ready")?;
    let current = ready.observed_generation >= facts.function.metadata.generation;
    (current && ready.status == "False").then(|| {
        Finding::new(
            "function",
            Health::Waiting,
            format!("{}: {}", ready.reason, ready.message),
        )
    })
}

/// The words of an error, whoever wrote it.
pub(crate) fn error_words(value: &Value) -> Option<String> {
    let text = |key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let words = match value {
        Value::String(words) if !words.is_empty() => words.clone(),
        Value::Object(_) => ["reason", "message", "error"]
            .iter()
            .find_map(|key| text(key))?
            .to_owned(),
        _ => return None,
    };
    let from = text("component")
        .map(|component| format!("{component}: "))
        .unwrap_or_default();
    let at = ["time", "at", "timestamp"].iter().find_map(|key| text(key));
    let at = at.map(|at| format!(" (at {at})")).unwrap_or_default();
    Some(format!("{from}{}{at}", words.trim_end()))
}

fn routes(facts: &Facts) -> Vec<Finding> {
    facts
        .routes
        .iter()
        .filter_map(|route| {
            let conditions = &route.status.as_ref()?.conditions;
            let refused = conditions.iter().find(|one| one.status == "False")?;
            let words = format!(
                "{} {} is not served ({}): {}",
                kinds::methods(route).join(","),
                kinds::path(route),
                refused.reason,
                refused.message
            );
            Some(Finding::new("route", Health::Bad, words).next("change or delete the route"))
        })
        .collect()
}

#[cfg(test)]
mod tests;
