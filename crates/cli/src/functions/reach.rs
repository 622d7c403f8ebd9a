//! Requests to parts of the platform, from wherever `kubectl` works.
//!
//! A connection goes through the API server's port-forward to a ready Pod of the part, and
//! every request is signed with the key of its service. As with Fission's command,
//! `$FISSION_ROUTER_INTERNAL_URL` and `$FISSION_STORAGESVC_URL` name a part that can be dialled
//! straight, and `$FISSION_INTERNAL_AUTH_SECRET` the secret.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use farplane_functions_types::auth::{self, Key, Service};
use farplane_functions_types::names::{self, label, port};
use futures::future::BoxFuture;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HeaderMap;
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use tokio::net::TcpStream;

use super::platform;
use crate::failure::Failure;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(20);
/// How long the words of a failure may take to arrive after it.
const WORDS: Duration = Duration::from_secs(2);

/// A part that can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// The router's internal listener.
    Router,
    /// Archives, in the name of a namespace: no other can read what is uploaded.
    Storage(&'a str),
}

impl Part<'_> {
    fn label(self) -> &'static str {
        match self {
            Self::Router => "fission-router",
            Self::Storage(_) => "fission-storage",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Router => port::ROUTER_INTERNAL,
            Self::Storage(_) => port::STORAGE,
        }
    }

    fn variable(self) -> &'static str {
        match self {
            Self::Router => "FISSION_ROUTER_INTERNAL_URL",
            Self::Storage(_) => "FISSION_STORAGESVC_URL",
        }
    }

    fn service(self) -> Service {
        match self {
            Self::Router => Service::RouterInternal,
            Self::Storage(_) => Service::Storage,
        }
    }

    fn namespace(&self) -> Option<&str> {
        match self {
            Self::Router => None,
            Self::Storage(namespace) => Some(namespace),
        }
    }

    fn host(self) -> &'static str {
        match self {
            Self::Router => "router-internal.fission",
            Self::Storage(_) => "storagesvc.fission",
        }
    }
}

/// What is asked.
pub(crate) struct Ask {
    /// Method.
    pub method: Method,
    /// Path and query, as they are sent.
    pub target: String,
    /// Headers beside those of the signature.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// Sends one request to a part and gives the head of the answer; its body comes as it comes.
pub(crate) async fn send(client: &Client, part: Part<'_>, ask: Ask) -> Result<Response<Incoming>> {
    let secret = match said("FISSION_INTERNAL_AUTH_SECRET") {
        Some(secret) => secret.into_bytes(),
        None => platform::secret(client).await?,
    };
    let key = Key::derived(&secret, part.service(), part.namespace());
    let request = request(part, ask, &key)?;
    let connecting = async {
        match said(part.variable()) {
            Some(url) => dial(part, &url).await,
            None => connect(client, part).await,
        }
    };
    let mut connection = tokio::time::timeout(CONNECT, connecting)
        .await
        .map_err(|_| {
            Failure::NotReady(format!(
                "the {} cannot be reached within {} s; `farplane functions status` tells how it is",
                part.label(),
                CONNECT.as_secs()
            ))
        })??;
    match connection.sender.send_request(request).await {
        Ok(answer) => Ok(answer),
        Err(error) => Err(connection.explain(part, error).await),
    }
}

/// A connection, and the words that its other end may have for its failure.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    words: Option<BoxFuture<'static, Option<String>>>,
}

impl Connection {
    /// What a node says of a connection that it could not make is more than that it ended.
    async fn explain(self, part: Part<'_>, error: hyper::Error) -> anyhow::Error {
        let words = match self.words {
            Some(words) => tokio::time::timeout(WORDS, words).await.ok().flatten(),
            None => None,
        };
        let asked = format!("ask the {}", part.label());
        match words {
            Some(words) => anyhow!("{}", words.trim()).context(asked),
            None => anyhow::Error::new(error).context(asked),
        }
    }
}

fn request(part: Part<'_>, ask: Ask, key: &Key) -> Result<Request<Full<Bytes>>> {
    let signed = key.sign(ask.method.as_str(), &ask.target, &ask.body, auth::now());
    let mut request = Request::builder()
        .method(ask.method)
        .uri(&ask.target)
        .header(hyper::header::HOST, part.host());
    for (name, value) in signed.into_iter().flat_map(auth::Signed::headers) {
        request = request.header(name, value);
    }
    if let Some(namespace) = part.namespace() {
        request = request.header(auth::NAMESPACE_HEADER, namespace);
    }
    let mut request = request
        .body(Full::new(ask.body))
        .map_err(|error| Failure::Usage(format!("{:?} is no path: {error}", ask.target)))?;
    request.headers_mut().extend(ask.headers);
    Ok(request)
}

/// A variable of the environment that says something.
fn said(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A connection to an address that was named.
async fn dial(part: Part<'_>, url: &str) -> Result<Connection> {
    let wrong = || {
        Failure::Usage(format!(
            "${} is {url:?}, which is no address such as http://127.0.0.1:8889",
            part.variable()
        ))
    };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let host = uri.host().ok_or_else(wrong)?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong().into());
    }
    let words = || format!("reach the {} at {url}", part.label());
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80)))
        .await
        .with_context(words)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .with_context(words)?;
    tokio::spawn(async move {
        // The answer tells what went wrong.
        let _ = connection.await;
    });
    Ok(Connection {
        sender,
        words: None,
    })
}

/// A connection to a ready Pod of the part.
async fn connect(client: &Client, part: Part<'_>) -> Result<Connection> {
    let api = Api::<Pod>::namespaced(client.clone(), names::NAMESPACE);
    let selector = format!("{}={}", label::APPLICATION, part.label());
    let pods = api
        .list(&ListParams::default().labels(&selector))
        .await
        .map_err(|error| platform::about("list", "Pod", "").explain(error))?;
    let pod = pods.items.iter().find(|pod| is_ready(pod)).ok_or_else(|| {
        Failure::NotReady(match pods.items.is_empty() {
            true => format!(
                "no Pod of the {} runs in this cluster: `farplane functions install` installs the platform",
                part.label()
            ),
            false => format!(
                "no Pod of the {} is ready; `farplane functions status` tells how it is",
                part.label()
            ),
        })
    })?;
    let name = pod.name_any();
    let words = || format!("reach port {} of Pod {name}", part.port());
    let mut forward = api
        .portforward(&name, &[part.port()])
        .await
        .with_context(words)?;
    let stream = forward
        .take_stream(part.port())
        .ok_or_else(|| anyhow!("no stream was opened"))
        .with_context(words)?;
    let error = forward.take_error(part.port());
    let said = error.map(|error| -> BoxFuture<'static, Option<String>> { Box::pin(error) });
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .with_context(words)?;
    tokio::spawn(async move {
        // Ends with the command; the answer tells what went wrong.
        let _ = connection.await;
        drop(forward);
    });
    Ok(Connection {
        sender,
        words: said,
    })
}

/// True when a Pod answers.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .flatten()
            .any(|one| one.type_ == "Ready" && one.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_signed_for_its_service_as_it_is_sent() {
        let key = Key::derived(b"master", Service::RouterInternal, None);
        let ask = Ask {
            method: Method::POST,
            target: "/fission-function/hello?a=b".into(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"body"),
        };
        let request = request(Part::Router, ask, &key).unwrap();
        let checked = key.verify(
            "POST",
            "/fission-function/hello?a=b",
            b"body",
            request.headers(),
            auth::now(),
        );
        assert_eq!(checked, Ok(()));
    }
}
