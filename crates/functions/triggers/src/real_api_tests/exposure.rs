//! Ingresses and HTTPRoutes against a real API server, with the rights that the chart gives.

mod gateway;

use farplane_functions_types::HTTPTrigger;
use farplane_test_api::{ApiServer, NAMESPACE, define, eventually, namespaces};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{DeleteParams, ListParams};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::*;
use crate::exposure::chart_tests::rbac;

/// Who the process is.
const ACCOUNT: &str = "system:serviceaccount:fission:fission-controllers";

/// A platform and its tenants.
struct Platform {
    /// May do anything.
    admin: Client,
    /// May do what the chart gives the controllers.
    controllers: Client,
    router: Router,
    _server: ApiServer,
}

impl Platform {
    async fn start() -> Self {
        let server = ApiServer::start();
        let admin = server.client().await;
        define(&admin, &farplane_functions_types::all_crds()).await;
        namespaces(&admin, &["fission", NAMESPACE, "other"]).await;
        let mut config = kube::Config::new(server.url().parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info.token = Some("admin".to_owned().into());
        config.auth_info.impersonate = Some(ACCOUNT.to_owned());
        let platform = Self {
            controllers: Client::try_from(config).unwrap(),
            admin,
            router: Router::start().await,
            _server: server,
        };
        platform.give_rights().await;
        platform
    }

    async fn give_rights(&self) {
        let all = Api::<ClusterRole>::all(self.admin.clone());
        create(&all, rbac("ClusterRole", "fission-controllers")).await;
        let roles = Api::<Role>::namespaced(self.admin.clone(), "fission");
        create(&roles, rbac("Role", "fission-platform")).await;
        create(&roles, rbac("Role", "fission-exposure")).await;
        let subjects = json!([{
            "kind": "ServiceAccount", "name": "fission-controllers", "namespace": "fission",
        }]);
        let bound = |kind: &str, name: &str| {
            let role =
                json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name });
            json!({ "metadata": { "name": name }, "roleRef": role, "subjects": subjects })
        };
        let everywhere = Api::<ClusterRoleBinding>::all(self.admin.clone());
        create(&everywhere, bound("ClusterRole", "fission-controllers")).await;
        let here = Api::<RoleBinding>::namespaced(self.admin.clone(), "fission");
        create(&here, bound("Role", "fission-platform")).await;
        create(&here, rbac("RoleBinding", "fission-exposure")).await;
    }

    fn process(&self, policy: &Value) -> Process {
        let mut settings = settings(&self.router);
        settings.exposure = policy.to_string().parse().unwrap();
        let shutdown = CancellationToken::new();
        let client = self.controllers.clone();
        let task = tokio::spawn(run(client, settings, shutdown.clone()));
        Process { task, shutdown }
    }

    fn triggers(&self, namespace: &str) -> Api<HTTPTrigger> {
        Api::namespaced(self.admin.clone(), namespace)
    }

    async fn trigger(&self, namespace: &str, name: &str, spec: Value) {
        let mut all = json!({
            "relativeurl": format!("/{name}"), "functionref": { "type": "name", "name": "f" },
        });
        for (key, value) in spec.as_object().unwrap() {
            all[key] = value.clone();
        }
        let object = json!({ "metadata": { "name": name }, "spec": all });
        create(&self.triggers(namespace), object).await;
    }

    /// Waits until condition `Exposed` is `status=reason`, or is not there.
    async fn exposed(&self, namespace: &str, name: &str, expected: Option<&str>) {
        let what = format!("Exposed of {namespace}/{name} to be {expected:?}");
        eventually(&what, async || {
            let trigger = self.triggers(namespace).get(name).await.unwrap();
            let all = trigger.status.unwrap_or_default().conditions;
            let one = all.into_iter().find(|one| one.type_ == "Exposed");
            let seen = one.map(|one| format!("{}={}", one.status, one.reason));
            (seen.as_deref() == expected).then_some(())
        })
        .await;
    }

    fn ingresses(&self) -> Api<Ingress> {
        Api::namespaced(self.admin.clone(), "fission")
    }

    /// Names of triggers that have an Ingress, anywhere.
    async fn ingress_names(&self) -> Vec<String> {
        let all = Api::<Ingress>::all(self.admin.clone());
        let all = all.list(&ListParams::default()).await.unwrap().items;
        assert!(all.iter().all(|one| one.namespace().unwrap() == "fission"));
        let of = |one: &Ingress| one.labels().get("triggerName").cloned();
        let mut names: Vec<_> = all.iter().filter_map(of).collect();
        names.sort();
        names
    }
}

