//! `POST /v1/join`: a token and a signing request become a host and its certificate.
//!
//! Order of writes: the token is consumed first, by one update that carries the resource
//! version that was read, so that of two uses at most one succeeds; then the host is made;
//! then the certificate is signed. Whoever is interrupted repeats with the same key.

pub mod decide;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farplane_types::identity::Identity;
use farplane_types::token::Token;
use farplane_types::wire::{IssuedCertificate, JoinRequest};
use farplane_types::{
    Host, HostProvider, HostSpec, JoinToken, JoinTokenStatus, Organization, names,
};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::json;
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::gateway::Gateway;
use crate::http::{Answer, json as json_answer, refusal};
use crate::issue::{self, IssueError};
use crate::renew::to_time;
use crate::status::{self, StatusError};
use decide::{Refusal, TOKEN_ANNOTATION, Target, Use};

/// Longest request, in bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// Longest time for a request's body.
const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// Times that a token changed under our hands before we give up.
const MAX_CONFLICTS: usize = 5;

/// Why a join failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Refused, with the reason and what to do.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A step that the API did not do; repeating may help.
    #[error("the hub failed to {step}; try again")]
    Api {
        /// The step.
        step: &'static str,
        /// What the API says.
        source: Box<kube::Error>,
    },
    /// The host's status was not written.
    #[error("the hub failed to record the certificate; try again")]
    Status {
        /// What the API says.
        source: Box<StatusError>,
    },
    /// No certificates here yet.
    #[error("the hub is still starting; try again")]
    NoCertificates,
    /// The CA does not sign.
    #[error("the hub failed to sign the certificate; its operator finds the reason in the log")]
    Sign {
        /// Why.
        source: IssueError,
    },
}

impl JoinError {
    fn answer(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Refused(refusal) => (refusal.status(), refusal.outcome()),
            Self::Api { .. } | Self::Status { .. } => (StatusCode::SERVICE_UNAVAILABLE, "api"),
            Self::NoCertificates => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
            Self::Sign { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "sign"),
        }
    }
}

fn api(step: &'static str) -> impl FnOnce(kube::Error) -> JoinError {
    move |source| JoinError::Api {
        step,
        source: Box::new(source),
    }
}

/// Answers one join request.
pub async fn answer(gateway: Arc<Gateway>, from: IpAddr, request: Request<Incoming>) -> Answer {
    if let Some(wait) = gateway.failed_joins.wait(from, Instant::now()) {
        gateway.metrics.count("join", "rate");
        let seconds = wait.as_secs() + 1;
        let reason = format!("too many failed joins from {from}; wait {seconds} s");
        return refusal(StatusCode::TOO_MANY_REQUESTS, reason);
    }
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    let body: Bytes = match timeout(BODY_DEADLINE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return refusal(StatusCode::PAYLOAD_TOO_LARGE, error),
        Err(_) => return refusal(StatusCode::REQUEST_TIMEOUT, "the request came too slowly"),
    };
    let request: JoinRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, error),
    };
    match enrol(&gateway, &request).await {
        Ok(issued) => {
            gateway.metrics.count("join", "ok");
            tracing::info!(peer = %from, host = request.host, identity = issued.identity, "host joined");
            json_answer(StatusCode::OK, &issued)
        }
        Err(error) => {
            let (status, outcome) = error.answer();
            gateway.metrics.count("join", outcome);
            if status.is_client_error() {
                gateway.failed_joins.failed(from, Instant::now());
            }
            let token = request.token.parse::<Token>().ok();
            let reason = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(peer = %from, host = request.host, ?token, %error, reason, "join refused");
            refusal(status, &error)
        }
    }
}

