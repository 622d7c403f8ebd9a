//! Enrolment: a token and a key made here become an identity.
//!
//! Order: TLS with the pinned hub ([`crate::pin`]) -> only then the token -> the answer is
//! checked -> stored. Whatever is interrupted is repeated with the same key.

use std::time::Duration;

use bytes::Bytes;
use farplane_tunnel::dial::{Dial, DialError};
use farplane_types::HostFacts;
use farplane_types::token::Token;
use farplane_types::wire::{IssuedCertificate, JoinRequest, WireError};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{CONTENT_TYPE, DATE, HOST, HeaderMap};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use rcgen::KeyPair;
use rustls::{CertificateError, Error as TlsError, OtherError};
use rustls_pki_types::ServerName;
use tokio::time::timeout;

use crate::address;
use crate::causes;
use crate::config::Config;
use crate::identity::{self, Identity, IdentityError};
use crate::pin::{self, PinError};

/// Longest time to reach the hub.
const DIAL_DEADLINE: Duration = Duration::from_secs(15);
/// Longest time for the answer; the hub writes objects meanwhile.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Longest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// Statuses by which proxies ask for a user and password: the one for that, and the one with
/// which tinyproxy answers wrong ones.
pub(crate) const PROXY_CREDENTIALS: [u16; 2] = [407, 401];
/// Clocks that differ by less are not worth a word.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(2);

/// Why the machine is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// Key or files.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The name to verify is none.
    #[error("{name:?} cannot be verified as the hub's name; set serverName in the configuration")]
    ServerName {
        /// The name.
        name: String,
    },
    /// The proxy's address.
    #[error("the proxy cannot be used: {0}")]
    Proxy(#[from] farplane_tunnel::proxy::ProxyError),
    /// TLS cannot be set up at all.
    #[error("failed to set up TLS")]
    Tls {
        /// What rustls says.
        source: TlsError,
    },
    /// Nobody there, or not in time.
    #[error(
        "failed to reach the hub at {hub}: {}; check the address, and that this machine may \
         connect to it (firewall, proxy)",
        causes(source)
    )]
    Unreachable {
        /// The hub's address.
        hub: String,
        /// Which step.
        source: DialError,
    },
    /// The proxy does not let us through.
    #[error("proxy {proxy} refused to connect to {hub} with status {status}; {}", proxy_advice(*status))]
    ProxyRefused {
        /// Address of the proxy.
        proxy: String,
        /// The hub's address.
        hub: String,
        /// HTTP status.
        status: u16,
    },
    /// Somebody else answered.
    #[error(
        "what answers at {hub} is not the hub that made this token: {reason}; the token was not \
         sent; compare the address with that of `farplane host join-command`, and look for a \
         device that opens TLS connections on the way"
    )]
    WrongHub {
        /// The hub's address.
        hub: String,
        /// What speaks against it.
        reason: String,
    },
    /// A certificate that is not valid by this clock.
    #[error(
        "the clocks of this machine and of the hub differ by {} or more: it is {here} here, and \
         the hub's certificate {words} {there}; set this machine's clock (`timedatectl`)",
        human(*here, *there)
    )]
    Clock {
        /// Time here.
        here: Timestamp,
        /// `is not valid before` or `ended at`.
        words: &'static str,
        /// The bound that was broken.
        there: Timestamp,
    },
    /// The hub broke off.
    #[error("the hub at {hub} broke off: {reason}; try again")]
    Broken {
        /// The hub's address.
        hub: String,
        /// What happened.
        reason: String,
    },
    /// The hub said no.
    #[error("the hub refused: {reason}{clock}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The hub's words.
        reason: String,
        /// A sentence on the clocks, when they differ.
        clock: String,
    },
}

impl EnrolError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status >= 500 || *status == 429 || *status == 408,
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Clock { .. } => true,
            // A wrong password tried again and again locks accounts.
            Self::ProxyRefused { status, .. } => !PROXY_CREDENTIALS.contains(status),
            Self::Identity(IdentityError::Write { .. }) => true,
            _ => false,
        }
    }
}

/// What to do about a proxy's refusal.
fn proxy_advice(status: u16) -> &'static str {
    match status {
        status if PROXY_CREDENTIALS.contains(&status) => {
            "it wants a user and password, or others than these: pass --proxy \
             http://user:password@host:port, special characters as in addresses (%40 for @)"
        }
        500.. => "it cannot reach the hub: check the hub's address, and the proxy's own network",
        _ => "ask its owner to allow CONNECT to this address",
    }
}

