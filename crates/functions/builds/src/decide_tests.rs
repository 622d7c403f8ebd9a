//! Which builds are begun, and when.

use serde_json::json;

use super::*;

fn package(spec: serde_json::Value, status: serde_json::Value) -> Package {
    serde_json::from_value(json!({
        "apiVersion": "fission.io/v1", "kind": "Package",
        "metadata": { "name": "p", "namespace": "ns" }, "spec": spec, "status": status,
    }))
    .unwrap()
}

fn environment(builder: &str) -> Environment {
    serde_json::from_value(json!({
        "apiVersion": "fission.io/v1", "kind": "Environment",
        "metadata": { "name": "python", "namespace": "ns" },
        "spec": { "version": 3, "runtime": { "image": "r" }, "builder": { "image": builder } },
    }))
    .unwrap()
}

fn source() -> serde_json::Value {
    json!({
        "environment": { "name": "python", "namespace": "ns" },
        "source": { "type": "literal", "literal": "eA==" },
    })
}

fn built() -> serde_json::Value {
    let mut spec = source();
    spec["deployment"] = json!({ "type": "url", "url": "http://s/v1/archive?id=1" });
    spec
}

fn hash(spec: &serde_json::Value, builder: &str) -> String {
    let package = package(spec.clone(), json!({}));
    content::hash(&package.spec, Some(&environment(builder)))
}

fn word(step: &Step) -> &str {
    match step {
        Step::Nothing => "nothing",
        Step::Settle(settled) => settled.build_status,
        Step::Wait(_) => "wait",
        Step::Build { .. } => "build",
    }
}

#[test]
fn a_new_source_is_built_and_what_was_interrupted_too() {
    let environment = environment("b");
    for status in ["", "pending", "running"] {
        let package = package(source(), json!({ "buildstatus": status }));
        let step = decide(&package, Some(&environment));
        assert_eq!(word(&step), "build", "{status}");
    }
}

#[test]
fn what_was_built_or_failed_stands_until_its_content_changes() {
    let spec = built();
    let known = hash(&spec, "b");
    for status in ["succeeded", "failed", "none"] {
        let status = json!({ "buildstatus": status, "contentHash": known });
        let mut package = package(spec.clone(), status.clone());
        let same = environment("b");
        assert_eq!(decide(&package, Some(&same)), Step::Nothing, "{status}");
        assert_eq!(
            word(&decide(&package, Some(&environment("other")))),
            "build"
        );
        package.spec.deployment.url = "http://s/v1/archive?id=2".to_owned();
        assert_eq!(
            decide(&package, Some(&same)),
            Step::Nothing,
            "its own product"
        );
        package.spec.build_command = "./build.sh".to_owned();
        assert_eq!(word(&decide(&package, Some(&same))), "build");
        package.spec.build_command.clear();
        package.spec.source.literal = "eQ==".to_owned();
        assert_eq!(word(&decide(&package, Some(&same))), "build");
    }
}

#[test]
fn a_rebuild_is_asked_for_by_the_status() {
    let spec = built();
    let known = hash(&spec, "b");
    let status = json!({ "buildstatus": "pending", "contentHash": known });
    let step = decide(&package(spec, status), Some(&environment("b")));
    assert_eq!(word(&step), "build");
}

#[test]
fn a_package_that_lost_its_deployment_is_built_again() {
    let known = hash(&source(), "b");
    let status = json!({ "buildstatus": "succeeded", "contentHash": known });
    let step = decide(&package(source(), status), Some(&environment("b")));
    assert_eq!(word(&step), "build");
}

#[test]
fn packages_of_another_release_are_taken_as_they_are() {
    for (status, becomes) in [("succeeded", "succeeded"), ("", "none"), ("none", "none")] {
        for foreign in ["", "sha256:00"] {
            let status = json!({ "buildstatus": status, "contentHash": foreign });
            let step = decide(&package(built(), status), Some(&environment("b")));
            assert_eq!(word(&step), becomes);
        }
    }
}

#[test]
fn without_a_source_there_is_nothing_to_build() {
    let spec = json!({ "deployment": { "literal": "eA==" } });
    for status in ["", "pending", "running", "failed"] {
        let step = decide(
            &package(spec.clone(), json!({ "buildstatus": status })),
            None,
        );
        assert_eq!(word(&step), "none", "{status}");
    }
    let step = decide(&package(json!({}), json!({})), None);
    assert_eq!(word(&step), "failed");
    let Step::Settle(settled) = step else {
        unreachable!()
    };
    let status = json!({
        "buildstatus": "failed", "contentHash": settled.hash,
        "conditions": [{
            "type": "Ready", "status": "False", "reason": "NoCode", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    });
    assert_eq!(decide(&package(json!({}), status), None), Step::Nothing);
}

#[test]
fn a_missing_environment_is_waited_for_and_one_without_a_builder_is_a_failure() {
    let pending = package(source(), json!({}));
    let Step::Wait(reason) = decide(&pending, None) else {
        unreachable!()
    };
    assert!(
        reason
            .message
            .contains("python does not exist in namespace ns")
    );
    let step = decide(&pending, Some(&environment("")));
    assert_eq!(word(&step), "failed");
    let Step::Settle(settled) = step else {
        unreachable!()
    };
    assert!(settled.reason.message.contains("spec.builder.image"));
    // It is built once the environment has one.
    let status = json!({ "buildstatus": "failed", "contentHash": settled.hash });
    let failed = package(source(), status);
    assert_eq!(word(&decide(&failed, Some(&environment("b")))), "build");
}

#[test]
fn an_environment_of_another_namespace_is_refused() {
    let mut spec = source();
    spec["environment"]["namespace"] = json!("other");
    let step = decide(&package(spec, json!({})), Some(&environment("b")));
    assert_eq!(word(&step), "failed");
}
