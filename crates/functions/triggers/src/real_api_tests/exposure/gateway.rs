//! HTTPRoutes, in a cluster that has them, and in one that has not.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};

use super::*;

fn http_routes(platform: &Platform) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
    let kind = ApiResource::from_gvk(&kind);
    Api::namespaced_with(platform.admin.clone(), "fission", &kind)
}

/// As much of the Gateway API as is asked of it.
fn http_route_definition() -> CustomResourceDefinition {
    let parents = json!({ "type": "array", "items": {
        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
    }});
    let rules = json!({ "type": "array", "x-kubernetes-list-type": "atomic", "items": {
        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
    }});
    let spec = json!({ "type": "object", "properties": {
        "parentRefs": parents, "rules": rules,
        "hostnames": { "type": "array", "items": { "type": "string" } },
    }});
    let schema = json!({ "openAPIV3Schema": { "type": "object", "properties": { "spec": spec } } });
    serde_json::from_value(json!({
        "metadata": {
            "name": "httproutes.gateway.networking.k8s.io",
            "annotations": { "api-approved.kubernetes.io": "unapproved, for a test" },
        },
        "spec": {
            "group": "gateway.networking.k8s.io", "scope": "Namespaced",
            "names": { "plural": "httproutes", "singular": "httproute", "kind": "HTTPRoute" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": schema }],
        },
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn a_gateway_route_is_made_once_the_cluster_has_the_kind() {
    let platform = Platform::start().await;
    let process = platform.process(&policy());
    platform
        .trigger(NAMESPACE, "g", route("gateway", "a.example.com"))
        .await;
    platform
        .trigger(NAMESPACE, "i", route("ingress", "a.example.com"))
        .await;
    platform
        .exposed(NAMESPACE, "g", Some("False=GatewayApiMissing"))
        .await;
    platform.exposed(NAMESPACE, "i", Some("True=Exposed")).await;

    let definition = http_route_definition();
    define(&platform.admin, std::slice::from_ref(&definition)).await;
    platform.exposed(NAMESPACE, "g", Some("True=Exposed")).await;
    let api = http_routes(&platform);
    let one = async |is_right: &dyn Fn(&DynamicObject) -> bool| {
        eventually("the HTTPRoute", async || {
            let all = api.list(&ListParams::default()).await.ok()?.items;
            all.into_iter().find(|one| is_right(one))
        })
        .await
    };
    let port = |one: &DynamicObject| one.data["spec"]["rules"][0]["backendRefs"][0]["port"].clone();
    let made = one(&|_| true).await;
    assert_eq!(port(&made), 80);
    assert_eq!(made.data["spec"]["parentRefs"][0]["namespace"], "infra");
    let rules = json!([{ "backendRefs": [{ "name": "evil", "port": 81 }] }]);
    merge(
        &api,
        &made.name_any(),
        json!({ "spec": { "rules": rules } }),
    )
    .await;
    one(&|route| port(route) == 80).await;

    // The kind goes away: nothing else fails.
    let definitions = Api::<CustomResourceDefinition>::all(platform.admin.clone());
    let name = definition.name_any();
    definitions
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    platform
        .exposed(NAMESPACE, "g", Some("False=GatewayApiMissing"))
        .await;
    platform
        .trigger(NAMESPACE, "j", route("ingress", "a.example.com"))
        .await;
    platform.exposed(NAMESPACE, "j", Some("True=Exposed")).await;
    process.end().await;
}
