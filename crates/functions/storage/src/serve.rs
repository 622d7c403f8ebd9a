//! The requests.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use http_body_util::BodyExt as _;
use object_store::{GetResult, GetResultPayload};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::id::{ArchiveId, unescaped};
use crate::principal::{Claim, Principal};
use crate::receive::receive;
use crate::settings::Settings;
use crate::store::Store;

const TYPE_HEADER: HeaderName = HeaderName::from_static("x-fission-storagetype");
const BUCKET_HEADER: HeaderName = HeaderName::from_static("x-fission-bucket");
/// Requests with nothing to say have no more than this.
const SMALL_BODY: usize = 64 * 1024;
/// How much of a file is read at a time.
const PIECE_BYTES: usize = 256 * 1024;
/// How long requests may run on after the shutdown.
const GRACE: Duration = Duration::from_secs(20);

struct Storage {
    settings: Settings,
    store: Arc<Store>,
}

type Shared = State<Arc<Storage>>;

/// Serves until the shutdown, and a little longer what runs then.
pub async fn serve(
    settings: Settings,
    store: Arc<Store>,
    listener: TcpListener,
    shutdown: CancellationToken,
) {
    let storage = Arc::new(Storage { settings, store });
    let archives = get(read_or_list)
        .head(look)
        .post(upload)
        .delete(delete)
        .layer(DefaultBodyLimit::disable());
    let router = Router::new()
        .route("/v1/archive", archives)
        .route("/healthz", get(|| async { StatusCode::OK }))
        .route("/readyz", get(|| async { StatusCode::OK }))
        .with_state(storage);
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned())
        .into_future();
    tokio::select! {
        ended = served => {
            if let Err(error) = ended {
                tracing::error!(%error, "the server ended");
            }
        }
        () = async { shutdown.cancelled().await; tokio::time::sleep(GRACE).await; } => {
            tracing::warn!("requests were still running at the end of the grace period");
        }
    }
}

impl Storage {
    /// Who sent a request with a small body, or none.
    async fn principal(&self, head: &Parts, body: Body) -> Result<Principal, Error> {
        let claim = Claim::of(&head.headers, &self.settings.secrets)?;
        let body = http_body_util::Limited::new(body, SMALL_BODY)
            .collect()
            .await
            .map_err(|error| Error::Form(error.to_string()))?
            .to_bytes();
        prove(claim, head, &Sha256::digest(&body))
    }
}

fn prove(claim: Claim, head: &Parts, digest: &[u8]) -> Result<Principal, Error> {
    let target = head.uri.path_and_query();
    let target = target.map_or("/", axum::http::uri::PathAndQuery::as_str);
    claim.prove(head.method.as_str(), target, &head.headers, digest)
}

/// The value of `id`; none when there is no such parameter.
fn id_parameter(head: &Parts) -> Option<&str> {
    let mut pairs = head.uri.query().unwrap_or_default().split('&');
    pairs.find_map(|pair| pair.strip_prefix("id="))
}

/// The archive that is asked for. What is no id is answered as what is not there.
fn archive(head: &Parts) -> Result<ArchiveId, Error> {
    let id = id_parameter(head).ok_or(Error::NoId)?;
    unescaped(id)
        .and_then(|id| ArchiveId::parse(&id))
        .ok_or(Error::NotFound)
}

async fn read_or_list(State(storage): Shared, request: Request) -> Result<Response, Error> {
    let (head, body) = request.into_parts();
    let principal = storage.principal(&head, body).await?;
    if id_parameter(&head).is_none() {
        let entries = storage.store.list().await?;
        let owned = entries
            .into_iter()
            .filter(|entry| principal.owns(&entry.id));
        let ids: Vec<String> = owned.map(|entry| entry.id.to_string()).collect();
        return Ok(Json(ids).into_response());
    }
    let id = archive(&head)?;
    if !principal.may_read(&id) {
        return Err(Error::NotFound);
    }
    let found = storage.store.get(&id).await?;
    let headers = [
        (CONTENT_LENGTH, found.meta.size.to_string()),
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
    ];
    Ok((headers, pieces(found)).into_response())
}

/// The store's own stream reads a file in pieces of 8 KiB, each on another thread: most of the
/// time that a package of some MiB took.
fn pieces(found: GetResult) -> Body {
    match found.payload {
        GetResultPayload::File(file, _) => {
            let file = tokio::fs::File::from_std(file);
            Body::from_stream(ReaderStream::with_capacity(file, PIECE_BYTES))
        }
        GetResultPayload::Stream(stream) => Body::from_stream(stream),
    }
}

async fn look(State(storage): Shared, request: Request) -> Result<Response, Error> {
    let (head, body) = request.into_parts();
    let principal = storage.principal(&head, body).await?;
    let id = archive(&head)?;
    if !principal.may_read(&id) {
        return Err(Error::NotFound);
    }
    storage.store.size(&id).await?;
    Ok(match storage.store.bucket() {
        Some(bucket) => [(TYPE_HEADER, "s3"), (BUCKET_HEADER, bucket)].into_response(),
        None => [(TYPE_HEADER, "local")].into_response(),
    })
}

#[derive(Serialize)]
struct Stored {
    id: String,
}

async fn upload(State(storage): Shared, request: Request) -> Result<Response, Error> {
    let (head, body) = request.into_parts();
    let claim = Claim::of(&head.headers, &storage.settings.secrets)?;
    let (spool, limit) = (storage.store.spool(), storage.settings.limit);
    let spooled = receive(&head.headers, body, spool, limit).await?;
    let principal = prove(claim, &head, &spooled.digest)?;
    let id = ArchiveId::new(principal.namespace());
    let size = spooled.size;
    storage.store.put(&id, spooled).await?;
    tracing::info!(%id, size, "stored");
    let id = id.to_string();
    Ok(Json(Stored { id }).into_response())
}

async fn delete(State(storage): Shared, request: Request) -> Result<Response, Error> {
    let (head, body) = request.into_parts();
    let principal = storage.principal(&head, body).await?;
    let id = archive(&head)?;
    if !principal.owns(&id) {
        return Err(Error::NotFound);
    }
    storage.store.delete(&id).await?;
    tracing::info!(%id, "deleted");
    Ok(StatusCode::OK.into_response())
}
