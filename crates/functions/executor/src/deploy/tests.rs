//! Deployments of functions.

use std::net::IpAddr;

use farplane_functions_types::wire::{FunctionKey, InstanceUsage};
use farplane_functions_types::{Environment, Function, Package};
use serde_json::json;

use super::objects::Source;
use super::*;
use crate::pod::Platform;
use crate::revision::{Parts, resolve};
use crate::state::PodRef;

fn environment() -> Environment {
    serde_json::from_value(json!({
        "apiVersion": "fission.io/v1", "kind": "Environment",
        "metadata": { "name": "python", "namespace": "n", "uid": "e" },
        "spec": { "version": 3, "runtime": { "image": "python-env" } },
    }))
    .unwrap()
}

fn package() -> Package {
    serde_json::from_value(json!({
        "apiVersion": "fission.io/v1", "kind": "Package",
        "metadata": { "name": "p", "namespace": "n", "uid": "p" },
        "spec": { "environment": { "name": "python" }, "deployment": { "literal": "eA==" } },
    }))
    .unwrap()
}

fn function(executor: &str, strategy: Value, more: Value) -> Function {
    let mut execution = json!({ "ExecutorType": executor });
    let strategy = strategy.as_object().cloned().unwrap_or_default();
    execution.as_object_mut().unwrap().extend(strategy);
    let mut spec = json!({
        "environment": { "name": "python" },
        "package": { "packageref": { "name": "p" }, "functionName": "main" },
        "InvokeStrategy": { "ExecutionStrategy": execution },
    });
    let more = more.as_object().cloned().unwrap_or_default();
    spec.as_object_mut().unwrap().extend(more);
    serde_json::from_value(json!({
        "apiVersion": "fission.io/v1", "kind": "Function",
        "metadata": { "name": "f", "namespace": "n", "uid": "u", "generation": 4,
            "resourceVersion": "77", "labels": { "team": "a" } },
        "spec": spec,
    }))
    .unwrap()
}

fn made(function: &Function) -> Result<Objects, Failed> {
    let (environment, package) = (environment(), package());
    let revision = resolve(&Parts {
        function,
        spec: &function.spec,
        version: "",
        environment: Some(&environment),
        package: Some(&package),
        storage_url: "",
    })?;
    let has_environment = revision.executor == ExecutorType::Newdeploy;
    objects::objects(&Source {
        function,
        spec: &function.spec,
        environment: has_environment.then_some(&environment),
        revision: &revision,
        platform: &Platform {
            image: "functions".into(),
            pull_policy: "Never".into(),
        },
        writer: "me",
    })
}

#[test]
fn a_function_has_a_deployment_a_service_and_a_scaler_of_one_name() {
    let function = function(
        "newdeploy",
        json!({ "MinScale": 1, "MaxScale": 4, "TargetCPUPercent": 60 }),
        json!({ "env": [{ "name": "A", "value": "1" }], "resources": { "limits": { "cpu": "1" } } }),
    );
    let Objects {
        name,
        deployment,
        service,
        scaler,
        ..
    } = made(&function).unwrap();
    for object in [&deployment, &service, &scaler] {
        assert_eq!(object["metadata"]["name"], name);
        assert_eq!(object["metadata"]["labels"]["functionUid"], "u");
        assert_eq!(object["metadata"]["labels"]["team"], "a");
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "u");
    }
    let typed: Deployment = serde_json::from_value(deployment.clone()).unwrap();
    let labels = typed.spec.template.metadata.unwrap().labels.unwrap();
    assert_eq!(labels["fission.io/function-generation"], "4");
    assert_eq!(labels["executorType"], "newdeploy");
    for (name, value) in typed.spec.selector.match_labels.unwrap() {
        assert_eq!(labels[&name], value);
        assert_ne!(name, "fission.io/function-generation", "it changes");
    }
    let containers = &deployment["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers[0]["name"], "python");
    assert_eq!(containers[0]["env"][0]["name"], "A");
    assert_eq!(containers[0]["resources"]["limits"]["cpu"], "1");
    let arguments = containers[1]["args"].as_array().unwrap();
    assert_eq!(arguments[1], "-specialize-on-startup");
    let request: Value = serde_json::from_str(arguments[3].as_str().unwrap()).unwrap();
    assert_eq!(request["LoadReq"]["functionName"], "main");
    assert!(
        !arguments[3].as_str().unwrap().contains("77"),
        "no resource version"
    );
    let spec = &scaler["spec"];
    assert_eq!(
        (&spec["minReplicas"], &spec["maxReplicas"]),
        (&json!(1), &json!(4))
    );
    let metric = &spec["metrics"][0]["containerResource"];
    assert_eq!(metric["container"], "python");
    assert_eq!(metric["target"]["averageUtilization"], 60);
    let _: HorizontalPodAutoscaler = serde_json::from_value(scaler).unwrap();
    let _: Service = serde_json::from_value(service).unwrap();
}

