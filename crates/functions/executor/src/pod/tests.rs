//! Pods of pools.

use super::*;

fn platform() -> Platform {
    Platform {
        image: "farplane.io/functions:1".into(),
        pull_policy: "IfNotPresent".into(),
    }
}

fn environment(spec: Value) -> Environment {
    serde_json::from_value(json!({
        "apiVersion": "fission.io/v1", "kind": "Environment",
        "metadata": { "name": "python", "namespace": "demo", "uid": "u1" },
        "spec": spec,
    }))
    .unwrap()
}

fn with_podspec(podspec: Value) -> Environment {
    environment(json!({ "version": 3, "runtime": { "image": "python-env", "podspec": podspec } }))
}

fn with_container(container: Value) -> Environment {
    environment(
        json!({ "version": 3, "runtime": { "image": "python-env", "container": container } }),
    )
}

fn spec(environment: &Environment) -> Value {
    let template = pool(environment, &platform()).unwrap().template;
    // It is what Kubernetes takes for a Pod.
    let typed: k8s_openapi::api::core::v1::PodTemplateSpec =
        serde_json::from_value(template.clone()).unwrap();
    assert!(typed.spec.is_some());
    template["spec"].clone()
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap();
    list.iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect()
}

fn refused(environment: &Environment) -> String {
    pool(environment, &platform()).unwrap_err().to_string()
}

/// CVE-2026-46617, CVE-2026-50565: the token is not for users' code.
#[test]
fn only_the_fetcher_has_a_token_and_keys() {
    let spec = spec(&environment(
        json!({ "version": 3, "runtime": { "image": "python-env" } }),
    ));
    assert_eq!(names(&spec["containers"]), ["python", "fetcher"]);
    assert_eq!(spec["serviceAccountName"], "fission-fetcher");
    assert_eq!(spec["automountServiceAccountToken"], false);
    let (runtime, fetcher) = (&spec["containers"][0], &spec["containers"][1]);
    assert!(names(&fetcher["volumeMounts"]).contains(&TOKEN_VOLUME));
    assert!(!names(&runtime["volumeMounts"]).contains(&TOKEN_VOLUME));
    assert!(runtime["env"].is_null());
    assert_eq!(
        fetcher["env"][0]["valueFrom"]["secretKeyRef"]["key"],
        "fetcherKey"
    );
    assert_eq!(fetcher["args"], json!(POOL_FETCHER));
    assert_eq!(fetcher["readinessProbe"]["periodSeconds"], 1);
}

#[test]
fn a_pod_lingers_for_its_grace_period() {
    let spec = spec(&environment(json!({
        "version": 3, "runtime": { "image": "i" }, "terminationGracePeriod": 7,
        "resources": { "limits": { "memory": "1Gi" } }, "imagepullsecret": "pull",
    })));
    assert_eq!(spec["terminationGracePeriodSeconds"], 7);
    for container in spec["containers"].as_array().unwrap() {
        let asked = &container["lifecycle"]["preStop"]["httpGet"];
        assert_eq!(*asked, json!({ "path": QUIET, "port": 8000 }));
    }
    assert_eq!(
        spec["containers"][0]["resources"]["limits"]["memory"],
        "1Gi"
    );
    assert_eq!(spec["imagePullSecrets"], json!([{ "name": "pull" }]));
}

#[test]
fn what_a_user_does_before_the_end_replaces_waiting() {
    let own = json!({ "exec": { "command": ["/bye"] } });
    let spec = spec(&environment(json!({ "version": 3, "runtime": {
        "image": "i", "container": { "lifecycle": { "preStop": own } },
        "podspec": { "containers": [{ "name": "beside", "image": "b" }] },
    } })));
    let before = |index: usize| spec["containers"][index]["lifecycle"]["preStop"].clone();
    assert_eq!(before(0), own);
    for index in 1..3 {
        assert_eq!(before(index)["httpGet"]["path"], QUIET);
    }
}

#[test]
fn users_fields_are_laid_over_ours() {
    let spec = spec(&environment(json!({ "version": 3, "runtime": {
        "image": "python-env",
        "container": { "name": "mine", "env": [{ "name": "A", "value": "1" }] },
        "podspec": {
            "nodeSelector": { "disk": "ssd" },
            "terminationGracePeriodSeconds": 5,
            "volumes": [{ "name": "scratch", "emptyDir": {} }],
            "containers": [
                { "name": "mine", "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch" }] },
                { "name": "helper", "image": "helper" },
            ],
            "initContainers": [{ "name": "first", "image": "i" }],
        },
    } })));
    assert_eq!(names(&spec["containers"]), ["mine", "helper", "fetcher"]);
    let mine = &spec["containers"][0];
    assert_eq!(mine["image"], "python-env");
    assert_eq!(mine["env"][0]["name"], "A");
    assert_eq!(
        mine["volumeMounts"].as_array().unwrap().len(),
        SHARED.len() + 2
    );
    assert_eq!(spec["nodeSelector"]["disk"], "ssd");
    assert_eq!(spec["terminationGracePeriodSeconds"], 5);
}

