//! Answers to signing requests of nodes, written to the plane.

use farplane_kubernetes::Answer;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::Hub;
    use kube::api::PostParams;

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