#[test]
fn users_metrics_are_kept_word_for_word() {
    let metrics = json!([{ "type": "Resource", "resource": { "name": "memory" } }]);
    let strategy = json!({ "hpaMetrics": metrics, "hpaBehavior": { "scaleUp": {} } });
    let objects = made(&function("newdeploy", strategy, json!({}))).unwrap();
    assert_eq!(objects.scaler["spec"]["metrics"], metrics);
    assert_eq!(objects.scaler["spec"]["behavior"], json!({ "scaleUp": {} }));
}

#[test]
fn an_image_of_a_user_runs_alone_and_hardened() {
    let podspec = json!({ "containers": [{ "name": "f", "image": "mine",
        "ports": [{ "containerPort": 9090 }] }] });
    let more = json!({ "podspec": podspec, "secrets": [{ "name": "s" }] });
    let objects = made(&function("container", json!({}), more)).unwrap();
    assert_eq!(objects.port, 9090);
    let pod = &objects.deployment["spec"]["template"]["spec"];
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    let container = &pod["containers"][0];
    assert_eq!(
        container["securityContext"]["allowPrivilegeEscalation"],
        false
    );
    assert_eq!(
        container["envFrom"],
        json!([{ "secretRef": { "name": "s" } }])
    );
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(objects.service["spec"]["ports"][0]["targetPort"], 9090);
}

#[test]
fn what_a_function_may_not_have_is_refused() {
    for more in [
        json!({ "env": [{ "name": "LD_PRELOAD", "value": "x" }] }),
        json!({ "env": [{ "name": "http_proxy", "value": "x" }] }),
        json!({ "env": [{ "name": "FISSION_X", "value": "x" }] }),
        json!({ "env": [{ "name": "A", "valueFrom": { "fieldRef": { "fieldPath": "x" } } }] }),
        json!({ "env": [{ "name": "A", "valueFrom": { "secretKeyRef": {
            "name": "fission-internal-auth-keys", "key": "fetcherKey" } } }] }),
        json!({ "envFrom": [{ "secretRef": { "name": "fission-internal-auth-keys" } }] }),
    ] {
        let failed = made(&function("newdeploy", json!({}), more.clone())).unwrap_err();
        assert_eq!(failed.component, "environment", "{more}");
    }
    let image = |podspec| {
        made(&function(
            "container",
            json!({}),
            json!({ "podspec": podspec }),
        ))
    };
    for podspec in [
        json!({ "containers": [] }),
        json!({ "hostNetwork": true, "containers": [{ "name": "f", "image": "i" }] }),
        json!({ "serviceAccountName": "x", "containers": [{ "name": "f", "image": "i" }] }),
        json!({ "containers": [{ "name": "f", "image": "i",
            "envFrom": [{ "secretRef": { "name": "fission-internal-auth-keys" } }] }] }),
    ] {
        assert_eq!(
            image(podspec.clone()).unwrap_err().component,
            "function",
            "{podspec}"
        );
    }
    let more = json!({ "secrets": [{ "name": "fission-internal-auth-keys" }],
        "podspec": { "containers": [{ "name": "f", "image": "i" }] } });
    assert!(made(&function("container", json!({}), more)).is_err());
}

