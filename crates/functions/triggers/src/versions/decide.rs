//! What is published, what an alias leads to, and what is deleted. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use farplane_functions_types::package::build_status;
use farplane_functions_types::release::{AliasSwitch, FunctionAliasStatus};
use farplane_functions_types::{
    Archive, Checksum, Environment, Function, FunctionAlias, FunctionSpec, FunctionVersion,
    FunctionVersionSpec, Package, PackageSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::{Resource as _, ResourceExt as _};

use crate::objects::{Said, set_condition};
use crate::versions::{FINALIZER, FUNCTION_NAME, FUNCTION_UID, SOURCE_PACKAGE};

/// Versions kept when the function says nothing.
const RETAIN: i64 = 10;
/// Moves of an alias that are remembered.
const HISTORY: usize = 10;
/// Put in place of code that is not kept.
const LEFT_OUT: &str = "-";
const RESOLVED: &str = "Resolved";
const ENV_DRIFT: &str = "EnvDrift";

/// Everything that is known.
pub(crate) struct World<'a> {
    pub versions: &'a [Arc<FunctionVersion>],
    pub aliases: &'a [Arc<FunctionAlias>],
    pub functions: &'a [Arc<Function>],
}

/// What is made of a function.
#[derive(Debug)]
pub(crate) struct Publication {
    pub version: FunctionVersion,
    /// Copy of the package; none when the code cannot change under its name.
    pub package: Option<Package>,
}

/// Why nothing is made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotPublished {
    /// It is as its newest version.
    Unchanged,
    /// Its package is being built, or failed to be.
    NotReady,
    /// Its package has nothing that could be pinned.
    NoDigest,
}

/// What is done about a version.
#[derive(Debug)]
pub(crate) struct Tidy {
    pub version: Arc<FunctionVersion>,
    pub step: Step,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Guard it.
    AddFinalizer,
    /// More than are retained.
    Delete,
    /// It is on its way out and nobody needs it.
    Release,
    /// It is on its way out and this alias needs it.
    Hold(String),
}

impl World<'_> {
    /// The newest version of a function.
    fn newest(&self, function: &Function) -> Option<&FunctionVersion> {
        self.of(function)
            .max_by_key(|version| version.spec.sequence)
    }

    fn of(&self, function: &Function) -> impl Iterator<Item = &FunctionVersion> {
        let (namespace, uid) = (function.namespace(), function.uid().unwrap_or_default());
        self.versions
            .iter()
            .map(AsRef::as_ref)
            .filter(move |version| {
                version.namespace() == namespace && version.spec.function_uid == uid
            })
    }

    /// True when a function is to be published, as far as one sees by its package without code.
    pub fn may_publish(&self, function: &Function, package: &Package) -> bool {
        let mode = function.spec.versioning.as_ref();
        let is_auto =
            mode.is_some_and(|versioning| matches!(versioning.mode.as_str(), "" | "auto"));
        if !is_auto || function.metadata.deletion_timestamp.is_some() || !is_built(package) {
            return false;
        }
        let generation = function.metadata.generation.unwrap_or(0);
        self.newest(function).is_none_or(|version| {
            let digest = digest(package);
            version.spec.function_generation < generation
                || digest.is_some_and(|digest| digest != version.spec.package_digest)
        })
    }

    /// The next version of a function.
    pub fn publish(
        &self,
        function: &Function,
        package: &Package,
        environment: Option<&Environment>,
        now: &Time,
    ) -> Result<Publication, NotPublished> {
        if !is_built(package) {
            return Err(NotPublished::NotReady);
        }
        let digest = digest(package).ok_or(NotPublished::NoDigest)?;
        let newest = self.newest(function);
        let same = newest.is_some_and(|version| {
            version.spec.package_digest == digest
                && normal(&version.spec.snapshot, source(version))
                    == normal(&function.spec, package.name_any())
        });
        if same {
            return Err(NotPublished::Unchanged);
        }
        let sequence = newest.map_or(1, |version| version.spec.sequence + 1);
        Ok(write(function, package, environment, digest, sequence, now))
    }

    /// What is to be done about versions.
    pub fn tidy(&self) -> Vec<Tidy> {
        let mut steps = Vec::new();
        for version in self.versions {
            let needed = self.needed(version);
            let function = self.functions.iter().find(|function| {
                function.namespace() == version.namespace()
                    && function.uid().as_ref() == Some(&version.spec.function_uid)
            });
            let has_finalizer = version.finalizers().iter().any(|one| one == FINALIZER);
            let is_leaving = version.metadata.deletion_timestamp.is_some();
            let step = match (is_leaving, has_finalizer, needed) {
                (true, true, Some(alias)) if function.is_some() => Step::Hold(alias),
                (true, true, _) => Step::Release,
                (false, false, _) => Step::AddFinalizer,
                (false, true, None)
                    if function.is_some_and(|function| self.is_surplus(function, version)) =>
                {
                    Step::Delete
                }
                _ => continue,
            };
            steps.push(Tidy {
                version: version.clone(),
                step,
            });
        }
        steps
    }

    /// An alias that leads to a version.
    fn needed(&self, version: &FunctionVersion) -> Option<String> {
        let name = version.name_any();
        let alias = self.aliases.iter().find(|alias| {
            let status = alias.status.as_ref();
            let resolved = status.map(|status| status.resolved_version.as_str());
            alias.namespace() == version.namespace()
                && alias.spec.function_name == version.spec.function_name
                && (alias.spec.version == name
                    || alias.spec.secondary_version == name
                    || resolved == Some(name.as_str()))
        });
        alias.map(|alias| alias.name_any())
    }

    fn is_surplus(&self, function: &Function, version: &FunctionVersion) -> bool {
        let Some(versioning) = &function.spec.versioning else {
            return false;
        };
        let retain = versioning.retain.unwrap_or(RETAIN).max(1);
        let newer = self.of(function).filter(|other| {
            other.spec.sequence > version.spec.sequence
                && other.metadata.deletion_timestamp.is_none()
        });
        i64::try_from(newer.count()).unwrap_or(i64::MAX) >= retain
    }
}

