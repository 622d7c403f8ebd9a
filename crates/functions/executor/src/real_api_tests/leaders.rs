//! Which of two executors the Service leads to.

use farplane_test_api::{World, eventually};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;

/// The Pod that an executor runs in.
pub(super) async fn own_pod(server: &World, name: &str) {
    let pod = json!({
        "metadata": { "name": name, "labels": { "svc": "executor" } },
        "spec": { "containers": [{ "name": "executor", "image": "i" }] },
    });
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let pods = Api::<Pod>::namespaced(server.client.clone(), "fission");
    pods.create(&PostParams::default(), &pod).await.unwrap();
}

/// The Service leads to this one and to no other.
pub(super) async fn marked(server: &World, name: &str) {
    let pods = Api::<Pod>::namespaced(server.client.clone(), "fission");
    let selected = ListParams::default().labels("svc=executor,farplane.io/leads=true");
    eventually("the mark at the Pod that leads", async || {
        let found = pods.list(&selected).await.ok()?;
        let names: Vec<String> = found.iter().map(ResourceExt::name_any).collect();
        (names == [name]).then_some(())
    })
    .await;
}
