//! What builders are made of.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PodSpec, Service};

use super::*;

fn settings() -> Settings {
    let mut settings = Settings::new(
        b"secret".to_vec(),
        "farplane.io/functions:1".to_owned(),
        "IfNotPresent".to_owned(),
        "http://storagesvc.fission".to_owned(),
    );
    settings.build_deadline = Duration::from_secs(60);
    settings
}

fn environment(builder: Value) -> Environment {
    serde_json::from_value(json!({
        "apiVersion": "fission.io/v1", "kind": "Environment",
        "metadata": { "name": "python", "namespace": "ns", "uid": "u", "resourceVersion": "7" },
        "spec": { "version": 3, "runtime": { "image": "r" }, "builder": builder, "imagepullsecret": "pull" },
    }))
    .unwrap()
}

fn built(builder_spec: Value) -> Result<PodSpec, Refused> {
    let made = builder(&environment(builder_spec), &settings())?.unwrap();
    let typed: Deployment = serde_json::from_value(made.deployment).unwrap();
    Ok(typed.spec.template.spec.unwrap())
}

#[test]
fn a_builder_has_the_names_and_labels_of_the_contract() {
    let made = builder(&environment(json!({ "image": "b" })), &settings())
        .unwrap()
        .unwrap();
    assert_eq!(made.name, "python-7");
    let typed: Deployment = serde_json::from_value(made.deployment).unwrap();
    let service: Service = serde_json::from_value(made.service).unwrap();
    let template = typed.spec.template.metadata.as_ref().unwrap();
    let labels = template.labels.as_ref().unwrap();
    assert_eq!(labels["envName"], "python");
    assert_eq!(labels["envNamespace"], "ns");
    assert_eq!(labels["envResourceVersion"], "7");
    assert_eq!(labels["owner"], "buildermgr");
    assert_eq!(service.spec.unwrap().selector.as_ref(), Some(labels));
    assert_eq!(typed.metadata.owner_references.unwrap()[0].uid, "u");
    let none = builder(&environment(json!({})), &settings()).unwrap();
    assert!(none.is_none());
}

#[test]
fn nobody_in_the_pod_has_a_token_or_a_capability() {
    let pod = built(json!({ "image": "b" })).unwrap();
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert_eq!(pod.service_account_name.as_deref(), Some("fission-builder"));
    assert!(
        pod.volumes
            .iter()
            .flatten()
            .all(|volume| volume.empty_dir.is_some())
    );
    let containers = pod
        .containers
        .iter()
        .chain(pod.init_containers.iter().flatten());
    for container in containers {
        let security = container.security_context.as_ref().unwrap();
        assert_eq!(security.allow_privilege_escalation, Some(false));
        let dropped = security
            .capabilities
            .as_ref()
            .unwrap()
            .drop
            .as_ref()
            .unwrap();
        assert_eq!(dropped, &["ALL"]);
    }
    let names: Vec<_> = pod.containers.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["builder", "fetcher"]);
    let variables = |index: usize| -> Vec<String> {
        let all = pod.containers[index].env.iter().flatten();
        all.map(|one| one.name.clone()).collect()
    };
    assert!(
        !variables(0).contains(&"STORAGE_KEY".to_owned()),
        "the build has no key of storage"
    );
    assert!(variables(1).contains(&"STORAGE_KEY".to_owned()));
}

#[test]
fn users_may_add_variables_resources_and_places() {
    let pod = built(json!({
        "image": "b",
        "container": { "name": "", "env": [{ "name": "A", "value": "1" }, { "name": "BUILDER_KEY", "value": "" }], "resources": { "limits": { "memory": "1Gi" } } },
        "podspec": { "nodeSelector": { "disk": "ssd" }, "hostNetwork": false, "containers": [{ "name": "builder", "image": "other" }] },
    }))
    .unwrap();
    let tools = &pod.containers[0];
    assert_eq!(tools.image.as_deref(), Some("other"));
    let last = tools
        .env
        .as_ref()
        .unwrap()
        .iter()
        .rfind(|one| one.name == "BUILDER_KEY");
    assert!(last.unwrap().value_from.is_some(), "our key counts");
    assert!(tools.resources.as_ref().unwrap().limits.is_some());
    assert_eq!(pod.node_selector.unwrap()["disk"], "ssd");
}

#[test]
fn users_may_not_leave_the_pod() {
    for (builder, field) in [
        (json!({ "podspec": { "hostNetwork": true } }), "hostNetwork"),
        (
            json!({ "podspec": { "serviceAccountName": "admin" } }),
            "serviceAccountName",
        ),
        (
            json!({ "podspec": { "automountServiceAccountToken": true } }),
            "automount",
        ),
        (
            json!({ "podspec": { "volumes": [{ "name": "v", "hostPath": { "path": "/" } }] } }),
            "volumes",
        ),
        (
            json!({ "podspec": { "initContainers": [{ "name": "i" }] } }),
            "initContainers",
        ),
        (
            json!({ "podspec": { "containers": [{ "name": "fetcher", "image": "x" }] } }),
            "fetcher",
        ),
        (
            json!({ "podspec": { "securityContext": { "sysctls": [{}] } } }),
            "sysctls",
        ),
        (
            json!({ "container": { "securityContext": { "privileged": true } } }),
            "securityContext",
        ),
        (
            json!({ "container": { "volumeMounts": [{ "name": "x" }] } }),
            "volumeMounts",
        ),
        (json!({ "container": { "command": ["sh"] } }), "command"),
        (
            json!({ "container": { "ports": [{ "hostPort": 1 }] } }),
            "ports",
        ),
        (
            json!({ "container": { "env": [{ "name": "X", "valueFrom": { "secretKeyRef": { "name": "fission-internal-auth-keys", "key": "storageKey" } } }] } }),
            "auth-keys",
        ),
        (
            json!({ "container": { "envFrom": [{ "secretRef": { "name": "fission-internal-auth-keys" } }] } }),
            "auth-keys",
        ),
    ] {
        let mut spec = builder;
        spec["image"] = json!("b");
        let refused = built(spec).unwrap_err().to_string();
        assert!(refused.contains(field), "{field}: {refused}");
    }
}
