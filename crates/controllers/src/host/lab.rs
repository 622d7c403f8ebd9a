//! The Pod, Secret and token of a lab host.
//!
//! States: no Pod -> (token, Secret, Pod) -> joining -> enrolled. A token that ended
//! unused is replaced in the Secret, which the kubelet brings into the running Pod.

use std::collections::BTreeMap;
use std::time::Duration;

use farplane_types::host::ENROLLED;
use farplane_types::names::{
    LAB_NAMESPACE, ORGANIZATION_LABEL, gateway_server_name, organization_of_namespace,
};
use farplane_types::token::Token;
use farplane_types::{Host, JoinToken, JoinTokenSpec, conditions};
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, ListParams, PostParams};
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;

use crate::context::Context;
use crate::error::Error;
use crate::object;

/// Label with the name of the host, on its Pod and Secret.
pub(super) const HOST_LABEL: &str = "farplane.io/host";
/// Label with the UID of the host, on its tokens.
const HOST_UID_LABEL: &str = "farplane.io/host-uid";
const TOKEN_LIFE: SignedDuration = SignedDuration::from_mins(55);
/// A token that ends sooner is not worth starting with.
const TOKEN_MARGIN: SignedDuration = SignedDuration::from_mins(2);
const CONFIG: &str = "agent.yaml";
/// Pause before a Pod that is being deleted is looked at again.
const POLL: Duration = Duration::from_secs(2);
/// How often the token of a host that has not joined is looked at.
const TOKEN_CHECK: Duration = Duration::from_secs(60);

/// What the rest of the host's reconciliation needs to know.
#[derive(Clone, Copy, Default)]
pub(super) struct Outcome {
    pub lost_identity: bool,
    pub again: Option<Duration>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// A Pod of this name is on its way out.
    WaitGone,
    NewToken,
    /// The Secret may be of a Pod that is gone: new token, then the Pod.
    NewPod,
}

fn name(host: &Host) -> String {
    format!("lab-{}", host.uid().unwrap_or_default())
}

/// Makes what is missing.
pub(super) async fn reconcile(context: &Context, host: &Host) -> Result<Outcome, Error> {
    let name = name(host);
    let pods = Api::<Pod>::namespaced(context.client.clone(), LAB_NAMESPACE);
    let pod = pods
        .get_opt(&name)
        .await
        .map_err(Error::hub(format!("read Pod {LAB_NAMESPACE}/{name}")))?;
    let namespace = host.namespace().unwrap_or_default();
    let tokens = Api::<JoinToken>::namespaced(context.client.clone(), &namespace);
    let known = tokens_of(&tokens, host).await?;
    let enrolled = host
        .status
        .as_ref()
        .is_some_and(|status| conditions::is_true(&status.conditions, ENROLLED));
    let step = decide(pod.as_ref(), enrolled, &known, &object::now());
    let again = match step {
        Step::Nothing if enrolled => None,
        Step::WaitGone => Some(POLL),
        Step::Nothing | Step::NewToken | Step::NewPod => Some(TOKEN_CHECK),
    };
    if matches!(step, Step::NewToken | Step::NewPod) {
        // One at a time, however often the rest fails.
        for token in &known {
            object::delete(&tokens, &token.name_any(), token.uid()).await?;
        }
    }
    match step {
        Step::Nothing => {}
        Step::WaitGone => {
            if let Some(pod) = pod.filter(|pod| !object::is_deleting(pod)) {
                object::delete(&pods, &name, pod.uid()).await?;
            }
        }
        Step::NewToken => give_token(context, host, &tokens).await?,
        Step::NewPod => {
            give_token(context, host, &tokens).await?;
            object::apply(&pods, &pod_of(context, host)?).await?;
        }
    }
    Ok(Outcome {
        lost_identity: enrolled && matches!(step, Step::NewPod | Step::WaitGone),
        again,
    })
}

