//! Requests to fetchers. A connection to every generic Pod is kept open, so that a cold start
//! does not wait for one.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use farplane_functions_types::auth::{Key, Service, now};
use farplane_functions_types::names::port;
use farplane_functions_types::wire::{FETCHER_STATE, Failure, FetcherState};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::failed::Failed;
use crate::revision::Revision;
use crate::state::PodRef;

const SPECIALIZE: &str = "/specialize";
const READINESS: &str = "/readiness-healthz";
/// How long a connection within the cluster may take.
const CONNECT: Duration = Duration::from_secs(2);
/// A Pod whose node does not take what was sent to it is lost after this time; one that loads for
/// longer has a kernel that acknowledges.
const LOST: Duration = Duration::from_secs(5);
/// How often a node is asked whether it is there while an answer is waited for.
const ASK: Duration = Duration::from_secs(2);
/// How long a fetcher may take to say what it is.
const STATE: Duration = Duration::from_secs(5);
/// Largest answer that is read.
const ANSWER_LIMIT: usize = 128 * 1024;

type Connection = SendRequest<Full<Bytes>>;

/// Why a fetcher did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The Pod is at fault: another one may do better.
    #[error("the Pod does not answer: {0}")]
    Broken(String),
    /// It answered with a failure.
    #[error("{0}")]
    Refused(Failed),
}

/// Connections to fetchers.
pub(crate) struct Fetchers {
    secret: Vec<u8>,
    connections: Mutex<HashMap<String, Connection>>,
}

impl Fetchers {
    pub fn new(secret: Vec<u8>) -> Self {
        Self {
            secret,
            connections: Mutex::default(),
        }
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, HashMap<String, Connection>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a Pod's connection.
    pub fn forget(&self, uid: &str) {
        self.connections().remove(uid);
    }

    /// Asks a Pod what it is. The connection stays open for its specialisation.
    pub async fn state(&self, pod: &PodRef) -> Result<FetcherState, CallError> {
        let request = self.request(pod, Method::GET, FETCHER_STATE, Bytes::new(), None)?;
        let (status, body) = timeout(STATE, self.send(pod, request, true))
            .await
            .map_err(|_| CallError::Broken("no answer in time".to_owned()))??;
        if !status.is_success() {
            return Err(CallError::Refused(failure(status, &body)));
        }
        serde_json::from_slice(&body).map_err(|error| CallError::Broken(error.to_string()))
    }

    /// True when a fetcher that loads at its start has done so.
    pub async fn is_loaded(&self, pod: &PodRef) -> bool {
        let Ok(request) = self.request(pod, Method::GET, READINESS, Bytes::new(), None) else {
            return false;
        };
        let answer = timeout(STATE, self.send(pod, request, true)).await;
        let loaded = matches!(answer, Ok(Ok((status, _))) if status.is_success());
        if loaded {
            self.forget(&pod.uid);
        }
        loaded
    }

    /// Gives a Pod its code. The caller bounds the time.
    pub async fn specialize(&self, pod: &PodRef, revision: &Revision) -> Result<(), CallError> {
        let digest = Some(&revision.request_digest);
        let body = revision.request.clone();
        let request = self.request(pod, Method::POST, SPECIALIZE, body, digest)?;
        let (status, body) = self.send(pod, request, false).await?;
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::CONFLICT => Err(CallError::Broken(failure(status, &body).reason)),
            status => Err(CallError::Refused(failure(status, &body))),
        }
    }

    fn request(
        &self,
        pod: &PodRef,
        method: Method,
        path: &str,
        body: Bytes,
        digest: Option<&[u8; 32]>,
    ) -> Result<Request<Full<Bytes>>, CallError> {
        let key = Key::derived(&self.secret, Service::Fetcher, Some(&pod.namespace));
        let digest = digest
            .copied()
            .unwrap_or_else(|| Sha256::digest(&body).into());
        let mut request = Request::builder().method(&method).uri(path);
        if let Some(ip) = pod.ip {
            request = request.header(header::HOST, SocketAddr::new(ip, port::FETCHER).to_string());
        }
        if method == Method::POST {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(signed) = key.sign_digest(method.as_str(), path, &digest, now()) {
            for (name, value) in signed.headers() {
                request = request.header(name, value);
            }
        }
        request
            .body(Full::new(body))
            .map_err(|error| CallError::Broken(error.to_string()))
    }

    /// Sends over the connection that is open, or a new one.
    async fn send(
        &self,
        pod: &PodRef,
        request: Request<Full<Bytes>>,
        keep: bool,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let broken = |error: hyper::Error| CallError::Broken(error.to_string());
        let open = self.connections().remove(&pod.uid);
        let mut connection = match open {
            Some(open) if open.is_ready() => open,
            _ => connect(pod).await?,
        };
        let response = match connection.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                // The other side closed while nothing of this was sent.
                let Some(request) = error.take_message() else {
                    return Err(broken(error.into_error()));
                };
                connection = connect(pod).await?;
                connection.send_request(request).await.map_err(broken)?
            }
        };
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT);
        let body = body
            .collect()
            .await
            .map_err(|error| CallError::Broken(error.to_string()))?;
        if keep {
            self.connections().insert(pod.uid.clone(), connection);
        }
        Ok((status, body.to_bytes()))
    }
}

/// Opens a TCP connection within the cluster.
pub(crate) async fn dial(ip: IpAddr, port: u16) -> std::io::Result<TcpStream> {
    let address = SocketAddr::new(ip, port);
    match timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(stream) => stream,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

/// Sends at once, and notices a node that vanished.
fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(ASK).with_interval(ASK))?;
    socket.set_tcp_user_timeout(Some(LOST))
}

async fn connect(pod: &PodRef) -> Result<Connection, CallError> {
    let broken = |error: &dyn std::fmt::Display| CallError::Broken(error.to_string());
    let ip = pod.ip.ok_or_else(|| broken(&"it has no address"))?;
    let stream = dial(ip, port::FETCHER)
        .await
        .map_err(|error| broken(&error))?;
    tune(&stream).map_err(|error| broken(&error))?;
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a fetcher ended");
        }
    });
    Ok(sender)
}

/// A fetcher's failure; other fetchers answer in plain text.
fn failure(status: StatusCode, body: &[u8]) -> Failed {
    match serde_json::from_slice::<Failure>(body) {
        Ok(failure) if !failure.reason.is_empty() => {
            Failed::new(status, failure.component, failure.reason)
        }
        _ => {
            let text = String::from_utf8_lossy(body);
            let text = text.trim();
            let reason = if text.is_empty() {
                format!("the fetcher answered {status}")
            } else {
                text.to_owned()
            };
            Failed::new(status, "fetcher", reason)
        }
    }
}
