//! Decides what becomes of one object. Pure.

use farplane_functions_types::names::annotation::{SPEC_NAME, SPEC_UID};
use farplane_functions_types::names::{GROUP, VERSION};
use serde_json::{Map, Value, json};

use super::files::{DeploymentConfig, SpecObject};
use crate::functions::merge::{is_nothing, overlay, patch};

/// What becomes of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// It is as it should be.
    Keep,
    /// It is made.
    Create(Value),
    /// It is changed by a merge patch.
    Change(Value),
    /// It is somebody else's, for this reason.
    Conflict(String),
}

/// Compares an object with what the cluster has of its name. `spec` is the object's, with
/// archives and versions of packages filled in.
pub(super) fn plan(
    object: &SpecObject,
    spec: &Value,
    namespace: &str,
    live: Option<&Value>,
    config: &DeploymentConfig,
    allow_conflicts: bool,
) -> serde_json::Result<Step> {
    let mut metadata = metadata(object, config);
    let Some(live) = live else {
        metadata["name"] = object.name.clone().into();
        metadata["namespace"] = namespace.into();
        return Ok(Step::Create(json!({
            "apiVersion": format!("{GROUP}/{VERSION}"), "kind": object.kind.kind,
            "metadata": metadata, "spec": spec,
        })));
    };
    if let Some(owner) = foreign(live, config)
        && !allow_conflicts
    {
        return Ok(Step::Conflict(owner));
    }
    let before = &live["spec"];
    let known = patch(&object.kind.normal(before)?, &object.kind.normal(spec)?);
    // Fields that we do not know are only in the words of both.
    let unknown = extra(&object.kind.normal(spec)?, spec).and_then(|words| overlay(before, &words));
    let spec = match (known, unknown) {
        (Some(known), Some(unknown)) => Some(join(known, unknown)),
        (known, unknown) => known.or(unknown),
    };
    let metadata = overlay(&live["metadata"], &metadata);
    let mut change = Map::new();
    if let Some(spec) = spec {
        change.insert("spec".to_owned(), spec);
    }
    if let Some(metadata) = metadata {
        change.insert("metadata".to_owned(), metadata);
    }
    Ok(match change.is_empty() {
        true => Step::Keep,
        false => Step::Change(change.into()),
    })
}

/// What `raw` says beyond the fields of `known`.
fn extra(known: &Value, raw: &Value) -> Option<Value> {
    let (Value::Object(known), Value::Object(raw)) = (known, raw) else {
        return None;
    };
    let more: Map<String, Value> = raw
        .iter()
        .filter_map(|(key, value)| {
            let more = match known.get(key) {
                Some(known) => extra(known, value),
                None => (!is_nothing(value)).then(|| value.clone()),
            };
            Some((key.clone(), more?))
        })
        .collect();
    (!more.is_empty()).then_some(Value::Object(more))
}

fn metadata(object: &SpecObject, config: &DeploymentConfig) -> Value {
    let mut annotations = object.annotations.clone();
    annotations.insert(SPEC_UID.to_owned(), config.uid.clone());
    annotations.insert(SPEC_NAME.to_owned(), config.name.clone());
    match object.labels.is_empty() {
        true => json!({ "annotations": annotations }),
        false => json!({ "annotations": annotations, "labels": object.labels }),
    }
}

/// Whose an object is, when it is not ours.
fn foreign(live: &Value, config: &DeploymentConfig) -> Option<String> {
    let annotations = &live["metadata"]["annotations"];
    match annotations[SPEC_UID].as_str() {
        Some(uid) if uid == config.uid => None,
        Some(uid) => Some(match annotations[SPEC_NAME].as_str() {
            Some(name) => format!("it was made of the specs {name} ({uid})"),
            None => format!("it was made of other specs ({uid})"),
        }),
        None => Some("it was made by hand".to_owned()),
    }
}

fn join(mut one: Value, other: Value) -> Value {
    let (Value::Object(all), Value::Object(more)) = (&mut one, other) else {
        return one;
    };
    for (key, value) in more {
        match all.remove(&key) {
            Some(known) => all.insert(key, join(known, value)),
            None => all.insert(key, value),
        };
    }
    one
}

/// The spec of a package that is built: what the build wrote stays while its source does.
pub(super) fn keep_built(spec: &mut Value, live: &Value) {
    let said = |side: &Value| {
        ["url", "literal", "oci"]
            .iter()
            .any(|key| !is_nothing(&side[key]))
    };
    if said(&spec["source"])
        && !said(&spec["deployment"])
        && !is_nothing(&live["spec"]["deployment"])
    {
        spec["deployment"] = live["spec"]["deployment"].clone();
    }
}

/// Points references to other objects at a namespace.
pub(super) fn move_references(spec: &mut Value, namespace: &str) {
    let place = |reference: Option<&mut Value>| {
        if let Some(there) = reference.and_then(|reference| reference.get_mut("namespace")) {
            *there = namespace.into();
        }
    };
    place(spec.get_mut("environment"));
    place(spec.pointer_mut("/package/packageref"));
    for list in ["secrets", "configmaps"] {
        for reference in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            place(Some(reference));
        }
    }
}

