//! Versions and aliases against a real API server.

use farplane_functions_types::{Environment, Function, FunctionAlias, FunctionVersion, Package};
use kube::Api;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use super::{Process, settings};
use crate::testing::{Router, world};
use farplane_test_api::{World, eventually};

async fn versions(server: &World) -> Vec<String> {
    let api: Api<FunctionVersion> = server.api();
    let all = api.list(&ListParams::default()).await.unwrap().items;
    let mut names: Vec<_> = all.iter().map(|version| version.name_any()).collect();
    names.sort();
    names
}

async fn until_versions(server: &World, wanted: &[&str]) {
    let what = format!("versions {wanted:?}");
    eventually(&what, async || {
        (versions(server).await == wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver in FARPLANE_TEST_BIN"]
async fn versions_are_published_kept_and_deleted() {
    let (server, router) = (world().await, Router::start().await);
    let process = Process::start(&server, settings(&router));
    let environment = json!({ "version": 3, "runtime": { "image": "x" } });
    server.create::<Environment>("python", environment).await;
    let code = |literal: &str| json!({ "environment": { "name": "python" }, "deployment": { "literal": literal } });
    server.create::<Package>("p", code("YQ==")).await;
    let spec = json!({
        "environment": { "name": "python" }, "versioning": { "mode": "auto", "retain": 2 },
        "package": { "packageref": { "name": "p" } },
    });
    server.create::<Function>("f", spec).await;
    until_versions(&server, &["f-v1"]).await;
    let alias = json!({ "functionName": "f", "version": "f-v1" });
    server.create::<FunctionAlias>("prod", alias).await;
    server
        .condition::<FunctionAlias>("prod", "Resolved", "True=Resolved")
        .await;
    for timeout in [11, 12, 13] {
        let change = json!({ "spec": { "functionTimeout": timeout } });
        server.patch::<Function>("f", change).await;
        let wanted = format!("f-v{}", timeout - 9);
        eventually(&wanted, async || {
            versions(&server).await.contains(&wanted).then_some(())
        })
        .await;
    }
    // The alias keeps the first, the last two are retained.
    until_versions(&server, &["f-v1", "f-v3", "f-v4"]).await;
    let packages: Api<Package> = server.api();
    eventually("its code to go", async || {
        packages
            .get_opt("f-v2")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    let first = packages.get("f-v1").await.unwrap();
    assert_eq!(first.spec.deployment.literal, "YQ==");

    // One that an alias needs stays until it does not.
    let api: Api<FunctionVersion> = server.api();
    api.delete("f-v1", &DeleteParams::default()).await.unwrap();
    let events: Api<k8s_openapi::api::events::v1::Event> = server.api();
    eventually("the reason", async || {
        let all = events.list(&ListParams::default()).await.unwrap().items;
        let notes = all.into_iter().filter_map(|event| event.note);
        let mut notes =
            notes.filter(|note| note.contains("is still referenced by FunctionAlias prod"));
        notes.next()
    })
    .await;
    assert!(versions(&server).await.contains(&"f-v1".to_owned()));
    server
        .patch::<FunctionAlias>("prod", json!({ "spec": { "version": "f-v4" } }))
        .await;
    until_versions(&server, &["f-v3", "f-v4"]).await;
    let alias: Api<FunctionAlias> = server.api();
    let status = alias.get("prod").await.unwrap().status.unwrap();
    assert_eq!(status.resolved_version, "f-v4");
    assert_eq!(status.history[0].version, "f-v1");
    // A build of the package alone is a version too.
    let code = json!({ "spec": { "deployment": { "literal": "Yg==" } } });
    server.patch::<Package>("p", code).await;
    until_versions(&server, &["f-v4", "f-v5"]).await;
    let newest = packages.get("f-v5").await.unwrap();
    assert_eq!(newest.spec.deployment.literal, "Yg==");
    // Another environment is told of.
    let image = json!({ "spec": { "runtime": { "image": "y" } } });
    server.patch::<Environment>("python", image).await;
    server
        .condition::<FunctionAlias>("prod", "EnvDrift", "True=EnvGenerationDrift")
        .await;
    process.end().await;
}
