//! Writes what became of a package.

use farplane_functions_types::Package;
use farplane_functions_types::package::{PackageStatus, build_status};
use farplane_functions_types::wire::UploadReply;
use farplane_types::conditions::{self, READY};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::decide::Reason;
use crate::error::Error;

const BUILD_SUCCEEDED: &str = "BuildSucceeded";

/// A status as it shall be.
#[derive(Clone, Debug)]
pub struct Report {
    /// Word of the status.
    pub build_status: &'static str,
    /// The log.
    pub log: String,
    /// Digest of what it speaks of; as it was when none.
    pub hash: Option<String>,
    /// Why.
    pub reason: Reason,
}

impl Report {
    /// Condition values of a word: of the build, and of the package.
    fn values(&self) -> (&'static str, &'static str) {
        match self.build_status {
            build_status::SUCCEEDED | build_status::NONE => ("True", "True"),
            build_status::FAILED => ("False", "False"),
            _ => ("Unknown", "False"),
        }
    }

    /// The status that it makes of another.
    pub fn on(&self, old: &PackageStatus, generation: Option<i64>, now: Time) -> PackageStatus {
        let (built, ready) = self.values();
        let mut all = old.conditions.clone();
        for (type_, status) in [(BUILD_SUCCEEDED, built), (READY, ready)] {
            conditions::put(&mut all, self.condition(type_, status, generation, &now));
        }
        PackageStatus {
            build_status: self.build_status.to_owned(),
            build_log: self.log.clone(),
            content_hash: self
                .hash
                .clone()
                .unwrap_or_else(|| old.content_hash.clone()),
            last_update_timestamp: Some(now),
            observed_generation: generation,
            conditions: all,
        }
    }

    fn condition(
        &self,
        type_: &str,
        status: &str,
        generation: Option<i64>,
        now: &Time,
    ) -> Condition {
        // The API takes 32 KiB.
        let message: String = self.reason.message.chars().take(2000).collect();
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: self.reason.reason.to_owned(),
            message,
            observed_generation: generation,
            last_transition_time: now.clone(),
        }
    }
}

/// True when a status differs by more than its times.
fn differs(old: &PackageStatus, new: &PackageStatus) -> bool {
    let mut same = new.clone();
    same.last_update_timestamp = old.last_update_timestamp.clone();
    for one in &mut same.conditions {
        if let Some(known) = old.conditions.iter().find(|known| known.type_ == one.type_) {
            one.last_transition_time = known.last_transition_time.clone();
        }
    }
    *old != same
}

/// Writes a report, when it says something new. A package that is gone, or that is another of
/// the same name, is left alone.
///
/// # Errors
/// When the API server does not take it.
pub async fn write(client: &Client, package: &Package, report: &Report) -> Result<(), Error> {
    let empty = PackageStatus::default();
    let old = package.status.as_ref().unwrap_or(&empty);
    let new = report.on(old, package.metadata.generation, Time(Timestamp::now()));
    if !differs(old, &new) {
        return Ok(());
    }
    let name = package.name_any();
    let status = json!({
        "buildstatus": new.build_status,
        "buildlog": new.build_log,
        "contentHash": new.content_hash,
        "lastUpdateTimestamp": new.last_update_timestamp,
        "observedGeneration": new.observed_generation,
        "conditions": new.conditions,
    });
    let patch = json!({ "metadata": { "uid": package.uid() }, "status": status });
    let api = api(client, package);
    let written = api
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    unless_gone(written).map_err(Error::api("write the status of package", name))
}

/// Writes what a build made into the package.
///
/// # Errors
/// When the API server does not take it.
pub async fn deploy(client: &Client, package: &Package, built: &UploadReply) -> Result<(), Error> {
    let name = package.name_any();
    let deployment = json!({
        "type": "url",
        "url": built.archive_download_url,
        "checksum": built.checksum,
        "literal": null,
        "oci": null,
    });
    let patch = json!({
        "metadata": { "uid": package.uid() },
        "spec": { "deployment": deployment },
    });
    let api = api(client, package);
    let written = api
        .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    unless_gone(written).map_err(Error::api("write the deployment of package", name))
}

fn api(client: &Client, package: &Package) -> Api<Package> {
    Api::namespaced(client.clone(), &package.namespace().unwrap_or_default())
}

/// Another UID is answered with a conflict.
fn unless_gone(written: Result<Package, kube::Error>) -> Result<(), kube::Error> {
    match written {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(build_status: &'static str, message: &str) -> Report {
        Report {
            build_status,
            log: "log".to_owned(),
            hash: Some("h".to_owned()),
            reason: Reason::new("Why", message),
        }
    }

    #[test]
    fn conditions_follow_the_word_and_keep_the_time_of_their_change() {
        let (first, later) = (Time(Timestamp::UNIX_EPOCH), Time(Timestamp::now()));
        let pending =
            report(build_status::PENDING, "").on(&PackageStatus::default(), Some(1), first.clone());
        let value = |status: &PackageStatus, type_: &str| {
            let one = status.conditions.iter().find(|one| one.type_ == type_);
            one.map(|one| (one.status.clone(), one.last_transition_time.clone()))
                .unwrap()
        };
        assert_eq!(value(&pending, READY), ("False".to_owned(), first.clone()));
        let failed = report(build_status::FAILED, "m").on(&pending, Some(1), later.clone());
        assert_eq!(value(&failed, READY), ("False".to_owned(), first));
        assert_eq!(value(&failed, BUILD_SUCCEEDED).0, "False");
        let done = report(build_status::SUCCEEDED, "m").on(&failed, Some(2), later.clone());
        assert_eq!(value(&done, READY), ("True".to_owned(), later));
    }

    #[test]
    fn a_status_that_says_the_same_is_not_written_again() {
        let (first, later) = (Time(Timestamp::UNIX_EPOCH), Time(Timestamp::now()));
        let old = report(build_status::FAILED, "m").on(&PackageStatus::default(), Some(1), first);
        let same = report(build_status::FAILED, "m").on(&old, Some(1), later.clone());
        assert!(!differs(&old, &same));
        let other = report(build_status::FAILED, "n").on(&old, Some(1), later);
        assert!(differs(&old, &other));
    }
}