fn human(one: Timestamp, other: Timestamp) -> String {
    let seconds = one.as_second().abs_diff(other.as_second());
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Asks the hub for a certificate and stores the identity.
///
/// # Errors
/// When the hub cannot be reached, is not the right one, or refuses.
pub async fn enrol(
    config: &Config,
    token: &Token,
    facts: HostFacts,
) -> Result<Identity, EnrolError> {
    let name = config.host_name().map_err(|error| EnrolError::Refused {
        status: 400,
        reason: error.to_string(),
        clock: String::new(),
    })?;
    let agent_dir = config.agent_dir();
    let key = identity::pending_key(&agent_dir)?;
    let request = JoinRequest {
        token: token.to_string(),
        host: name,
        csr: identity::request(&key)?,
        facts,
    };
    let issued = ask(config, token, &request).await?;
    let identity = accept(issued, &key)?;
    identity.store(&agent_dir)?;
    Ok(identity)
}

/// Makes an identity of the hub's answer, once it is proven usable.
///
/// # Errors
/// When the certificate is not that of the key.
pub fn accept(issued: IssuedCertificate, key: &KeyPair) -> Result<Identity, IdentityError> {
    let identity = Identity {
        key: key.serialize_pem(),
        certificate: issued.certificate,
        hub_ca: issued.hub_ca,
        identity: issued.identity,
        server_name: issued.server_name,
    };
    identity.tls(farplane_tunnel::ALPN)?;
    identity.times()?;
    Ok(identity)
}

fn server_name(name: &str) -> Result<ServerName<'static>, EnrolError> {
    ServerName::try_from(name.to_owned()).map_err(|_| EnrolError::ServerName {
        name: name.to_owned(),
    })
}

async fn ask(
    config: &Config,
    token: &Token,
    request: &JoinRequest,
) -> Result<IssuedCertificate, EnrolError> {
    let hub = config.hub.to_string();
    let known = config.server_name.as_deref().map(server_name).transpose()?;
    let sent = match &known {
        Some(name) => name.clone(),
        None => server_name(&config.hub.host)?,
    };
    let tls = pin::tls(&token.ca_sha256, known).map_err(|source| EnrolError::Tls { source })?;
    let dial = Dial {
        host: config.hub.host.clone(),
        port: config.hub.port,
        proxy: address::proxy(&config.hub, config.proxy.as_deref())?,
        tls,
        server_name: sent,
        deadline: DIAL_DEADLINE,
    };
    let stream = dial.run().await.map_err(|error| explain(&hub, error))?;
    let broken = |reason: String| EnrolError::Broken {
        hub: hub.clone(),
        reason,
    };
    let exchange = async {
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let driver = tokio::spawn(connection);
        let body = serde_json::to_vec(request).unwrap_or_default();
        let mut message = Request::new(Full::new(Bytes::from(body)));
        *message.method_mut() = Method::POST;
        *message.uri_mut() = hyper::Uri::from_static("/v1/join");
        let host = config.hub.to_string().parse();
        message.headers_mut().insert(
            HOST,
            host.unwrap_or(hyper::header::HeaderValue::from_static("hub")),
        );
        let kind = hyper::header::HeaderValue::from_static("application/json");
        message.headers_mut().insert(CONTENT_TYPE, kind);
        let (head, body) = sender.send_request(message).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        drop(sender);
        // It ends with the answer; what it says then is of no use any more.
        driver.abort();
        Ok::<_, hyper::Error>((head, body))
    };
    let (head, body) = timeout(ANSWER_DEADLINE, exchange)
        .await
        .map_err(|_| broken(format!("no answer within {} s", ANSWER_DEADLINE.as_secs())))?
        .map_err(|error| broken(causes(&error)))?;
    let body = body.map_err(|error| broken(error.to_string()))?.to_bytes();
    let clock = skew(&head.headers, Timestamp::now());
    if head.status != StatusCode::OK {
        return Err(refusal(head.status, &body, clock));
    }
    if !clock.is_empty() {
        tracing::warn!("{}", clock.trim_start_matches([';', ' ']));
    }
    serde_json::from_slice(&body).map_err(|error| broken(format!("its answer is odd: {error}")))
}

fn refusal(status: StatusCode, body: &[u8], clock: String) -> EnrolError {
    let reason = serde_json::from_slice::<WireError>(body).map_or_else(
        |_| format!("status {status} without a reason"),
        |it| it.error,
    );
    EnrolError::Refused {
        status: status.as_u16(),
        reason,
        clock,
    }
}

