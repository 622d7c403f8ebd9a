//! Writes of versions and their packages.

use std::collections::HashSet;

use farplane_functions_types::{Environment, Function, FunctionVersion, Package};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;

use crate::context::Context;
use crate::objects::{self, FIELD_MANAGER, is_code};
use crate::versions::decide::{NotPublished, Publication, Step, Tidy, World};
use crate::versions::{FINALIZER, SOURCE_PACKAGE};

/// What came of publishing.
pub(crate) enum Published {
    Made,
    Unchanged,
    NotReady,
}

/// Publishes the next version of a function, when it is another one.
pub(crate) async fn publish(
    context: &Context,
    world: &World<'_>,
    function: &Function,
    environment: Option<&Environment>,
) -> Result<Published, String> {
    let namespace = function.namespace().unwrap_or_default();
    let packages = Api::<Package>::namespaced(context.client.clone(), &namespace);
    let name = &function.spec.package.package_ref.name;
    let package = packages
        .get_opt(name)
        .await
        .map_err(|error| format!("cannot read Package {name}: {error}"))?;
    let Some(package) = package else {
        return Ok(Published::NotReady);
    };
    let Publication { version, package } =
        match world.publish(function, &package, environment, &objects::now()) {
            Ok(publication) => publication,
            Err(NotPublished::Unchanged) => return Ok(Published::Unchanged),
            Err(NotPublished::NotReady) => return Ok(Published::NotReady),
            Err(NotPublished::NoDigest) => {
                return Err(format!(
                    "Package {name} has no digest, checksum or contents to tell its code by"
                ));
            }
        };
    // First the code, so that a version is never without; one that was left by a process that
    // died in between is written over.
    if let Some(copy) = &package {
        copy_package(&packages, copy, function).await?;
    }
    let versions = Api::<FunctionVersion>::namespaced(context.client.clone(), &namespace);
    let name = version.name_any();
    match versions.create(&PostParams::default(), &version).await {
        Ok(_) => {
            tracing::info!(namespace, name, "published");
            Ok(Published::Made)
        }
        // Somebody else was faster; what is right is seen with their version.
        Err(error) if is_code(&error, 409) => Ok(Published::NotReady),
        Err(error) => Err(format!("cannot make FunctionVersion {name}: {error}")),
    }
}

async fn copy_package(
    packages: &Api<Package>,
    copy: &Package,
    function: &Function,
) -> Result<(), String> {
    let name = copy.name_any();
    let failed = |error: kube::Error| format!("cannot make Package {name}: {error}");
    let uid = function.uid().unwrap_or_default();
    let there = packages.get_opt(&name).await.map_err(failed)?;
    let foreign = there.is_some_and(|package| {
        let ours = package
            .owner_references()
            .iter()
            .any(|owner| owner.uid == uid);
        !ours || !package.annotations().contains_key(SOURCE_PACKAGE)
    });
    if foreign {
        return Err(format!(
            "a Package {name} that is not ours is in the way; rename or delete it"
        ));
    }
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    packages
        .patch(&name, &parameters, &Patch::Apply(copy))
        .await
        .map_err(failed)?;
    Ok(())
}

/// Does what was decided about a version.
pub(crate) async fn tidy(
    context: &Context,
    recorder: &Recorder,
    tidy: &Tidy,
    told: &mut HashSet<String>,
) -> Result<(), kube::Error> {
    let version = tidy.version.as_ref();
    let (namespace, name) = (version.namespace().unwrap_or_default(), version.name_any());
    let versions = Api::<FunctionVersion>::namespaced(context.client.clone(), &namespace);
    let done = match &tidy.step {
        Step::AddFinalizer => {
            let mut all = version.finalizers().to_vec();
            all.push(FINALIZER.to_owned());
            set_finalizers(&versions, version, &all).await
        }
        Step::Delete => {
            let unchanged = Preconditions {
                uid: version.uid(),
                resource_version: version.resource_version(),
            };
            let parameters = DeleteParams::background().preconditions(unchanged);
            tracing::info!(namespace, name, "more versions than are retained; deleted");
            versions.delete(&name, &parameters).await.map(drop)
        }
        Step::Release => {
            delete_copy(context, version).await?;
            let all = version.finalizers().iter().filter(|one| *one != FINALIZER);
            let all: Vec<String> = all.cloned().collect();
            set_finalizers(&versions, version, &all).await
        }
        Step::Hold(alias) => {
            if told.insert(version.uid().unwrap_or_default()) {
                let note = format!(
                    "FunctionVersion {name} is still referenced by FunctionAlias {alias}; it is deleted once no alias needs it"
                );
                let event = Event {
                    type_: EventType::Warning,
                    reason: "StillReferenced".to_owned(),
                    note: Some(note),
                    action: "Delete".to_owned(),
                    secondary: None,
                };
                if let Err(error) = recorder.publish(&event, &version.object_ref(&())).await {
                    tracing::debug!(namespace, name, %error, "could not publish an event");
                }
            }
            Ok(())
        }
    };
    match done {
        // Gone meanwhile, or changed: the next look sees it.
        Err(error) if is_code(&error, 404) || is_code(&error, 409) => Ok(()),
        other => other,
    }
}

/// The copy of the package that was made for a version.
async fn delete_copy(context: &Context, version: &FunctionVersion) -> Result<(), kube::Error> {
    let (namespace, name) = (version.namespace().unwrap_or_default(), version.name_any());
    let is_copied = version.annotations().contains_key(SOURCE_PACKAGE)
        && version.spec.snapshot.package.package_ref.name == name;
    if !is_copied {
        return Ok(());
    }
    let packages = Api::<Package>::namespaced(context.client.clone(), &namespace);
    let Some(package) = packages.get_opt(&name).await? else {
        return Ok(());
    };
    if !package.annotations().contains_key(SOURCE_PACKAGE) {
        return Ok(());
    }
    match packages.delete(&name, &DeleteParams::background()).await {
        Err(error) if !is_code(&error, 404) => Err(error),
        _ => Ok(()),
    }
}

/// With the resource version, so that no other finalizer is lost.
async fn set_finalizers(
    versions: &Api<FunctionVersion>,
    version: &FunctionVersion,
    finalizers: &[String],
) -> Result<(), kube::Error> {
    let body = json!({ "metadata": {
        "resourceVersion": version.resource_version(),
        "finalizers": finalizers,
    }});
    let parameters = PatchParams::default();
    versions
        .patch(&version.name_any(), &parameters, &Patch::Merge(&body))
        .await
        .map(drop)
}