/// The version of its package that a function names: that of a package that was just written,
/// else the one that it has.
pub(super) fn stamp(spec: &mut Value, live: Option<&Value>, written: Option<&str>) {
    let kept = live.map(|live| &live["spec"]["package"]["packageref"]);
    let name = &spec["package"]["packageref"]["name"];
    let kept = kept
        .filter(|kept| kept["name"] == *name)
        .and_then(|kept| kept["resourceversion"].as_str());
    if let Some(version) = written.or(kept)
        && spec["package"]["packageref"].is_object()
    {
        spec["package"]["packageref"]["resourceversion"] = version.into();
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::SpecKind;
    use super::*;

    fn config() -> DeploymentConfig {
        DeploymentConfig {
            name: "shop".into(),
            uid: "u1".into(),
        }
    }

    fn object(kind: &str, spec: Value) -> SpecObject {
        SpecObject {
            kind: SpecKind::of(kind).unwrap(),
            name: "a".into(),
            namespace: None,
            labels: Default::default(),
            annotations: Default::default(),
            spec,
            file: "f".into(),
        }
    }

    fn decide(object: &SpecObject, live: Option<&Value>) -> Step {
        plan(object, &object.spec, "default", live, &config(), false).unwrap()
    }

    /// As the API server stores it: defaults are written out.
    fn stored(object: &SpecObject) -> Value {
        let Step::Create(mut made) = decide(object, None) else {
            panic!("it is not made");
        };
        let normal = object.kind.normal(&made["spec"]).unwrap();
        let more = overlay(&made["spec"], &normal).unwrap_or(json!({}));
        made["spec"] = join(more, made["spec"].clone());
        made["metadata"]["uid"] = "x".into();
        made["status"] = json!({ "conditions": [] });
        made
    }

    fn function() -> SpecObject {
        object(
            "Function",
            json!({
                "environment": { "name": "python", "namespace": "default" }, "configmaps": null, "secrets": null,
                "package": { "functionName": "main", "packageref": { "name": "p" } }, "resources": {},
                "functionTimeout": 10, "futureField": { "a": 1 },
                "InvokeStrategy": { "ExecutionStrategy": { "ExecutorType": "poolmgr", "MaxScale": 0 }, "StrategyType": "execution" },
            }),
        )
    }

    #[test]
    fn what_was_made_of_the_same_words_is_kept() {
        let function = function();
        assert_eq!(decide(&function, Some(&stored(&function))), Step::Keep);
        let environment = object(
            "Environment",
            json!({ "version": 3, "runtime": { "image": "i" }, "builder": {} }),
        );
        assert_eq!(
            decide(&environment, Some(&stored(&environment))),
            Step::Keep
        );
    }

    #[test]
    fn only_what_changed_is_written_also_what_is_unknown_or_gone() {
        let old = function();
        let live = stored(&old);
        let mut new = old.clone();
        new.spec["functionTimeout"] = 20.into();
        assert_eq!(
            decide(&new, Some(&live)),
            Step::Change(json!({ "spec": { "functionTimeout": 20 } }))
        );
        new = old.clone();
        new.spec["futureField"] = json!({ "a": 2 });
        assert_eq!(
            decide(&new, Some(&live)),
            Step::Change(json!({ "spec": { "futureField": { "a": 2 } } }))
        );
        new = old.clone();
        new.spec.as_object_mut().unwrap().remove("functionTimeout");
        assert_eq!(
            decide(&new, Some(&live)),
            Step::Change(json!({ "spec": { "functionTimeout": null } }))
        );
        new = old;
        new.labels.insert("l".into(), "v".into());
        assert_eq!(
            decide(&new, Some(&live)),
            Step::Change(json!({ "metadata": { "labels": { "l": "v" } } }))
        );
    }

    #[test]
    fn what_is_somebody_else_s_is_left_alone_unless_it_is_allowed() {
        let function = function();
        let mut live = stored(&function);
        live["metadata"]["annotations"][SPEC_UID] = "u2".into();
        assert!(
            matches!(decide(&function, Some(&live)), Step::Conflict(why) if why.contains("u2"))
        );
        let allowed = plan(
            &function,
            &function.spec,
            "default",
            Some(&live),
            &config(),
            true,
        )
        .unwrap();
        assert_eq!(
            allowed,
            Step::Change(json!({ "metadata": { "annotations": { SPEC_UID: "u1" } } }))
        );
        live["metadata"]["annotations"] = Value::Null;
        assert!(
            matches!(decide(&function, Some(&live)), Step::Conflict(why) if why.contains("by hand"))
        );
    }

    #[test]
    fn references_move_with_what_refers() {
        let mut spec = json!({
            "environment": { "name": "e", "namespace": "old" }, "secrets": [{ "name": "s", "namespace": "old" }],
            "package": { "packageref": { "name": "p", "namespace": "old" } }, "configmaps": null,
        });
        move_references(&mut spec, "new");
        assert_eq!(spec.to_string().matches("\"new\"").count(), 3, "{spec}");
        let mut none = json!({ "cron": "@hourly" });
        move_references(&mut none, "new");
        assert_eq!(none, json!({ "cron": "@hourly" }));
    }

    #[test]
    fn what_a_build_wrote_stays() {
        let live = json!({ "spec": { "deployment": { "url": "http://x" } } });
        let mut built =
            json!({ "source": { "literal": "eA==" }, "deployment": { "checksum": {} } });
        keep_built(&mut built, &live);
        assert_eq!(built["deployment"]["url"], "http://x");
        let mut ready =
            json!({ "source": { "checksum": {} }, "deployment": { "literal": "eQ==" } });
        keep_built(&mut ready, &live);
        assert_eq!(ready["deployment"]["literal"], "eQ==");
    }

    #[test]
    fn a_function_follows_a_package_only_when_that_was_written() {
        let live = json!({ "spec": { "package": { "packageref": { "name": "p", "resourceversion": "7" } } } });
        let of = |live: Option<&Value>, written: Option<&str>| {
            let mut spec = function().spec;
            stamp(&mut spec, live, written);
            spec["package"]["packageref"]["resourceversion"].clone()
        };
        assert_eq!(of(Some(&live), None), "7");
        assert_eq!(of(Some(&live), Some("9")), "9");
        assert_eq!(of(None, Some("9")), "9");
        assert_eq!(of(None, None), Value::Null);
    }
}