async fn tokens_of(tokens: &Api<JoinToken>, host: &Host) -> Result<Vec<JoinToken>, Error> {
    let label = format!("{HOST_UID_LABEL}={}", host.uid().unwrap_or_default());
    let list = tokens
        .list(&ListParams::default().labels(&label))
        .await
        .map_err(Error::hub(format!(
            "list the JoinTokens of Host {}",
            host.name_any()
        )))?;
    Ok(list.items)
}

fn decide(pod: Option<&Pod>, enrolled: bool, tokens: &[JoinToken], now: &Time) -> Step {
    let Some(pod) = pod else {
        return Step::NewPod;
    };
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    // An evicted Pod stays as Failed, with nothing in it.
    if object::is_deleting(pod) || matches!(phase, Some("Failed" | "Succeeded")) {
        return Step::WaitGone;
    }
    let hope = |token: &&JoinToken| token.spec.expires_at.0 - TOKEN_MARGIN > now.0;
    if enrolled || tokens.iter().any(|token| hope(&token)) {
        return Step::Nothing;
    }
    Step::NewToken
}

/// Makes a token for this host only, and the Secret that brings it to the agent.
async fn give_token(context: &Context, host: &Host, tokens: &Api<JoinToken>) -> Result<(), Error> {
    let namespace = host.namespace().unwrap_or_default();
    let organization = organization_of_namespace(&namespace).unwrap_or_default();
    let token = Token {
        ca_sha256: crate::hub_keys::ca_sha256(context).await?,
        organization: organization.to_owned(),
        id: format!("lab-{}", hex::encode(rand::random::<[u8; 10]>())),
        secret: hex::encode(rand::random::<[u8; 32]>()),
    };
    let mut object = JoinToken::new(
        &token.id,
        JoinTokenSpec {
            endpoint: host.spec.endpoint.clone(),
            host: Some(host.name_any()),
            secret_sha256: token.secret_sha256(),
            expires_at: Time(Timestamp::now() + TOKEN_LIFE),
        },
    );
    object.metadata.labels = Some(BTreeMap::from([(
        HOST_UID_LABEL.to_owned(),
        host.uid().unwrap_or_default(),
    )]));
    object.metadata.owner_references = host.controller_owner_ref(&()).map(|owner| vec![owner]);
    tokens
        .create(&PostParams::default(), &object)
        .await
        .map_err(Error::hub(format!(
            "create a JoinToken for Host {}",
            host.name_any()
        )))?;
    let config = json!({
        "hub": format!("{}:8443", gateway_address(context).await?),
        "token": token.to_string(),
        "name": host.name_any(),
        "serverName": gateway_server_name(&context.settings.hub_domain),
    });
    let secret = Secret {
        metadata: metadata(host, organization),
        string_data: Some(BTreeMap::from([(CONFIG.to_owned(), config.to_string())])),
        ..Secret::default()
    };
    let secrets = Api::<Secret>::namespaced(context.client.clone(), LAB_NAMESPACE);
    object::apply(&secrets, &secret).await?;
    Ok(())
}

/// The gateway's address within the hub, where no name may be known.
async fn gateway_address(context: &Context) -> Result<String, Error> {
    let (namespace, name) = (
        &context.settings.namespace,
        &context.settings.gateway_service,
    );
    let service = Api::<Service>::namespaced(context.client.clone(), namespace)
        .get(name)
        .await
        .map_err(Error::hub(format!("read Service {namespace}/{name}")))?;
    Ok(service
        .spec
        .and_then(|spec| spec.cluster_ip)
        .unwrap_or_default())
}

fn metadata(host: &Host, organization: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name(host)),
        namespace: Some(LAB_NAMESPACE.to_owned()),
        labels: Some(BTreeMap::from([
            (ORGANIZATION_LABEL.to_owned(), organization.to_owned()),
            (HOST_LABEL.to_owned(), host.name_any()),
        ])),
        ..ObjectMeta::default()
    }
}

