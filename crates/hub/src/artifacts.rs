//! Serves the files that hosts need: `GET /index.json` and `GET /artifacts/<sha256>`.
//!
//! A file is found by its digest in the index, never by a path from outside. `Range` with
//! one range is honoured, so that an interrupted download goes on where it ended.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::get;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::arguments::ArtifactOptions;
use crate::download::{plain, response, send};
use crate::registry::{self, Registry};

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

/// Serves files and images, each at its own address, until asked to stop.
pub async fn serve(options: &ArtifactOptions, shutdown: CancellationToken) -> Result<()> {
    let store = Arc::new(Store::open(&options.dir)?);
    let images = Arc::new(Registry::open(&options.registry_dir)?);
    tracing::info!(address = %options.listen, files = store.files.len(), "serving artifacts");
    let files = listen(options.listen, router(store), &shutdown);
    let images = listen(options.registry_listen, registry::router(images), &shutdown);
    tokio::try_join!(files, images).map(drop)
}

async fn listen(address: SocketAddr, router: Router, shutdown: &CancellationToken) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}"))?;
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned())
        .await
        .with_context(|| format!("serve at {address}"))
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
    match send(path, &sha256, "application/zstd", &headers).await {
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;
    use axum::http::header::RANGE;
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
    fn an_index_cannot_name_files_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let index = r#"[{"file":"../secret","sha256":"abc"}]"#;
        std::fs::write(folder.path().join("index.json"), index).unwrap();
        assert!(Store::open(folder.path()).is_err());
    }
}