#[test]
fn a_node_that_is_lost_is_left_unless_the_user_said_so() {
    let tolerations = |own: Value| {
        let spec = spec(&with_podspec(json!({ "tolerations": own })));
        let all = spec["tolerations"].as_array().unwrap().clone();
        all.iter()
            .map(|one| {
                let key = one["key"].as_str().unwrap_or("any").to_owned();
                (key, one["tolerationSeconds"].as_i64())
            })
            .collect::<Vec<_>>()
    };
    let not_ready = ("node.kubernetes.io/not-ready".to_owned(), Some(30));
    let unreachable = ("node.kubernetes.io/unreachable".to_owned(), Some(30));
    assert_eq!(
        tolerations(json!([])),
        [not_ready.clone(), unreachable.clone()]
    );
    let gpu = json!({ "key": "gpu", "operator": "Exists", "effect": "NoSchedule" });
    assert_eq!(
        tolerations(json!([gpu])),
        [("gpu".to_owned(), None), not_ready.clone(), unreachable]
    );
    let own = json!({ "key": "node.kubernetes.io/unreachable", "operator": "Exists",
        "effect": "NoExecute", "tolerationSeconds": 600 });
    assert_eq!(
        tolerations(json!([own])),
        [
            (own["key"].as_str().unwrap().to_owned(), Some(600)),
            not_ready
        ]
    );
    let any = json!({ "operator": "Exists" });
    assert_eq!(tolerations(json!([any])), [("any".to_owned(), None)]);
}

/// CVE-2026-50564, -50545, -50563, -50566, -50570: nothing a user writes makes a container
/// stronger.
#[test]
fn every_container_of_a_user_is_hardened() {
    let spec = spec(&with_podspec(json!({
        "containers": [
            { "name": "python", "securityContext": {
                "runAsUser": 5, "capabilities": { "add": ["NET_BIND_SERVICE"], "drop": [] } } },
            { "name": "helper", "image": "helper" },
        ],
        "initContainers": [{ "name": "first", "image": "i" }],
    })));
    let containers = spec["containers"].as_array().unwrap().iter();
    for container in containers.chain(spec["initContainers"].as_array().unwrap()) {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false, "{container}");
        assert_eq!(
            context["capabilities"]["drop"],
            json!(["ALL"]),
            "{container}"
        );
        assert_eq!(
            context["seccompProfile"]["type"], "RuntimeDefault",
            "{container}"
        );
    }
    let python = &spec["containers"][0]["securityContext"];
    assert_eq!(python["runAsUser"], 5);
    assert_eq!(python["capabilities"]["add"], json!(["NET_BIND_SERVICE"]));
}

/// CVE-2026-50564, -50545, -50563, -50566: the node and other identities.
#[test]
fn fields_of_a_pod_that_lead_out_are_refused() {
    for podspec in [
        json!({ "hostNetwork": true }),
        json!({ "hostPID": true }),
        json!({ "hostIPC": true }),
        json!({ "hostUsers": false, "hostNetwork": true }),
        json!({ "shareProcessNamespace": true }),
        json!({ "serviceAccountName": "admin" }),
        json!({ "serviceAccount": "admin" }),
        json!({ "automountServiceAccountToken": true }),
        json!({ "nodeName": "master" }),
        json!({ "priorityClassName": "system-node-critical" }),
        json!({ "ephemeralContainers": [{ "name": "x", "image": "i" }] }),
        json!({ "somethingNew": true }),
        json!({ "securityContext": { "sysctls": [{ "name": "a", "value": "b" }] } }),
        json!({ "securityContext": { "seccompProfile": { "type": "Unconfined" } } }),
        json!({ "volumes": [{ "name": "v", "hostPath": { "path": "/" } }] }),
        json!({ "volumes": [{ "name": "v", "nfs": { "server": "a", "path": "/" } }] }),
        json!({ "volumes": [{ "name": "v", "secret": { "secretName": AUTH_KEYS_SECRET } }] }),
        json!({ "volumes": [{ "name": "v", "projected": { "sources": [
            { "serviceAccountToken": { "path": "t" } }] } }] }),
        json!({ "volumes": [{ "name": "v", "projected": { "sources": [
            { "secret": { "name": AUTH_KEYS_SECRET } }] } }] }),
        json!({ "volumes": [{ "name": TOKEN_VOLUME, "emptyDir": {} }] }),
        json!({ "volumes": [{ "name": "userfunc", "emptyDir": {} }] }),
        json!({ "containers": [{ "name": "fetcher", "image": "mine" }] }),
        json!({ "initContainers": [{ "name": "fetcher", "image": "mine" }] }),
        json!({ "containers": "all" }),
        json!("text"),
    ] {
        let said = refused(&with_podspec(podspec.clone()));
        assert!(said.starts_with("runtime.podspec"), "{podspec}: {said}");
    }
}

