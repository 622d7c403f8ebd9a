//! What is said of nodes in the plane: answers to their requests, their end, their taints.

use farplane_kubernetes::{Answer, Spared};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::error::{Error, is_code};

/// Writes the answers. A request that is gone needs none.
pub(super) async fn apply(client: &Client, answers: &[Answer]) -> Result<(), Error> {
    let api = Api::<CertificateSigningRequest>::all(client.clone());
    for answer in answers {
        let Answer {
            request,
            approved,
            reason,
        } = answer;
        let (type_, word) = if *approved {
            ("Approved", "HostVerified")
        } else {
            tracing::warn!(request, reason, "denied a signing request");
            ("Denied", "NotTheHost")
        };
        let condition = json!({
            "type": type_, "status": "True", "reason": word, "message": reason,
        });
        let body = json!({ "status": { "conditions": [condition] } });
        let written = api
            .patch_approval(request, &PatchParams::default(), &Patch::Merge(&body))
            .await;
        match written {
            Ok(_) => {}
            Err(error) if is_code(&error, 404) => {}
            Err(error) => {
                return Err(Error::plane(format!("answer signing request {request}"))(
                    error,
                ));
            }
        }
    }
    Ok(())
}

/// Removes nodes whose host left the cluster.
pub(super) async fn remove_nodes(client: &Client, names: &[String]) -> Result<(), Error> {
    let api = Api::<Node>::all(client.clone());
    for name in names {
        match api.delete(name, &DeleteParams::default()).await {
            Ok(_) => tracing::info!(node = name, "removed the node of a host that left"),
            Err(error) if is_code(&error, 404) => {}
            Err(error) => return Err(Error::plane(format!("delete Node {name}"))(error)),
        }
    }
    Ok(())
}

/// Takes the taints away that would evict Pods of a site that is cut off. What changed since it
/// was looked at is decided anew at the next look.
pub(super) async fn spare_nodes(client: &Client, nodes: &[Spared]) -> Result<(), Error> {
    let api = Api::<Node>::all(client.clone());
    for spared in nodes {
        let body = json!({
            "metadata": { "resourceVersion": spared.resource_version },
            "spec": { "taints": spared.taints },
        });
        let params = PatchParams::default();
        let written = api.patch(&spared.node, &params, &Patch::Merge(&body)).await;
        match written {
            Ok(_) => tracing::info!(node = spared.node, "all nodes are away; it keeps its Pods"),
            Err(error) if is_code(&error, 404) || is_code(&error, 409) => {}
            Err(error) => {
                let step = format!("take a taint from Node {}", spared.node);
                return Err(Error::plane(step)(error));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::Hub;
    use k8s_openapi::api::core::v1::Taint;
    use kube::api::PostParams;

    #[tokio::test]
    async fn a_spared_node_keeps_its_other_taints_and_a_lost_one_is_no_failure() {
        let hub = Hub::default();
        let api = Api::<Node>::all(hub.client());
        let mut node = Node::default();
        node.metadata.name = Some("a".into());
        let made = api.create(&PostParams::default(), &node).await.unwrap();
        let spared = |name: &str| Spared {
            node: name.into(),
            resource_version: made.metadata.resource_version.clone().unwrap_or_default(),
            taints: vec![Taint {
                key: "mine".into(),
                effect: "NoExecute".into(),
                ..Taint::default()
            }],
        };
        spare_nodes(&hub.client(), &[spared("gone"), spared("a")])
            .await
            .unwrap();
        let written = hub.object("/api/v1/nodes/a").unwrap();
        assert_eq!(written["spec"]["taints"][0]["key"], "mine");
    }

    #[tokio::test]
    async fn answers_are_written_and_a_lost_request_is_no_failure() {
        let hub = Hub::default();
        let api = Api::<CertificateSigningRequest>::all(hub.client());
        let mut request = CertificateSigningRequest::default();
        request.metadata.name = Some("r".into());
        api.create(&PostParams::default(), &request).await.unwrap();
        let answers = [Answer {
            request: "r".into(),
            approved: true,
            reason: String::new(),
        }];
        apply(&hub.client(), &answers).await.unwrap();
        let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests/r/approval";
        let written = hub.object(path.trim_end_matches("/approval")).unwrap();
        assert_eq!(written["status"]["conditions"][0]["type"], "Approved");
    }
}
