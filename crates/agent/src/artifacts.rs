//! Artifacts of the hub, fetched through the bulk session.
//!
//! HTTP/1.1 over a `repo` stream, one request per stream. Everything runs on the bulk runtime,
//! so that decryption of a large archive does not hold up urgent streams.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farplane_tunnel::{Class, OpenHeader};
use farplane_types::wire::service;
use futures::future::BoxFuture;
use futures::stream;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue, RANGE};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::io::StreamReader;

use crate::sessions::Tunnels;
use crate::units::ArtifactSource;

/// Longest wait for a session, then for the head of the answer, then for more of the body.
const PATIENCE: Duration = Duration::from_secs(30);

/// The hub as a source of artifacts.
pub struct Repository {
    tunnels: Arc<Tunnels>,
    bulk: Handle,
}

impl Repository {
    /// Fetches over these sessions, on this runtime.
    pub fn new(tunnels: Arc<Tunnels>, bulk: Handle) -> Self {
        Self { tunnels, bulk }
    }
}

impl ArtifactSource for Repository {
    fn fetch(
        &self,
        sha256: &str,
        offset: u64,
    ) -> BoxFuture<'_, io::Result<Pin<Box<dyn AsyncRead + Send>>>> {
        let fetching = fetch(Arc::clone(&self.tunnels), sha256.to_owned(), offset);
        let fetching = self.bulk.spawn(fetching);
        Box::pin(async move {
            let body = fetching.await.map_err(io::Error::other)??;
            Ok(reader(body))
        })
    }
}

async fn fetch(tunnels: Arc<Tunnels>, sha256: String, offset: u64) -> io::Result<Incoming> {
    let header = OpenHeader::new(Class::Bulk, service::REPO);
    let stream = tunnels
        .open(header, PATIENCE)
        .await
        .map_err(|error| io::Error::new(io::ErrorKind::NotConnected, error))?;
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(64 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // Ends with the body; a failure shows there.
        tokio::spawn(connection);
        let request = request(&sha256, offset)?;
        sender.send_request(request).await.map_err(io::Error::other)
    };
    let answer = timeout(PATIENCE, exchange)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    match answer.status() {
        StatusCode::PARTIAL_CONTENT => Ok(answer.into_body()),
        StatusCode::OK if offset == 0 => Ok(answer.into_body()),
        StatusCode::NOT_FOUND => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("the hub has no artifact {sha256}; its artifact server is of another version"),
        )),
        status => Err(io::Error::other(format!(
            "the hub's artifact server answered {status} for {sha256} from byte {offset}"
        ))),
    }
}

fn request(sha256: &str, offset: u64) -> io::Result<Request<Empty<Bytes>>> {
    let uri: Uri = format!("/artifacts/{sha256}")
        .parse()
        .map_err(io::Error::other)?;
    let range: HeaderValue = format!("bytes={offset}-")
        .parse()
        .map_err(io::Error::other)?;
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static("artifacts"));
    headers.insert(RANGE, range);
    Ok(request)
}

fn reader(body: Incoming) -> Pin<Box<dyn AsyncRead + Send>> {
    let chunks = stream::unfold(Some(body), |body| async move {
        let mut body = body?;
        loop {
            let frame = timeout(PATIENCE, body.frame()).await;
            match frame {
                Ok(None) => return None,
                Ok(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Some((Ok(bytes), Some(body)));
                    }
                }
                Ok(Some(Err(error))) => return Some((Err(io::Error::other(error)), None)),
                Err(_) => return Some((Err(io::ErrorKind::TimedOut.into()), None)),
            }
        }
    });
    Box::pin(StreamReader::new(Box::pin(chunks)))
}