/// CVE-2026-50563, -50566, -50570: capabilities are a list of one; the platform's secrets.
#[test]
fn fields_of_a_container_that_lead_out_are_refused() {
    for container in [
        json!({ "securityContext": { "privileged": true } }),
        json!({ "securityContext": { "allowPrivilegeEscalation": true } }),
        json!({ "securityContext": { "capabilities": { "add": ["SYS_ADMIN"] } } }),
        json!({ "securityContext": { "capabilities": { "add": ["NET_BIND_SERVICE", "NET_RAW"] } } }),
        json!({ "securityContext": { "capabilities": { "add": ["ALL"] } } }),
        json!({ "securityContext": { "capabilities": { "add": ["net_bind_service"] } } }),
        json!({ "securityContext": { "procMount": "Unmasked" } }),
        json!({ "securityContext": { "seccompProfile": { "type": "Unconfined" } } }),
        json!({ "securityContext": { "windowsOptions": { "hostProcess": true } } }),
        json!({ "securityContext": { "seLinuxOptions": { "level": "s0" } } }),
        json!({ "ports": [{ "containerPort": 1, "hostPort": 1 }] }),
        json!({ "env": [{ "name": "A", "valueFrom": { "secretKeyRef": {
            "name": AUTH_KEYS_SECRET, "key": "fetcherKey" } } }] }),
        json!({ "envFrom": [{ "secretRef": { "name": AUTH_KEYS_SECRET } }] }),
        json!({ "volumeMounts": [{ "name": TOKEN_VOLUME, "mountPath": "/t" }] }),
        json!({ "volumeMounts": [{ "name": "v", "mountPath": "/t", "mountPropagation": "Bidirectional" }] }),
        json!({ "livenessProbe": { "httpGet": { "host": "169.254.169.254", "port": 80 } } }),
        json!({ "lifecycle": { "postStart": { "httpGet": { "host": "10.0.0.1", "port": 80 } } } }),
        json!({ "volumeDevices": [{ "name": "v", "devicePath": "/dev/x" }] }),
        json!({ "somethingNew": 1 }),
        json!({ "name": "fetcher" }),
    ] {
        let said = refused(&with_container(container.clone()));
        assert!(!said.is_empty(), "{container}");
        // The same within a Pod's spec, as runtime, as another and as an init container.
        for list in ["containers", "initContainers"] {
            let mut inner = container.clone();
            if inner["name"].is_null() {
                inner["name"] = "python".into();
            }
            let said = refused(&with_podspec(json!({ list: [inner] })));
            assert!(said.starts_with("runtime.podspec"), "{container}: {said}");
        }
    }
}

#[test]
fn what_says_nothing_is_not_refused() {
    let podspec = json!({ "hostNetwork": false, "serviceAccountName": "", "hostPID": null });
    pool(&with_podspec(podspec), &platform()).unwrap();
    let container = json!({ "securityContext": { "privileged": false }, "resources": {} });
    pool(&with_container(container), &platform()).unwrap();
}

#[test]
fn names_that_cannot_be_are_told() {
    let none = environment(json!({ "version": 3, "runtime": {} }));
    assert!(refused(&none).contains("runtime.image"));
    let mut long = environment(json!({ "version": 3, "runtime": { "image": "i" } }));
    long.metadata.name = Some("x".repeat(64));
    assert!(refused(&long).contains("63"));
    let mut fetcher = environment(json!({ "version": 3, "runtime": { "image": "i" } }));
    fetcher.metadata.name = Some("fetcher".into());
    assert!(refused(&fetcher).contains("container"));
}

#[test]
fn another_template_is_another_pool_and_the_size_is_none() {
    let of = |spec: Value| pool(&environment(spec), &platform()).unwrap().hash;
    let one = of(json!({ "version": 3, "runtime": { "image": "a" } }));
    assert_ne!(
        one,
        of(json!({ "version": 3, "runtime": { "image": "b" } }))
    );
    assert_ne!(
        one,
        of(json!({ "version": 2, "runtime": { "image": "a" } }))
    );
    assert_eq!(
        one,
        of(json!({ "version": 3, "runtime": { "image": "a" }, "poolsize": 9 }))
    );
}

#[test]
fn instances_survive_another_fetcher() {
    let environment = environment(json!({ "version": 3, "runtime": { "image": "a" } }));
    let newer = Platform {
        image: "farplane.io/functions:2".into(),
        ..platform()
    };
    let (old, new) = (
        pool(&environment, &platform()).unwrap(),
        pool(&environment, &newer).unwrap(),
    );
    assert_ne!(old.hash, new.hash);
    let of = |pool: &PoolTemplate| {
        pool.template["metadata"]["annotations"][annotation::RUNTIME_HASH].clone()
    };
    assert_eq!(of(&old), of(&new));
}

#[test]
fn a_digest_does_not_depend_on_the_order_of_fields() {
    let one: Value = serde_json::from_str(r#"{"a":[1,{"b":2,"c":"3"}],"d":null}"#).unwrap();
    let two: Value = serde_json::from_str(r#"{"d":null,"a":[1,{"c":"3","b":2}]}"#).unwrap();
    assert_eq!(digest(&one), digest(&two));
    assert_ne!(digest(&json!(["a", "b"])), digest(&json!(["a\",\"b"])));
    assert_ne!(digest(&json!([1, 2])), digest(&json!([12])));
}
