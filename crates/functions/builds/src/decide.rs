//! What a package needs. Pure.

use farplane_functions_types::package::{PackageStatus, build_status};
use farplane_functions_types::{Environment, Package};

use crate::content;

/// What a package needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its status is right.
    Nothing,
    /// Its status is to be written; there is nothing to do.
    Settle(Settled),
    /// It waits for something that is not there.
    Wait(Reason),
    /// It is to be built.
    Build {
        /// Digest of what it is built from.
        hash: String,
    },
}

/// A status without a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Word of the status.
    pub build_status: &'static str,
    /// Why.
    pub reason: Reason,
    /// Digest of what it speaks of.
    pub hash: String,
}

/// Why a package is as it is; the reason of its conditions, and in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// One word.
    pub reason: &'static str,
    /// In words.
    pub message: String,
}

impl Reason {
    /// A reason in words.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason, message }
    }
}

/// Decides what a package needs, given its environment.
pub fn decide(package: &Package, environment: Option<&Environment>) -> Step {
    let empty = PackageStatus::default();
    let status = package.status.as_ref().unwrap_or(&empty);
    let hash = content::hash(&package.spec, environment);
    if package.spec.source.is_empty() {
        return without_source(package, status, hash);
    }
    let own = package.metadata.namespace.as_deref().unwrap_or_default();
    let of = &package.spec.environment;
    if !of.namespace.is_empty() && of.namespace != own {
        let message = format!(
            "environment {}/{} is of another namespace; use one of {own}",
            of.namespace, of.name
        );
        return settle(
            status,
            build_status::FAILED,
            "CrossNamespace",
            message,
            hash,
        );
    }
    match status.build_status.as_str() {
        "" | build_status::NONE if !package.spec.deployment.is_empty() && is_unknown(status) => {
            let message = "the deployment is used as it is; change the source to have it built";
            settle(status, build_status::NONE, "NothingToBuild", message, hash)
        }
        // Another program's, or of before there were digests: it stands as it is.
        build_status::SUCCEEDED if !package.spec.deployment.is_empty() && is_unknown(status) => {
            settle(
                status,
                build_status::SUCCEEDED,
                "BuildSucceeded",
                "built",
                hash,
            )
        }
        build_status::SUCCEEDED | build_status::NONE | build_status::FAILED
            if status.content_hash == hash && is_whole(package, status) =>
        {
            Step::Nothing
        }
        _ => with_builder(package, status, environment, hash),
    }
}

fn is_unknown(status: &PackageStatus) -> bool {
    !content::is_ours(&status.content_hash)
}

/// What says it has code has some.
fn is_whole(package: &Package, status: &PackageStatus) -> bool {
    status.build_status == build_status::FAILED || !package.spec.deployment.is_empty()
}

fn without_source(package: &Package, status: &PackageStatus, hash: String) -> Step {
    let (word, reason, message) = if package.spec.deployment.is_empty() {
        let message = "the package has neither source nor deployment";
        (build_status::FAILED, "NoCode", message)
    } else {
        (
            build_status::NONE,
            "NothingToBuild",
            "there is nothing to build",
        )
    };
    let word = match status.build_status.as_str() {
        // Built once; its source was taken away since.
        build_status::SUCCEEDED if word == build_status::NONE => build_status::SUCCEEDED,
        _ => word,
    };
    settle(status, word, reason, message, hash)
}

fn with_builder(
    package: &Package,
    status: &PackageStatus,
    environment: Option<&Environment>,
    hash: String,
) -> Step {
    let name = &package.spec.environment.name;
    let Some(environment) = environment else {
        let own = package.metadata.namespace.as_deref().unwrap_or_default();
        let message = format!("environment {name} does not exist in namespace {own}");
        return Step::Wait(Reason::new("EnvironmentMissing", message));
    };
    if environment.spec.builder.image.is_empty() {
        let message = format!(
            "environment {name} has no builder (spec.builder.image): give it one, or give the package a deployment"
        );
        return settle(status, build_status::FAILED, "NoBuilder", message, hash);
    }
    Step::Build { hash }
}

fn settle(
    status: &PackageStatus,
    build_status: &'static str,
    reason: &'static str,
    message: impl Into<String>,
    hash: String,
) -> Step {
    let known = status.build_status == build_status && status.content_hash == hash;
    let told = status.conditions.iter().any(|one| one.type_ == "Ready");
    if known && told {
        return Step::Nothing;
    }
    Step::Settle(Settled {
        build_status,
        reason: Reason::new(reason, message),
        hash,
    })
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