fn is_built(package: &Package) -> bool {
    let status = package.status.as_ref();
    let word = status.map_or("", |status| status.build_status.as_str());
    match word {
        build_status::SUCCEEDED | build_status::NONE => !package.spec.deployment.is_empty(),
        "" => !package.spec.deployment.is_empty() && package.spec.source.is_empty(),
        _ => false,
    }
}

/// Takes away what is not needed to see whether a package is another one.
pub(crate) fn strip(package: &mut Package) {
    let digest = digest(package);
    package.annotations_mut().clear();
    if let Some(status) = &mut package.status {
        status.build_log.clear();
    }
    for archive in [&mut package.spec.source, &mut package.spec.deployment] {
        if !archive.literal.is_empty() {
            LEFT_OUT.clone_into(&mut archive.literal);
        }
    }
    let checksum = &mut package.spec.deployment.checksum;
    if checksum.sum.is_empty()
        && let Some(sum) = digest
            .as_deref()
            .and_then(|one| one.strip_prefix("sha256:"))
    {
        *checksum = Checksum::sha256(sum.to_owned());
    }
}

/// Digest of the code that runs.
pub(crate) fn digest(package: &Package) -> Option<String> {
    let archive = &package.spec.deployment;
    if let Some(oci) = archive.oci.as_ref().filter(|oci| !oci.digest.is_empty()) {
        return Some(oci.digest.clone());
    }
    if !archive.checksum.sum.is_empty() {
        return Some(format!("sha256:{}", archive.checksum.sum));
    }
    let bytes = BASE64_STANDARD.decode(&archive.literal).ok()?;
    (!bytes.is_empty()).then(|| format!("sha256:{}", Checksum::of(&bytes).sum))
}

/// The package that a version's code is from.
fn source(version: &FunctionVersion) -> String {
    let annotation = version.annotations().get(SOURCE_PACKAGE);
    annotation
        .cloned()
        .unwrap_or_else(|| version.spec.snapshot.package.package_ref.name.clone())
}

/// A spec without what does not make another version of it.
fn normal(spec: &FunctionSpec, package: String) -> FunctionSpec {
    let mut spec = spec.clone();
    spec.package.package_ref.name = package;
    spec.package.package_ref.resource_version.clear();
    spec.versioning = None;
    spec
}

