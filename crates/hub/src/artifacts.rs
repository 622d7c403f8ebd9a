//! Serves the files that hosts need: `GET /index.json` and `GET /artifacts/<sha256>`.
//!
//! A file is found by its digest in the index, never by a path from outside. `Range` with
//! one range is honoured, so that an interrupted download goes on where it ended.

use std::collections::HashMap;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::get;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use crate::arguments::ArtifactOptions;

/// Read and sent at a time.
const CHUNK_BYTES: usize = 128 * 1024;

#[derive(Deserialize)]
struct Entry {
    file: PathBuf,
    sha256: String,
}

struct Store {
    index: Vec<u8>,
    files: HashMap<String, PathBuf>,
}

impl Store {
    fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("index.json");
        let index = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let entries: Vec<Entry> =
            serde_json::from_slice(&index).with_context(|| format!("parse {}", path.display()))?;
        let mut files = HashMap::new();
        for Entry { file, sha256 } in entries {
            let Some(name) = file.file_name().filter(|name| file == Path::new(name)) else {
                bail!(
                    "{} lists {}, which is no plain file name",
                    path.display(),
                    file.display()
                );
            };
            files.insert(sha256, folder.join(name));
        }
        Ok(Self { index, files })
    }
}

/// Serves until asked to stop.
pub async fn serve(options: &ArtifactOptions, shutdown: CancellationToken) -> Result<()> {
    let store = Arc::new(Store::open(&options.dir)?);
    let listener = tokio::net::TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("listen on {}", options.listen))?;
    tracing::info!(address = %options.listen, files = store.files.len(), "serving artifacts");
    axum::serve(listener, router(store))
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .context("serve artifacts")
}

fn router(store: Arc<Store>) -> Router {
    Router::new()
        .route("/index.json", get(index))
        .route("/artifacts/{sha256}", get(artifact))
        .with_state(store)
}

async fn index(State(store): State<Arc<Store>>) -> Response<Body> {
    let body = Body::from(store.index.clone());
    response(
        StatusCode::OK,
        &[(CONTENT_TYPE, "application/json".to_owned())],
        body,
    )
}

async fn artifact(
    State(store): State<Arc<Store>>,
    UrlPath(sha256): UrlPath<String>,
    headers: HeaderMap,
) -> Response<Body> {
    let Some(path) = store.files.get(&sha256) else {
        return plain(StatusCode::NOT_FOUND, "no such artifact");
    };
    match send(path, &sha256, &headers).await {
        Ok(response) => response,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "could not read an artifact");
            plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the artifact cannot be read",
            )
        }
    }
}