/// A sentence when the hub's clock differs from this one's.
fn skew(headers: &HeaderMap, here: Timestamp) -> String {
    let date = headers.get(DATE).and_then(|value| value.to_str().ok());
    let there = date.and_then(|text| jiff::fmt::rfc2822::parse(text).ok());
    let Some(there) = there.map(|it| it.timestamp()) else {
        return String::new();
    };
    if here.duration_since(there).abs() <= CLOCK_TOLERANCE {
        return String::new();
    }
    format!(
        "; the clocks of this machine and of the hub differ by {}: set this machine's clock",
        human(here, there)
    )
}

fn explain(hub: &str, error: DialError) -> EnrolError {
    if let DialError::ProxyRefused { proxy, status, .. } = error {
        return EnrolError::ProxyRefused {
            proxy,
            hub: hub.to_owned(),
            status,
        };
    }
    let tls = match &error {
        DialError::Tls { source, .. } => source.get_ref(),
        _ => None,
    };
    let Some(tls) = tls.and_then(|inner| inner.downcast_ref::<TlsError>()) else {
        return EnrolError::Unreachable {
            hub: hub.to_owned(),
            source: error,
        };
    };
    let wrong = |reason: String| EnrolError::WrongHub {
        hub: hub.to_owned(),
        reason,
    };
    let at = |time: rustls_pki_types::UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
    };
    match tls {
        TlsError::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => {
            EnrolError::Clock {
                here: at(*time),
                words: "is not valid before",
                there: at(*not_before),
            }
        }
        TlsError::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => {
            EnrolError::Clock {
                here: at(*time),
                words: "ended at",
                there: at(*not_after),
            }
        }
        TlsError::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            let pin = inner.downcast_ref::<PinError>();
            wrong(pin.map_or_else(|| tls.to_string(), ToString::to_string))
        }
        TlsError::InvalidCertificate(_) => wrong(tls.to_string()),
        _ => EnrolError::Unreachable {
            hub: hub.to_owned(),
            source: error,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn dated(date: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(DATE, HeaderValue::from_static(date))])
    }

    #[test]
    fn clocks_are_compared_by_the_answers_date() {
        let here: Timestamp = "2026-11-25T15:00:00Z".parse().unwrap();
        assert_eq!(skew(&dated("Wed, 25 Nov 2026 15:01:30 GMT"), here), "");
        let late = skew(&dated("Wed, 25 Nov 2026 14:50:00 GMT"), here);
        assert!(late.contains("differ by 10 min"), "{late}");
        assert_eq!(skew(&dated("yesterday"), here), "");
        assert_eq!(skew(&HeaderMap::new(), here), "");
    }

    #[test]
    fn the_hubs_own_words_are_passed_on() {
        let error = refusal(
            StatusCode::FORBIDDEN,
            br#"{"error":"this token has expired"}"#,
            String::new(),
        );
        assert_eq!(error.to_string(), "the hub refused: this token has expired");
        assert!(!error.is_retryable());
        let odd = refusal(StatusCode::BAD_GATEWAY, b"<html>", String::new());
        assert!(odd.to_string().contains("502"));
        assert!(odd.is_retryable());
    }

    #[test]
    fn a_proxys_refusal_says_what_to_do_and_passwords_are_not_tried_twice() {
        let refused = |status| {
            let proxy = "proxy.test:3128".to_owned();
            let target = "hub.test:8443".to_owned();
            explain(
                "hub.test:8443",
                DialError::ProxyRefused {
                    proxy,
                    target,
                    status,
                },
            )
        };
        for (status, words, again) in [
            (407, "user and password", false),
            (401, "user and password", false),
            (403, "allow CONNECT", true),
            (502, "cannot reach the hub", true),
        ] {
            let error = refused(status);
            assert!(error.to_string().contains(words), "{error}");
            assert!(error.to_string().contains("proxy.test:3128"), "{error}");
            assert_eq!(error.is_retryable(), again, "{status}");
        }
    }

    #[test]
    fn a_clock_that_is_behind_is_named_with_the_difference() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let error = EnrolError::Clock {
            here: at(1000),
            words: "is not valid before",
            there: at(1000 + 600),
        };
        assert!(
            error.to_string().contains("differ by 10 min or more"),
            "{error}"
        );
    }
}