fn write(
    function: &Function,
    package: &Package,
    environment: Option<&Environment>,
    package_digest: String,
    sequence: i64,
    now: &Time,
) -> Publication {
    let (function_name, uid) = (function.name_any(), function.uid().unwrap_or_default());
    let name = format!("{function_name}-v{sequence}");
    let owner = OwnerReference {
        api_version: Function::api_version(&()).into_owned(),
        kind: Function::kind(&()).into_owned(),
        name: function_name.clone(),
        uid: uid.clone(),
        ..OwnerReference::default()
    };
    let oci = package.spec.deployment.oci.as_ref();
    let is_pinned = oci.is_some_and(|oci| !oci.digest.is_empty());
    let mut snapshot = function.spec.clone();
    let mut annotations = BTreeMap::new();
    if !is_pinned {
        snapshot.package.package_ref.name.clone_from(&name);
        annotations.insert(SOURCE_PACKAGE.to_owned(), package.name_any());
    }
    snapshot.package.package_ref.resource_version.clear();
    let copy = (!is_pinned).then(|| {
        let spec = PackageSpec {
            environment: package.spec.environment.clone(),
            source: Archive::default(),
            deployment: package.spec.deployment.clone(),
            build_command: String::new(),
        };
        let mut copy = Package::new(&name, spec);
        copy.metadata.namespace = function.namespace();
        copy.metadata.owner_references = Some(vec![owner.clone()]);
        copy.metadata.annotations = Some(annotations.clone());
        copy
    });
    let spec = FunctionVersionSpec {
        function_name: function_name.clone(),
        function_uid: uid.clone(),
        function_generation: function.metadata.generation.unwrap_or(0),
        sequence,
        snapshot,
        package_digest,
        env_observed_generation: environment
            .and_then(|environment| environment.metadata.generation)
            .unwrap_or(0),
        env_runtime_image: environment
            .map(|environment| environment.spec.runtime.image.clone())
            .unwrap_or_default(),
        description: String::new(),
        published_at: Some(now.clone()),
    };
    let mut version = FunctionVersion::new(&name, spec);
    let metadata = &mut version.metadata;
    metadata.namespace = function.namespace();
    metadata.owner_references = Some(vec![owner]);
    metadata.annotations = Some(annotations);
    metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    metadata.labels = Some(BTreeMap::from([
        (FUNCTION_NAME.to_owned(), function_name),
        (FUNCTION_UID.to_owned(), uid),
    ]));
    Publication {
        version,
        package: copy,
    }
}

/// The status that an alias should have; none when it has it.
pub(crate) fn alias(
    alias: &FunctionAlias,
    versions: &[Arc<FunctionVersion>],
    environment: impl Fn(&str) -> Option<Arc<Environment>>,
    now: &Time,
) -> Option<FunctionAliasStatus> {
    if alias.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let generation = alias.metadata.generation;
    let old = alias.status.clone().unwrap_or_default();
    let mut status = old.clone();
    status.observed_generation = generation;
    match resolve(alias, versions) {
        Ok(version) => {
            let name = version.name_any();
            if !old.resolved_version.is_empty() && old.resolved_version != name {
                let before = versions.iter().find(|version| {
                    version.namespace() == alias.namespace()
                        && version.name_any() == old.resolved_version
                });
                let switch = AliasSwitch {
                    version: old.resolved_version.clone(),
                    package_digest: before
                        .map(|version| version.spec.package_digest.clone())
                        .unwrap_or_default(),
                    switched_at: Some(now.clone()),
                };
                // The newest is last: that is where a rollback goes back to.
                status.history.push(switch);
                let surplus = status.history.len().saturating_sub(HISTORY);
                status.history.drain(..surplus);
            }
            status.resolved_version = name;
            let said = Said::yes("Resolved", "");
            set_condition(&mut status.conditions, RESOLVED, &said, generation, now);
            let live = environment(&version.spec.snapshot.environment.name);
            let said = drift(version, live.as_deref());
            set_condition(&mut status.conditions, ENV_DRIFT, &said, generation, now);
        }
        // Where it led before stays: calls go on.
        Err(said) => set_condition(&mut status.conditions, RESOLVED, &said, generation, now),
    }
    (status != old).then_some(status)
}

fn resolve<'a>(
    alias: &FunctionAlias,
    versions: &'a [Arc<FunctionVersion>],
) -> Result<&'a FunctionVersion, Said> {
    let (spec, namespace) = (&alias.spec, alias.namespace().unwrap_or_default());
    let of_function = || {
        versions.iter().map(AsRef::as_ref).filter(|version| {
            version.namespace().as_ref() == Some(&namespace)
                && version.spec.function_name == spec.function_name
        })
    };
    let find = |name: &str| {
        let function = &spec.function_name;
        of_function()
            .find(|version| version.name_any() == name)
            .ok_or_else(|| {
                let message = format!(
                    "FunctionVersion {name} of function {function} does not exist in namespace {namespace}"
                );
                Said::no("VersionNotFound", message)
            })
    };
    if !spec.secondary_version.is_empty() {
        find(&spec.secondary_version)?;
    }
    if spec.package_digest.is_empty() {
        return find(&spec.version);
    }
    of_function()
        .filter(|version| version.spec.package_digest == spec.package_digest)
        .max_by_key(|version| version.spec.sequence)
        .ok_or_else(|| {
            let message = format!(
                "no version of function {} has digest {}",
                spec.function_name, spec.package_digest
            );
            Said::no("DigestUnmatched", message)
        })
}

/// Whether the environment has changed since a version was made.
fn drift(version: &FunctionVersion, live: Option<&Environment>) -> Said {
    let seen = version.spec.env_observed_generation;
    let generation = live.and_then(|environment| environment.metadata.generation);
    match generation {
        Some(generation) if seen > 0 && generation != seen => {
            let message = format!("the environment is at generation {generation}, not {seen}");
            Said::yes("EnvGenerationDrift", message)
        }
        _ => Said::no("EnvCurrent", ""),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