async fn send(path: &Path, sha256: &str, headers: &HeaderMap) -> std::io::Result<Response<Body>> {
    let mut file = tokio::fs::File::open(path).await?;
    let size = file.metadata().await?.len();
    let asked = headers.get(RANGE).and_then(|value| value.to_str().ok());
    let (status, first, length) = match range(asked, size) {
        Range::All => (StatusCode::OK, 0, size),
        Range::Part { first, length } => (StatusCode::PARTIAL_CONTENT, first, length),
        Range::Unsatisfiable => {
            let headers = [(CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok(response(
                StatusCode::RANGE_NOT_SATISFIABLE,
                &headers,
                Body::empty(),
            ));
        }
    };
    file.seek(SeekFrom::Start(first)).await?;
    let stream = ReaderStream::with_capacity(file.take(length), CHUNK_BYTES);
    let mut all = vec![
        (CONTENT_TYPE, "application/zstd".to_owned()),
        (CONTENT_LENGTH, length.to_string()),
        (ACCEPT_RANGES, "bytes".to_owned()),
        (ETAG, format!("\"{sha256}\"")),
    ];
    if status == StatusCode::PARTIAL_CONTENT {
        let last = first + length - 1;
        all.push((CONTENT_RANGE, format!("bytes {first}-{last}/{size}")));
    }
    Ok(response(status, &all, Body::from_stream(stream)))
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    All,
    Part { first: u64, length: u64 },
    Unsatisfiable,
}

/// Reads `bytes=a-b`, `bytes=a-` and `bytes=-n`. Anything else counts as not asked, as
/// the standard allows.
fn range(header: Option<&str>, size: u64) -> Range {
    let Some((first, last)) = header
        .and_then(|value| value.strip_prefix("bytes="))
        .filter(|value| !value.contains(','))
        .and_then(|value| value.split_once('-'))
    else {
        return Range::All;
    };
    let (first, last) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.min(size.saturating_sub(1))),
        (Ok(first), Err(_)) if last.is_empty() => (first, size.saturating_sub(1)),
        (Err(_), Ok(0)) if first.is_empty() => return Range::Unsatisfiable,
        (Err(_), Ok(count)) if first.is_empty() => {
            (size.saturating_sub(count), size.saturating_sub(1))
        }
        _ => return Range::All,
    };
    if first >= size {
        return Range::Unsatisfiable;
    }
    Range::Part {
        first,
        length: last - first + 1,
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    response(
        status,
        &[(CONTENT_TYPE, "text/plain".to_owned())],
        Body::from(text),
    )
}

fn response(
    status: StatusCode,
    headers: &[(axum::http::HeaderName, String)],
    body: Body,
) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name.clone(), value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    fn store() -> (tempfile::TempDir, Arc<Store>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.tar.zst"), b"0123456789").unwrap();
        std::fs::write(
            folder.path().join("index.json"),
            r#"[{"name":"a","version":"1","file":"a.tar.zst","sha256":"abc","size":10}]"#,
        )
        .unwrap();
        let store = Arc::new(Store::open(folder.path()).unwrap());
        (folder, store)
    }

    async fn fetch(store: &Arc<Store>, path: &str, range: Option<&str>) -> (StatusCode, String) {
        let mut request = Request::get(path);
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = router(store.clone()).oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn files_are_served_by_digest_only() {
        let (_folder, store) = store();
        assert_eq!(
            fetch(&store, "/artifacts/abc", None).await,
            (StatusCode::OK, "0123456789".into())
        );
        for path in [
            "/artifacts/a.tar.zst",
            "/artifacts/..%2Findex.json",
            "/a.tar.zst",
        ] {
            assert_eq!(
                fetch(&store, path, None).await.0,
                StatusCode::NOT_FOUND,
                "{path}"
            );
        }
    }

    #[tokio::test]
    async fn an_interrupted_download_goes_on() {
        let (_folder, store) = store();
        let part = fetch(&store, "/artifacts/abc", Some("bytes=4-")).await;
        assert_eq!(part, (StatusCode::PARTIAL_CONTENT, "456789".into()));
        let past = fetch(&store, "/artifacts/abc", Some("bytes=10-")).await;
        assert_eq!(past.0, StatusCode::RANGE_NOT_SATISFIABLE);
    }

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let part = |first, length| Range::Part { first, length };
        assert_eq!(range(Some("bytes=0-0"), 10), part(0, 1));
        assert_eq!(range(Some("bytes=2-99"), 10), part(2, 8));
        assert_eq!(range(Some("bytes=-3"), 10), part(7, 3));
        assert_eq!(range(Some("bytes=-99"), 10), part(0, 10));
        assert_eq!(range(Some("bytes=-0"), 10), Range::Unsatisfiable);
        assert_eq!(range(Some("bytes=0-"), 0), Range::Unsatisfiable);
        for odd in [
            "bytes=5-2",
            "bytes=0-1,3-4",
            "lines=1-2",
            "bytes=x-y",
            "bytes=-",
        ] {
            assert_eq!(range(Some(odd), 10), Range::All, "{odd}");
        }
    }

    #[test]
    fn an_index_cannot_name_files_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let index = r#"[{"file":"../secret","sha256":"abc"}]"#;
        std::fs::write(folder.path().join("index.json"), index).unwrap();
        assert!(Store::open(folder.path()).is_err());
    }
}