async fn create<K>(api: &Api<K>, object: Value)
where
    K: Resource + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

async fn merge<K>(api: &Api<K>, name: &str, patch: Value)
where
    K: Resource + DeserializeOwned + Clone + std::fmt::Debug,
{
    let parameters = PatchParams::default();
    api.patch(name, &parameters, &Patch::Merge(&patch))
        .await
        .unwrap();
}

fn policy() -> Value {
    json!({
        "hostnames": ["*.example.com"], "annotations": ["a.io/"], "parents": ["infra/web"],
        "ingressClass": "public",
    })
}

fn route(provider: &str, host: &str) -> Value {
    json!({ "routeConfig": { "provider": provider, "hostnames": [host] } })
}

async fn ingress_of(
    platform: &Platform,
    trigger: &str,
    is_right: impl Fn(&Ingress) -> bool,
) -> Ingress {
    let selector = ListParams::default().labels(&format!("triggerName={trigger},functionName=f"));
    eventually(&format!("the Ingress of {trigger}"), async || {
        let all = platform.ingresses().list(&selector).await.unwrap().items;
        all.into_iter().find(|one| is_right(one))
    })
    .await
}

fn host(ingress: &Ingress) -> Option<&str> {
    let rules = ingress.spec.as_ref()?.rules.as_ref()?;
    rules.first()?.host.as_deref()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn an_ingress_is_made_repaired_and_removed() {
    let platform = Platform::start().await;
    let process = platform.process(&policy());
    let old = json!({ "createingress": true, "ingressconfig": {
        "host": "a.example.com", "path": "/hello", "annotations": { "a.io/x": "1", "a.io/y": "2" },
    }});
    platform.trigger(NAMESPACE, "hello", old).await;
    platform
        .exposed(NAMESPACE, "hello", Some("True=Exposed"))
        .await;
    let made = ingress_of(&platform, "hello", |_| true).await;
    assert_eq!(made.labels()["triggerNamespace"], NAMESPACE);
    assert_eq!(host(&made), Some("a.example.com"));
    let name = made.name_any();

    // Somebody changes it, takes its labels, deletes it.
    let hijack = json!([{ "host": "evil.org", "http": { "paths": [{
        "path": "/", "pathType": "Prefix",
        "backend": { "service": { "name": "other", "port": { "number": 1 } } },
    }]}}]);
    let change =
        json!({ "spec": { "rules": hijack }, "metadata": { "annotations": { "a.io/x": "9" } } });
    merge(&platform.ingresses(), &name, change).await;
    let right =
        |one: &Ingress| host(one) == Some("a.example.com") && one.annotations()["a.io/x"] == "1";
    ingress_of(&platform, "hello", right).await;
    let labels = json!({ "metadata": { "labels": null }, "spec": { "rules": hijack } });
    merge(&platform.ingresses(), &name, labels).await;
    ingress_of(&platform, "hello", right).await;
    platform
        .ingresses()
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    ingress_of(&platform, "hello", |one| {
        right(one) && one.uid() != made.uid()
    })
    .await;

    // It asks for less, then for nothing.
    let less = json!({ "spec": { "ingressconfig": { "annotations": { "a.io/y": null } } } });
    merge(&platform.triggers(NAMESPACE), "hello", less).await;
    ingress_of(&platform, "hello", |one| {
        !one.annotations().contains_key("a.io/y")
    })
    .await;
    let nothing = json!({ "spec": { "createingress": false } });
    merge(&platform.triggers(NAMESPACE), "hello", nothing).await;
    platform.exposed(NAMESPACE, "hello", None).await;
    assert!(platform.ingress_names().await.is_empty());

    // It goes with its trigger, also while nobody leads.
    platform
        .trigger(NAMESPACE, "one", route("ingress", "a.example.com"))
        .await;
    platform
        .trigger("other", "two", route("ingress", "a.example.com"))
        .await;
    platform
        .exposed(NAMESPACE, "one", Some("True=Exposed"))
        .await;
    platform.exposed("other", "two", Some("True=Exposed")).await;
    assert_eq!(platform.ingress_names().await, ["one", "two"]);
    let api = platform.triggers(NAMESPACE);
    api.delete("one", &DeleteParams::default()).await.unwrap();
    let left = async |wanted: &[&str]| {
        let what = format!("Ingresses {wanted:?}");
        eventually(&what, async || {
            (platform.ingress_names().await == wanted).then_some(())
        })
        .await;
    };
    left(&["two"]).await;
    process.end().await;
    let api = platform.triggers("other");
    api.delete("two", &DeleteParams::default()).await.unwrap();
    let process = platform.process(&policy());
    left(&[]).await;
    process.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn what_is_not_allowed_makes_nothing() {
    let platform = Platform::start().await;
    // The operator's own, with a name as a tenant might choose it, and without our label.
    let theirs = json!({
        "metadata": { "name": "ns-own", "labels": { "triggerName": "own" } },
        "spec": { "defaultBackend": { "service": { "name": "x", "port": { "number": 1 } } } },
    });
    create(&platform.ingresses(), theirs).await;
    let before = platform.ingresses().get("ns-own").await.unwrap();
    let process = platform.process(&policy());
    let mut annotated = route("ingress", "a.example.com");
    annotated["routeConfig"]["annotations"] =
        json!({ "nginx.ingress.kubernetes.io/configuration-snippet": "return 200;" });
    let mut secret = route("ingress", "a.example.com");
    secret["routeConfig"]["tls"] = json!("fission-internal-auth");
    let mut wide = route("ingress", "a.example.com");
    wide["routeConfig"]["path"] = json!("/");
    let mut gateway = route("gateway", "a.example.com");
    gateway["routeConfig"]["gateway"] = json!({ "parentRefs": [{ "name": "other" }] });
    for (name, spec, reason) in [
        ("own", route("ingress", "evil.org"), "HostnameNotAllowed"),
        (
            "any",
            json!({ "createingress": true }),
            "HostnameNotAllowed",
        ),
        ("annotated", annotated, "AnnotationNotAllowed"),
        ("secret", secret, "TlsSecretNotAllowed"),
        ("wide", wide, "PathNotAllowed"),
        ("gateway", gateway, "GatewayNotAllowed"),
        ("form", route("x", "a.example.com"), "InvalidIngressConfig"),
    ] {
        platform.trigger(NAMESPACE, name, spec).await;
        let wanted = format!("False={reason}");
        platform.exposed(NAMESPACE, name, Some(&wanted)).await;
    }
    assert_eq!(platform.ingress_names().await, ["own"]);

    // The operator allows less while nobody leads: what was made goes.
    platform
        .trigger(NAMESPACE, "good", route("ingress", "a.example.com"))
        .await;
    platform
        .exposed(NAMESPACE, "good", Some("True=Exposed"))
        .await;
    process.end().await;
    let process = platform.process(&json!({}));
    platform
        .exposed(NAMESPACE, "good", Some("False=HostnameNotAllowed"))
        .await;
    assert_eq!(platform.ingress_names().await, ["own"]);
    let after = platform.ingresses().get("ns-own").await.unwrap();
    assert_eq!(after.resource_version(), before.resource_version());
    process.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn the_routers_conditions_stay_beside_ours() {
    let platform = Platform::start().await;
    let process = platform.process(&policy());
    platform
        .trigger(NAMESPACE, "t", route("ingress", "a.example.com"))
        .await;
    platform.exposed(NAMESPACE, "t", Some("True=Exposed")).await;
    let triggers = platform.triggers(NAMESPACE);
    let time = "2026-01-01T00:00:00Z";
    let ready = json!({ "type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": time });
    let status = json!({
        "apiVersion": "fission.io/v1", "kind": "HTTPTrigger", "metadata": { "name": "t" },
        "status": { "observedGeneration": 1, "conditions": [ready] },
    });
    let parameters = PatchParams::apply("fission-router").force();
    triggers
        .patch_status("t", &parameters, &Patch::Apply(&status))
        .await
        .unwrap();
    let types = async || {
        let status = triggers.get("t").await.unwrap().status.unwrap();
        assert_eq!(status.observed_generation, Some(1));
        let mut types: Vec<_> = status.conditions.into_iter().map(|one| one.type_).collect();
        types.sort();
        types
    };
    assert_eq!(types().await, ["Exposed", "Ready"]);
    merge(&triggers, "t", json!({ "spec": { "routeConfig": null } })).await;
    platform.exposed(NAMESPACE, "t", None).await;
    assert_eq!(types().await, ["Ready"]);
    process.end().await;
}

/// What the cluster itself refuses is told, and what was there before for it is not left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn what_the_cluster_refuses_is_told() {
    let platform = Platform::start().await;
    let process = platform.process(&policy());
    platform
        .trigger(NAMESPACE, "t", route("ingress", "a.example.com"))
        .await;
    platform.exposed(NAMESPACE, "t", Some("True=Exposed")).await;
    let rule = json!({ "apiGroups": ["networking.k8s.io"], "apiVersions": ["v1"],
        "operations": ["*"], "resources": ["ingresses"] });
    let expression = "object == null || object.spec.rules.all(r, r.host != 'b.example.com')";
    let refusal = json!({ "metadata": { "name": "no-b" }, "spec": {
        "matchConstraints": { "resourceRules": [rule] },
        "validations": [{ "expression": expression, "message": "b is taken" }],
    }});
    let all = Api::<ValidatingAdmissionPolicy>::all(platform.admin.clone());
    create(&all, refusal).await;
    let bound = json!({ "metadata": { "name": "no-b" },
        "spec": { "policyName": "no-b", "validationActions": ["Deny"] } });
    let all = Api::<ValidatingAdmissionPolicyBinding>::all(platform.admin.clone());
    create(&all, bound).await;
    let mut probe = ingress_of(&platform, "t", |_| true).await;
    let b = Some("b.example.com".to_owned());
    probe.spec.as_mut().unwrap().rules.as_mut().unwrap()[0].host = b;
    probe.metadata = ObjectMeta {
        name: Some("probe".to_owned()),
        ..ObjectMeta::default()
    };
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    eventually("the refusal to be in force", async || {
        platform.ingresses().create(&dry, &probe).await.err()
    })
    .await;
    let spec = json!({ "spec": route("ingress", "b.example.com") });
    merge(&platform.triggers(NAMESPACE), "t", spec).await;
    platform
        .exposed(NAMESPACE, "t", Some("False=Refused"))
        .await;
    let told = platform.triggers(NAMESPACE).get("t").await.unwrap();
    let message = told.status.unwrap().conditions.remove(0).message;
    assert!(message.contains("b is taken"), "{message}");
    assert!(platform.ingress_names().await.is_empty());
    process.end().await;
}

/// Without this, the tests above would pass with all rights too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn the_charts_rights_end_at_the_namespace() {
    let platform = Platform::start().await;
    let spec = json!({ "defaultBackend": { "service": { "name": "x", "port": { "number": 1 } } } });
    let object = Ingress {
        metadata: ObjectMeta {
            name: Some("x".to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(serde_json::from_value(spec).unwrap()),
        ..Ingress::default()
    };
    for namespace in ["other", "default"] {
        let api = Api::<Ingress>::namespaced(platform.controllers.clone(), namespace);
        let refused = api.create(&PostParams::default(), &object).await;
        assert!(matches!(refused, Err(kube::Error::Api(answer)) if answer.code == 403));
        let refused = api.list(&ListParams::default()).await;
        assert!(matches!(refused, Err(kube::Error::Api(answer)) if answer.code == 403));
    }
}
