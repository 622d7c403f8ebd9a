//! What every controller does with objects: apply, status, finalizers, deletion, events.

use farplane_types::conditions;
use farplane_types::names::{FIELD_MANAGER, FINALIZER};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::{Event, EventType};
use serde::Serialize;
use serde_json::json;

pub(crate) use farplane_control::objects::{Kind, now};

use crate::context::Context;
use crate::error::{Error, is_code};

/// Age of `time` in milliseconds, zero when it lies ahead.
pub(crate) fn age_ms(time: &Time, now: &Time) -> u64 {
    u64::try_from(now.0.as_millisecond() - time.0.as_millisecond()).unwrap_or(0)
}

fn describe<K: Kind>(object: &K) -> String {
    let name = object.name_any();
    match object.namespace() {
        Some(namespace) => format!("{} {namespace}/{name}", K::kind(&())),
        None => format!("{} {name}", K::kind(&())),
    }
}

/// Server-side apply: fields that we do not send stay as others set them.
pub(crate) async fn apply<K: Kind>(api: &Api<K>, object: &K) -> Result<K, Error> {
    let name = object.name_any();
    api.patch(
        &name,
        &PatchParams::apply(FIELD_MANAGER).force(),
        &Patch::Apply(object),
    )
    .await
    .map_err(Error::hub(format!("apply {}", describe(object))))
}

/// Writes our fields of a status.
pub(crate) async fn apply_status<K: Kind, S: Serialize>(
    api: &Api<K>,
    object: &K,
    status: &S,
) -> Result<(), Error> {
    farplane_control::objects::apply_status(api, FIELD_MANAGER, object, status)
        .await
        .map_err(Error::hub(format!(
            "write the status of {}",
            describe(object)
        )))
}

pub(crate) fn has_finalizer<K: Kind>(object: &K) -> bool {
    object.finalizers().iter().any(|one| one == FINALIZER)
}

pub(crate) fn is_deleting<K: Kind>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// Sets the finalizer, unless it is there.
pub(crate) async fn add_finalizer<K: Kind>(api: &Api<K>, object: &K) -> Result<(), Error> {
    if has_finalizer(object) {
        return Ok(());
    }
    let mut all = object.finalizers().to_vec();
    all.push(FINALIZER.to_owned());
    set_finalizers(api, object, all).await
}

/// Takes the finalizer away; the object may vanish by that.
pub(crate) async fn remove_finalizer<K: Kind>(api: &Api<K>, object: &K) -> Result<(), Error> {
    if !has_finalizer(object) {
        return Ok(());
    }
    let all = object.finalizers().iter().filter(|one| *one != FINALIZER);
    let all = all.cloned().collect();
    match set_finalizers(api, object, all).await {
        Err(Error::Hub { source, .. }) if is_code(&source, 404) => Ok(()),
        other => other,
    }
}

/// With the resource version, so that no other finalizer is lost.
async fn set_finalizers<K: Kind>(
    api: &Api<K>,
    object: &K,
    finalizers: Vec<String>,
) -> Result<(), Error> {
    let body = json!({ "metadata": {
        "resourceVersion": object.resource_version(),
        "finalizers": finalizers,
    }});
    api.patch(
        &object.name_any(),
        &PatchParams::default(),
        &Patch::Merge(&body),
    )
    .await
    .map(|_| ())
    .map_err(Error::hub(format!(
        "set the finalizer of {}",
        describe(object)
    )))
}

/// Deletes by name. True when nothing is left.
pub(crate) async fn delete<K: Kind>(
    api: &Api<K>,
    name: &str,
    uid: Option<String>,
) -> Result<bool, Error> {
    let mut parameters = DeleteParams::background();
    if uid.is_some() {
        parameters = parameters.preconditions(Preconditions {
            uid,
            resource_version: None,
        });
    }
    match api.delete(name, &parameters).await {
        // An object in the answer is on its way out, a status says that it is gone.
        Ok(answer) => Ok(answer.is_right()),
        Err(error) if is_code(&error, 404) => Ok(true),
        Err(error) => Err(Error::hub(format!("delete {} {name}", K::kind(&())))(error)),
    }
}

/// Tells of a change of `Ready` as an event. Failure to tell is only logged.
pub(crate) async fn tell_ready<K: Kind>(
    context: &Context,
    object: &K,
    before: &[Condition],
    after: &[Condition],
) {
    let old = conditions::get(before, conditions::READY);
    let Some(new) = conditions::get(after, conditions::READY) else {
        return;
    };
    if old.is_some_and(|old| old.status == new.status && old.reason == new.reason) {
        return;
    }
    let type_ = if new.status == "True" || old.is_none() {
        EventType::Normal
    } else {
        EventType::Warning
    };
    tell(context, object, type_, &new.reason, &new.message).await;
}

/// Publishes an event about an object. Failure to tell is only logged.
pub(crate) async fn tell<K: Kind>(
    context: &Context,
    object: &K,
    type_: EventType,
    reason: &str,
    note: &str,
) {
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note: (!note.is_empty()).then(|| note.chars().take(1000).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    let published = context
        .recorder
        .publish(&event, &object.object_ref(&()))
        .await;
    if let Err(error) = published {
        tracing::debug!(object = describe(object), %error, "could not publish an event");
    }
}