#[test]
fn the_number_of_pods_follows_use_and_leaves_the_autoscaler_alone() {
    // Fewest above none: whatever the autoscaler says within bounds.
    assert_eq!(replicas(None, 2, 5, Some(0), false), 2);
    assert_eq!(replicas(Some(4), 2, 5, Some(0), false), 4);
    assert_eq!(replicas(Some(9), 2, 5, Some(1), false), 5);
    // May have none.
    assert_eq!(replicas(None, 0, 5, Some(1), false), 0);
    assert_eq!(replicas(Some(0), 0, 5, Some(1), true), 1);
    assert_eq!(replicas(None, 0, 5, Some(1), true), 1);
    assert_eq!(replicas(Some(3), 0, 5, Some(1), false), 3);
    assert_eq!(replicas(Some(3), 0, 5, Some(0), false), 0);
    assert_eq!(replicas(Some(3), 0, 5, None, false), 3, "nothing is known");
}

fn deployed(number: u8) -> Deployed {
    Deployed {
        pod: PodRef {
            uid: format!("pod-{number}"),
            namespace: "n".into(),
            name: format!("pod-{number}"),
            ip: Some(IpAddr::from([10, 0, 0, number])),
        },
        slot: ("u".into(), String::new()),
        code_hash: "code".into(),
        ending: false,
        trouble: None,
        port: 8888,
        ready: false,
        executor: ExecutorType::Newdeploy,
    }
}

fn revision() -> Revision {
    let function = function("newdeploy", json!({}), json!({}));
    let mut revision = resolve(&Parts {
        function: &function,
        spec: &function.spec,
        version: "",
        environment: Some(&environment()),
        package: Some(&package()),
        storage_url: "",
    })
    .unwrap();
    revision.code_hash = "code".into();
    revision.key = FunctionKey {
        uid: "u".into(),
        ..FunctionKey::default()
    };
    revision
}

#[test]
fn only_pods_that_have_the_code_of_now_are_named() {
    let (mut slots, revision, now) = (Slots::default(), revision(), Instant::now());
    assert!(slots.observe(deployed(1)), "it is asked");
    assert!(!slots.observe(deployed(1)), "once");
    assert!(matches!(slots.find(&revision, &[], now), Found::Wait(_)));
    slots.ready("pod-1");
    let known = ["10.0.0.1:8888".to_owned()];
    assert!(matches!(
        slots.find(&revision, &[], now),
        Found::Instance(_)
    ));
    assert!(matches!(slots.find(&revision, &known, now), Found::Known));
    let mut old = deployed(2);
    old.code_hash = "old".into();
    slots.observe(old);
    slots.ready("pod-2");
    assert!(matches!(slots.find(&revision, &known, now), Found::Known));
    let mut ending = deployed(1);
    ending.ending = true;
    slots.observe(ending);
    assert!(matches!(slots.find(&revision, &[], now), Found::Wait(_)));
}

#[test]
fn a_function_that_is_idle_needs_no_pod_and_one_that_is_used_does() {
    let (mut slots, revision, now) = (Slots::default(), revision(), Instant::now());
    let id = slot_id(&revision);
    let idle = Duration::from_secs(120);
    slots.observe(deployed(1));
    slots.ready("pod-1");
    slots.find(&revision, &[], now);
    let later = |seconds| now + Duration::from_secs(seconds);
    let used = |active, idle_ms| Usage {
        router: "r".into(),
        instances: vec![InstanceUsage {
            address: "10.0.0.1:8888".into(),
            active,
            idle_ms,
        }],
    };
    assert_eq!(slots.scale(&id, idle, later(119)), Some(1));
    assert_eq!(
        slots.scale(&id, idle, later(121)),
        None,
        "no router is heard of"
    );
    slots.usage(&used(1, 0), later(121));
    assert_eq!(slots.scale(&id, idle, later(121)), Some(1));
    slots.usage(&used(0, 1000), later(300));
    assert_eq!(slots.scale(&id, idle, later(301)), Some(1));
    slots.usage(&used(0, 121_000), later(421));
    assert_eq!(slots.scale(&id, idle, later(421)), Some(0));
    slots.wait(&id, true);
    assert_eq!(slots.scale(&id, idle, later(421)), Some(1));
}