/// Everything between request and certificate.
///
/// # Errors
/// When the join is refused or a step fails.
pub async fn enrol(
    gateway: &Gateway,
    request: &JoinRequest,
) -> Result<IssuedCertificate, JoinError> {
    let material = gateway.material().ok_or(JoinError::NoCertificates)?;
    let token: Token = request.token.parse().map_err(|error| Refusal::NotAToken {
        reason: format!("{error}"),
    })?;
    let namespace = names::organization_namespace(&token.organization);
    let client = &gateway.client;
    let tokens: Api<JoinToken> = Api::namespaced(client.clone(), &namespace);
    let hosts: Api<Host> = Api::namespaced(client.clone(), &namespace);

    let mut conflicts = 0;
    let (object, csr, target) = loop {
        let found = tokens
            .get_opt(&token.id)
            .await
            .map_err(api("read the token"))?;
        let object = decide::authentic(&token, found.as_ref())?.clone();
        // Read only now: strangers do not get to feed the parser.
        let csr = issue::Request::parse(&request.csr).map_err(|error| Refusal::BadRequest {
            reason: error.to_string(),
        })?;
        let key = csr.key_sha256();
        let use_ = decide::usable(&object, &request.host, &key, Timestamp::now())?;
        let existing = hosts
            .get_opt(&request.host)
            .await
            .map_err(api("read the host"))?;
        let target = decide::target(&object, &request.host, use_, existing.as_ref())?;
        if target == Target::Create {
            check_room(gateway, &token.organization, &hosts).await?;
        }
        if use_ == Use::Repeat || consume(&tokens, object.clone(), request, key).await? {
            break (object, csr, target);
        }
        conflicts += 1;
        if conflicts >= MAX_CONFLICTS {
            return Err(Refusal::Used {
                host: "another one".to_owned(),
            }
            .into());
        }
    };
    let host = match target {
        Target::Create => create(&hosts, &object, &request.host, &token.organization).await?,
        Target::Existing => hosts
            .get(&request.host)
            .await
            .map_err(api("read the host"))?,
    };
    let uid = host.metadata.uid.clone().unwrap_or_default();
    let identity = Identity::Host {
        organization: token.organization.clone(),
        endpoint: host.spec.endpoint.clone(),
        host: request.host.clone(),
        uid: uid.clone(),
    };
    let ca = (material.host_ca.as_str(), material.host_ca_key.as_str());
    let issued = issue::sign(&csr, &identity, ca, OffsetDateTime::now_utc())
        .map_err(|source| JoinError::Sign { source })?;
    let failed = |source| JoinError::Status {
        source: Box::new(source),
    };
    let previous = host.status.unwrap_or_default().conditions;
    let (not_after, now) = (to_time(issued.not_after), Time(Timestamp::now()));
    let enrolled = status::enrolled(&previous, not_after, now);
    let manager = status::ENROLMENT_MANAGER;
    status::apply(&hosts, &request.host, &uid, manager, enrolled)
        .await
        .map_err(failed)?;
    let facts = json!({ "facts": request.facts });
    status::apply(&hosts, &request.host, &uid, status::AGENT_MANAGER, facts)
        .await
        .map_err(failed)?;
    Ok(IssuedCertificate {
        certificate: issued.certificate,
        hub_ca: material.hub_ca.clone(),
        identity: identity.to_string(),
        server_name: names::gateway_server_name(&gateway.settings.hub_domain),
    })
}

async fn check_room(
    gateway: &Gateway,
    organization: &str,
    hosts: &Api<Host>,
) -> Result<(), JoinError> {
    let organizations: Api<Organization> = Api::all(gateway.client.clone());
    let object = organizations.get_opt(organization).await;
    let object = object.map_err(api("read the organization"))?;
    let limited = object
        .as_ref()
        .is_some_and(|it| it.spec.limits.hosts.is_some());
    let count = if limited {
        let list = hosts.list_metadata(&ListParams::default()).await;
        list.map_err(api("count the hosts"))?.items.len()
    } else {
        0
    };
    Ok(decide::room(object.as_ref(), count)?)
}

/// Marks the token as used. Answers `false` when it changed since it was read.
async fn consume(
    tokens: &Api<JoinToken>,
    mut object: JoinToken,
    request: &JoinRequest,
    key_sha256: String,
) -> Result<bool, JoinError> {
    object.status = Some(JoinTokenStatus {
        used_by: Some(request.host.clone()),
        used_at: Some(Time(Timestamp::now())),
        key_sha256: Some(key_sha256),
    });
    let name = object.metadata.name.clone().unwrap_or_default();
    let params = PostParams::default();
    match tokens.replace_status(&name, &params, &object).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(false),
        Err(kube::Error::Api(answer)) if answer.code == 404 => Err(Refusal::Unknown.into()),
        Err(error) => Err(api("consume the token")(error)),
    }
}

async fn create(
    hosts: &Api<Host>,
    token: &JoinToken,
    name: &str,
    organization: &str,
) -> Result<Host, JoinError> {
    let spec = HostSpec {
        endpoint: token.spec.endpoint.clone(),
        provider: HostProvider::Own,
        unschedulable: false,
    };
    let mut host = Host::new(name, spec);
    let label = (
        names::ORGANIZATION_LABEL.to_owned(),
        organization.to_owned(),
    );
    host.metadata.labels = Some(BTreeMap::from([label]));
    let made_by = token.metadata.name.clone().unwrap_or_default();
    let annotation = (TOKEN_ANNOTATION.to_owned(), made_by);
    host.metadata.annotations = Some(BTreeMap::from([annotation]));
    match hosts.create(&PostParams::default(), &host).await {
        Ok(host) => Ok(host),
        Err(kube::Error::Api(answer)) if answer.code == 409 => {
            // Somebody took the name in the meantime, or this very join did on another try.
            let existing = hosts.get(name).await.map_err(api("read the host"))?;
            decide::target(token, name, Use::Repeat, Some(&existing))?;
            Ok(existing)
        }
        Err(error) => Err(api("create the host")(error)),
    }
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
