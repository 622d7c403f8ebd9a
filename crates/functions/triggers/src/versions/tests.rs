//! Versions and aliases, decided without an API server.

use super::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn now() -> Time {
    serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap()
}

fn object<K: DeserializeOwned>(name: &str, metadata: Value, spec: Value, status: Value) -> Arc<K> {
    let mut all = json!({ "namespace": "ns", "name": name, "uid": name, "generation": 1 });
    for (key, value) in metadata.as_object().unwrap() {
        all[key] = value.clone();
    }
    let object = json!({ "metadata": all, "spec": spec, "status": status });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn function(generation: i64, versioning: Value) -> Arc<Function> {
    let spec = json!({
        "environment": { "name": "python" }, "versioning": versioning,
        "package": { "packageref": { "name": "p", "resourceversion": generation.to_string() } },
    });
    object("f", json!({ "generation": generation }), spec, json!({}))
}

fn package(contents: &str, build: &str) -> Package {
    let literal = BASE64_STANDARD.encode(contents);
    let spec = json!({
        "environment": { "name": "python" }, "deployment": { "literal": literal },
        "source": { "url": "http://x" },
    });
    let status = json!({ "buildstatus": build });
    (*object::<Package>("p", json!({}), spec, status)).clone()
}

fn environment(generation: i64) -> Arc<Environment> {
    let spec = json!({ "runtime": { "image": "python-env" } });
    object(
        "python",
        json!({ "generation": generation }),
        spec,
        json!({}),
    )
}

fn version(sequence: i64, metadata: Value) -> Arc<FunctionVersion> {
    let name = format!("f-v{sequence}");
    let mut guarded = json!({ "finalizers": [FINALIZER] });
    for (key, value) in metadata.as_object().unwrap() {
        guarded[key] = value.clone();
    }
    let spec = json!({
        "functionName": "f", "functionUID": "f", "sequence": sequence,
        "packageDigest": format!("sha256:{sequence}"), "envObservedGeneration": 1,
        "snapshot": { "environment": { "name": "python" } },
    });
    object(&name, guarded, spec, json!({}))
}

fn alias_to(spec: Value, status: Value) -> Arc<FunctionAlias> {
    let mut spec = spec;
    spec["functionName"] = json!("f");
    object("prod", json!({}), spec, status)
}

fn publish(
    versions: &[Arc<FunctionVersion>],
    function: &Arc<Function>,
    package: &Package,
) -> Result<Publication, NotPublished> {
    let functions = [function.clone()];
    let world = World {
        versions,
        aliases: &[],
        functions: &functions,
    };
    let environment = environment(4);
    world.publish(function, package, Some(&environment), &now())
}

#[test]
fn a_version_holds_all_that_a_call_needs() {
    let function = function(3, json!({ "mode": "auto" }));
    let made = publish(&[], &function, &package("code", "succeeded")).unwrap();
    let (version, copy) = (made.version, made.package.unwrap());
    assert_eq!(
        (version.name_any(), copy.name_any()),
        ("f-v1".into(), "f-v1".into())
    );
    assert_eq!(version.spec.function_generation, 3);
    assert_eq!(version.spec.env_observed_generation, 4);
    assert_eq!(version.spec.env_runtime_image, "python-env");
    let sum = Checksum::of(b"code").sum;
    assert_eq!(version.spec.package_digest, format!("sha256:{sum}"));
    // The copy has the code as it is, and nothing to be built.
    assert_eq!(version.spec.snapshot.package.package_ref.name, "f-v1");
    assert!(copy.spec.source.is_empty() && !copy.spec.deployment.is_empty());
    assert_eq!(copy.owner_references()[0].uid, "f");
    assert_eq!(version.annotations()[SOURCE_PACKAGE], "p");
    assert_eq!(version.finalizers(), [FINALIZER]);
}

#[test]
fn the_same_is_published_once() {
    let auto = json!({ "mode": "auto" });
    let good = package("code", "succeeded");
    let first = publish(&[], &function(1, auto.clone()), &good).unwrap();
    let first = [Arc::new(first.version)];
    // Another stamp, or another way to version, is the same function.
    let stamped = function(2, json!({ "mode": "auto", "retain": 3 }));
    let outcome = publish(&first, &stamped, &good).unwrap_err();
    assert_eq!(outcome, NotPublished::Unchanged);
    // Other code, or another spec, is not.
    let second = publish(&first, &stamped, &package("other", "succeeded")).unwrap();
    assert_eq!(second.version.name_any(), "f-v2");
    let mut slower = (*stamped).clone();
    slower.spec.function_timeout = Some(5);
    let second = publish(&first, &Arc::new(slower), &good).unwrap();
    assert_eq!(second.version.spec.sequence, 2);
}

#[test]
fn only_what_is_built_and_wanted_is_published() {
    let auto = function(1, json!({ "mode": "auto" }));
    for (build, ready) in [
        ("succeeded", true),
        ("none", true),
        ("", false),
        ("pending", false),
        ("running", false),
        ("failed", false),
    ] {
        let outcome = publish(&[], &auto, &package("code", build));
        assert_eq!(outcome.is_ok(), ready, "{build}");
    }
    let mut empty = package("", "none");
    empty.spec.deployment.url = "http://x".into();
    let outcome = publish(&[], &auto, &empty).unwrap_err();
    assert_eq!(outcome, NotPublished::NoDigest);
    let may = |function: Arc<Function>, versions: &[Arc<FunctionVersion>], package: &Package| {
        let functions = [function];
        let world = World {
            versions,
            aliases: &[],
            functions: &functions,
        };
        world.may_publish(&functions[0], package)
    };
    let code = package("code", "succeeded");
    assert!(may(auto.clone(), &[], &code));
    assert!(!may(function(1, json!({ "mode": "manual" })), &[], &code));
    assert!(!may(function(1, Value::Null), &[], &code));
    assert!(!may(auto.clone(), &[], &package("code", "running")));
    let mut published = (*version(1, json!({}))).clone();
    published.spec.function_generation = 1;
    published.spec.package_digest = digest(&code).unwrap();
    let published = [Arc::new(published)];
    assert!(!may(auto.clone(), &published, &code));
    let again = function(2, json!({ "mode": "auto" }));
    assert!(may(again, &published, &code));
    // Its package was built anew.
    assert!(may(auto, &published, &package("other", "succeeded")));
}

#[test]
fn an_alias_leads_to_a_version_and_remembers_where_it_led() {
    let versions = [version(1, json!({})), version(2, json!({}))];
    let look = |one: &FunctionAlias, generation: i64| {
        alias(one, &versions, |_| Some(environment(generation)), &now())
    };
    let told = |status: &FunctionAliasStatus| {
        let said = status
            .conditions
            .iter()
            .map(|one| format!("{}={}={} ", one.type_, one.status, one.reason));
        said.collect::<String>()
    };
    let first = look(&alias_to(json!({ "version": "f-v1" }), json!({})), 1).unwrap();
    assert_eq!(first.resolved_version, "f-v1");
    assert_eq!(
        told(&first),
        "Resolved=True=Resolved EnvDrift=False=EnvCurrent "
    );
    assert!(first.history.is_empty());
    // Moved, by digest; the environment has changed too.
    let status = serde_json::to_value(&first).unwrap();
    let moved = alias_to(json!({ "packageDigest": "sha256:2" }), status.clone());
    let second = look(&moved, 2).unwrap();
    assert_eq!(second.resolved_version, "f-v2");
    assert_eq!(
        (second.history.len(), second.history[0].version.as_str()),
        (1, "f-v1")
    );
    assert_eq!(second.history[0].package_digest, "sha256:1");
    assert_eq!(
        told(&second),
        "Resolved=True=Resolved EnvDrift=True=EnvGenerationDrift "
    );
    // Nothing to lead to: where it led stays.
    for (spec, reason) in [
        (json!({ "version": "f-v9" }), "VersionNotFound"),
        (json!({ "packageDigest": "sha256:9" }), "DigestUnmatched"),
        (
            json!({ "version": "f-v1", "weight": 50, "secondaryVersion": "f-v9" }),
            "VersionNotFound",
        ),
    ] {
        let lost = look(&alias_to(spec, status.clone()), 1).unwrap();
        assert_eq!(lost.resolved_version, "f-v1");
        assert!(told(&lost).starts_with(&format!("Resolved=False={reason}")));
    }
    // Right as it is.
    let same = alias_to(json!({ "version": "f-v1" }), status);
    assert!(look(&same, 1).is_none());
}

#[test]
fn an_alias_of_another_function_or_namespace_finds_nothing() {
    let mut foreign = (*version(1, json!({}))).clone();
    foreign.metadata.namespace = Some("other".into());
    let mut other = (*version(2, json!({}))).clone();
    other.spec.function_name = "g".into();
    let versions = [Arc::new(foreign), Arc::new(other)];
    for name in ["f-v1", "f-v2"] {
        let one = alias_to(json!({ "version": name }), json!({}));
        let status = alias(&one, &versions, |_| None, &now()).unwrap();
        assert_eq!(status.resolved_version, "");
    }
}

fn steps(
    versions: &[Arc<FunctionVersion>],
    aliases: &[Arc<FunctionAlias>],
    functions: &[Arc<Function>],
) -> Vec<String> {
    let world = World {
        versions,
        aliases,
        functions,
    };
    let steps = world.tidy().into_iter();
    steps
        .map(|tidy| format!("{} {:?}", tidy.version.name_any(), tidy.step))
        .collect()
}

#[test]
fn old_versions_are_deleted_unless_an_alias_needs_them() {
    let functions = [function(1, json!({ "mode": "auto", "retain": 2 }))];
    let versions: Vec<_> = (1..6)
        .map(|sequence| version(sequence, json!({})))
        .collect();
    let aliases = [alias_to(
        json!({ "version": "f-v1", "weight": 50, "secondaryVersion": "f-v2" }),
        json!({}),
    )];
    assert_eq!(steps(&versions, &aliases, &functions), ["f-v3 Delete"]);
    // Without versioning nothing is deleted.
    let functions = [function(1, Value::Null)];
    assert!(steps(&versions, &[], &functions).is_empty());
}

#[test]
fn a_version_that_is_needed_stays_until_it_is_not() {
    let functions = [function(1, Value::Null)];
    let leaving = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" });
    let versions = [version(1, leaving)];
    let aliases = [alias_to(json!({ "version": "f-v1" }), json!({}))];
    assert_eq!(
        steps(&versions, &aliases, &functions),
        ["f-v1 Hold(\"prod\")"]
    );
    assert_eq!(steps(&versions, &[], &functions), ["f-v1 Release"]);
    // With its function everything goes.
    assert_eq!(steps(&versions, &aliases, &[]), ["f-v1 Release"]);
    let unguarded = [version(2, json!({ "finalizers": [] }))];
    assert_eq!(steps(&unguarded, &[], &functions), ["f-v2 AddFinalizer"]);
}

#[test]
fn a_package_without_its_code_is_told_from_others() {
    for (code, has_digest) in [("code", true), ("", false)] {
        let whole = package(code, "none");
        let mut stripped = whole.clone();
        strip(&mut stripped);
        assert_eq!(digest(&stripped), digest(&whole));
        assert_eq!(digest(&whole).is_some(), has_digest);
        let text = serde_json::to_string(&stripped).unwrap();
        assert!(!text.contains(&whole.spec.deployment.literal) || code.is_empty());
    }
}
