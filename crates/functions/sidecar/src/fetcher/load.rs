//! Tells the runtime to load what is in place.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use farplane_functions_types::wire::LoadRequest;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::Error;

/// Largest answer that is passed on.
const ANSWER_LIMIT: usize = 64 * 1024;
/// Longest pause between attempts to connect to a runtime that does not listen yet.
const PAUSE_LIMIT: Duration = Duration::from_millis(20);

/// An open connection to the runtime.
pub type Connection = SendRequest<Full<Bytes>>;

/// Connects to the runtime, as soon as it listens.
///
/// # Errors
/// When it does not listen in time.
pub async fn connect(address: SocketAddr, deadline: Duration) -> Result<Connection, Error> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(1);
    loop {
        let reason = match timeout(deadline, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => match open(stream).await {
                Ok(connection) => return Ok(connection),
                Err(error) => error.to_string(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() + pause > end {
            return Err(Error::NotListening {
                address,
                waited: deadline,
                reason,
            });
        }
        // Nothing tells when a socket of another container begins to listen.
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LIMIT);
    }
}

async fn open(stream: TcpStream) -> hyper::Result<Connection> {
    _ = stream.set_nodelay(true);
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the connection to the runtime ended");
        }
    });
    Ok(sender)
}

/// Lets the runtime load the code; ends when it has it.
///
/// # Errors
/// With the runtime's own answer when that is not a success.
pub async fn load(
    mut connection: Connection,
    address: SocketAddr,
    load: &LoadRequest,
    deadline: Duration,
) -> Result<(), Error> {
    let request = request(address, load).map_err(|error| Error::Ended(error.to_string()))?;
    let answer = async {
        let response = connection.send_request(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok((status, Bytes::new()));
        }
        // A longer or broken answer does not take the status from the caller.
        let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect();
        let body = body.await.map(|body| body.to_bytes()).unwrap_or_default();
        Ok::<_, hyper::Error>((status, body))
    };
    match timeout(deadline, answer).await {
        Err(_) => Err(Error::LoadTimeout(deadline)),
        Ok(Err(error)) => Err(Error::Ended(error.to_string())),
        Ok(Ok((status, _))) if status.is_success() => Ok(()),
        Ok(Ok((status, body))) => Err(Error::Refused {
            status: as_failure(status),
            body,
        }),
    }
}

/// A runtime that redirects has not loaded anything; no caller shall take that for an answer.
fn as_failure(status: StatusCode) -> StatusCode {
    if status.is_client_error() || status.is_server_error() {
        return status;
    }
    StatusCode::BAD_GATEWAY
}

fn request(
    address: SocketAddr,
    load: &LoadRequest,
) -> Result<Request<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let builder = Request::post(if load.env_version >= 2 {
        "/v2/specialize"
    } else {
        "/specialize"
    })
    .header(HOST, address.to_string());
    Ok(if load.env_version >= 2 {
        let body = serde_json::to_vec(load)?;
        builder
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body.into()))?
    } else {
        builder
            .header(CONTENT_TYPE, "text/plain")
            .body(Full::default())?
    })
}
