//! The `renew` stream: one request line, one certificate line. The new certificate names
//! whom the old one names; the request's own names count for nothing.

use farplane_tunnel::TunnelStream;
use farplane_tunnel::lines::{self, LineError, LineReader};
use farplane_types::identity::Identity;
use farplane_types::names;
use farplane_types::wire::{IssuedCertificate, RenewRequest, WireError};
use farplane_types::{Host, HostStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use time::OffsetDateTime;
use tokio::io::{AsyncWriteExt as _, BufReader};

use crate::gateway::Gateway;
use crate::issue::{self, IssueError};
use crate::route::HostIdentity;
use crate::status;

/// Longest request line, in bytes.
const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// Why no certificate was renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// No request came, or no readable one.
    #[error("failed to read the renewal request")]
    Request {
        /// What is wrong with it.
        source: LineError,
    },
    /// The stream ended before a request.
    #[error("no renewal request")]
    Empty,
    /// The gateway has no CA yet.
    #[error("certificates are not loaded yet; try again")]
    NoCertificates,
    /// The request was not signed.
    #[error("failed to sign: {source}")]
    Sign {
        /// Why.
        source: IssueError,
    },
}

/// Answers one renewal.
///
/// # Errors
/// When the stream breaks; what is wrong with a request is answered on the stream.
pub async fn serve(
    gateway: &Gateway,
    host: &HostIdentity,
    stream: TunnelStream,
) -> Result<(), LineError> {
    let (input, mut output) = tokio::io::split(stream);
    let mut lines = LineReader::new(BufReader::new(input), MAX_REQUEST_BYTES);
    let issued = match lines.next::<RenewRequest>().await {
        Ok(Some(request)) => sign(gateway, host, &request.csr),
        Ok(None) => Err(RenewError::Empty),
        Err(source) => Err(RenewError::Request { source }),
    };
    match issued {
        Ok((issued, not_after)) => {
            gateway.metrics.count("renew", "ok");
            lines::send(&mut output, &issued).await?;
            note(gateway, host, not_after).await;
        }
        Err(error) => {
            gateway.metrics.count("renew", "refused");
            tracing::warn!(host = host.host, organization = host.organization, %error, "renewal refused");
            let answer = WireError {
                error: error.to_string(),
            };
            lines::send(&mut output, &answer).await?;
        }
    }
    output
        .shutdown()
        .await
        .map_err(|source| LineError::Stream { source })
}

fn sign(
    gateway: &Gateway,
    host: &HostIdentity,
    csr: &str,
) -> Result<(IssuedCertificate, OffsetDateTime), RenewError> {
    let material = gateway.material().ok_or(RenewError::NoCertificates)?;
    let identity = Identity::Host {
        organization: host.organization.clone(),
        endpoint: host.endpoint.clone(),
        host: host.host.clone(),
        uid: host.uid.clone(),
    };
    let ca = (material.host_ca.as_str(), material.host_ca_key.as_str());
    let issued = issue::Request::parse(csr)
        .and_then(|request| issue::sign(&request, &identity, ca, OffsetDateTime::now_utc()))
        .map_err(|source| RenewError::Sign { source })?;
    let answer = IssuedCertificate {
        certificate: issued.certificate,
        hub_ca: material.hub_ca.clone(),
        identity: identity.to_string(),
        server_name: names::gateway_server_name(&gateway.settings.hub_domain),
    };
    Ok((answer, issued.not_after))
}

/// Writes the new end of validity; the certificate is good without it.
async fn note(gateway: &Gateway, host: &HostIdentity, not_after: OffsetDateTime) {
    let namespace = names::organization_namespace(&host.organization);
    let api: Api<Host> = Api::namespaced(gateway.client.clone(), &namespace);
    let previous: HostStatus = match api.get_opt(&host.host).await {
        Ok(object) => object.and_then(|it| it.status).unwrap_or_default(),
        Err(error) => {
            tracing::warn!(host = host.host, %error, "end of validity not written");
            return;
        }
    };
    let body = status::enrolled(
        &previous.conditions,
        to_time(not_after),
        Time(Timestamp::now()),
    );
    let manager = status::ENROLMENT_MANAGER;
    if let Err(error) = status::apply(&api, &host.host, &host.uid, manager, body).await {
        tracing::warn!(host = host.host, %error, "end of validity not written");
    }
}

/// The same moment in the API's type, whole seconds.
pub fn to_time(at: OffsetDateTime) -> Time {
    Time(Timestamp::from_second(at.unix_timestamp()).unwrap_or(Timestamp::UNIX_EPOCH))
}