fn pod_of(context: &Context, host: &Host) -> Result<Pod, Error> {
    let namespace = host.namespace().unwrap_or_default();
    let organization = organization_of_namespace(&namespace).unwrap_or_default();
    let image = &context.settings.images.lab_host;
    let spec = json!({
        "hostname": host.name_any(),
        "restartPolicy": "Always",
        "enableServiceLinks": false,
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 10,
        // The hub may have no DNS; a real machine has that of its network.
        "dnsPolicy": "Default",
        "containers": [{
            "name": "host",
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["/usr/bin/tini", "--", "/usr/local/bin/lab-init"],
            "securityContext": { "privileged": true },
            "resources": { "requests": { "cpu": "100m", "memory": "128Mi" } },
            "volumeMounts": [
                { "name": "config", "mountPath": "/etc/farplane", "readOnly": true },
                { "name": "farplane", "mountPath": "/var/lib/farplane" },
                { "name": "kubelet", "mountPath": "/var/lib/kubelet" },
                { "name": "run", "mountPath": "/run" },
            ],
        }],
        "volumes": [
            { "name": "config", "secret": { "secretName": name(host), "defaultMode": 0o400 } },
            { "name": "farplane", "emptyDir": {} },
            { "name": "kubelet", "emptyDir": {} },
            { "name": "run", "emptyDir": {} },
        ],
    });
    let spec = serde_json::from_value(spec).map_err(|source| Error::Decide {
        cluster: name(host),
        source: Box::new(source),
    })?;
    Ok(Pod {
        metadata: metadata(host, organization),
        spec: Some(spec),
        status: None,
    })
}

/// Deletes Pod, Secret and tokens. True when nothing is left.
pub(super) async fn remove(context: &Context, host: &Host) -> Result<bool, Error> {
    let name = name(host);
    let namespace = host.namespace().unwrap_or_default();
    let tokens = Api::<JoinToken>::namespaced(context.client.clone(), &namespace);
    for token in tokens_of(&tokens, host).await? {
        object::delete(&tokens, &token.name_any(), token.uid()).await?;
    }
    let pods = Api::<Pod>::namespaced(context.client.clone(), LAB_NAMESPACE);
    let secrets = Api::<Secret>::namespaced(context.client.clone(), LAB_NAMESPACE);
    object::delete(&secrets, &name, None).await?;
    object::delete(&pods, &name, None).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodStatus;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn token(ends: i64) -> JoinToken {
        JoinToken::new(
            "t",
            JoinTokenSpec {
                endpoint: "e".into(),
                host: None,
                secret_sha256: String::new(),
                expires_at: at(ends),
            },
        )
    }

    fn pod(phase: &str) -> Pod {
        Pod {
            status: Some(PodStatus {
                phase: Some(phase.into()),
                ..PodStatus::default()
            }),
            ..Pod::default()
        }
    }

    #[test]
    fn a_host_that_joins_in_time_gets_one_token() {
        let now = at(1000);
        assert_eq!(decide(None, false, &[], &now), Step::NewPod);
        let running = pod("Running");
        assert_eq!(
            decide(Some(&running), false, &[token(4000)], &now),
            Step::Nothing
        );
        assert_eq!(decide(Some(&running), true, &[], &now), Step::Nothing);
    }

    #[test]
    fn a_token_that_ended_unused_is_replaced() {
        let running = pod("Running");
        assert_eq!(
            decide(Some(&running), false, &[token(900)], &at(1000)),
            Step::NewToken
        );
    }

    #[test]
    fn a_lost_pod_is_made_again_with_a_new_token() {
        let now = at(1000);
        assert_eq!(decide(None, true, &[token(4000)], &now), Step::NewPod);
        assert_eq!(
            decide(Some(&pod("Failed")), true, &[], &now),
            Step::WaitGone
        );
        let mut leaving = pod("Running");
        leaving.metadata.deletion_timestamp = Some(at(999));
        assert_eq!(decide(Some(&leaving), true, &[], &now), Step::WaitGone);
    }
}
