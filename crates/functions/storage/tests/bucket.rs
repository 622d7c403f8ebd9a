//! The same archives in a bucket, at a real S3 server.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use farplane_functions_storage::prune::Pruner;
use farplane_functions_storage::settings::Prune;
use farplane_functions_storage::store::Store;
use farplane_functions_storage::{Backend, S3, Settings};
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use support::{SECRET, Signer, Storage, nothing_lives};
use tempfile::TempDir;
use tokio::net::TcpListener;

const A: Signer<'_> = Signer::Tenant("team-a");
const B: Signer<'_> = Signer::Tenant("team-b");
const BUCKET: &str = "archives";

/// An S3 server with one bucket below a directory.
async fn s3_server(directory: &Path) -> SocketAddr {
    std::fs::create_dir(directory.join(BUCKET)).unwrap();
    let mut builder = S3ServiceBuilder::new(FileSystem::new(directory).unwrap());
    builder.set_auth(SimpleAuth::from_single("name", "key"));
    let service = builder.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service.clone();
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

fn bucket(server: SocketAddr, key: &str) -> S3 {
    S3::read(|name| {
        let value = match name {
            "STORAGE_S3_ENDPOINT" => format!("http://{server}"),
            "STORAGE_S3_BUCKET_NAME" => BUCKET.to_owned(),
            "STORAGE_S3_SUB_DIR" => "sub/dir/".to_owned(),
            "STORAGE_S3_ACCESS_KEY_ID" => "name".to_owned(),
            "STORAGE_S3_SECRET_ACCESS_KEY" => key.to_owned(),
            _ => return None,
        };
        Some(value)
    })
    .unwrap()
}

struct World {
    directory: TempDir,
    backend: Backend,
    storage: Storage,
}

impl World {
    async fn start(key: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("s3")).unwrap();
        let server = s3_server(&at("s3")).await;
        std::fs::create_dir(at("spool")).unwrap();
        std::fs::write(at("spool/of-somebody-else"), "stays").unwrap();
        let backend = Backend::S3 {
            bucket: bucket(server, key),
            spool: at("spool"),
        };
        let mut settings = Settings::local(at("unused"), vec![SECRET.to_vec()]);
        settings.backend = backend.clone();
        let storage = Storage::start(settings).await;
        Self {
            directory,
            backend,
            storage,
        }
    }

    fn spooled(&self) -> usize {
        let spool = self.directory.path().join("spool/.spool");
        spool.read_dir().unwrap().count()
    }
}

#[tokio::test]
async fn a_bucket_keeps_archives_of_any_size_apart() {
    let world = World::start("key").await;
    let storage = &world.storage;
    // Three parts, the last one short.
    let large: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let of_a = storage.upload(A, &large).await.id();
    let of_b = storage.upload(B, b"small").await.id();
    let empty = storage.upload(B, b"").await.id();
    assert!(
        of_a.starts_with("/fission/fission-functions/_tenant_/team-a/"),
        "{of_a}"
    );

    let read = storage.ask(A, Method::GET, &of_a).await;
    assert_eq!(read.status, StatusCode::OK);
    assert!(read.body == large, "{} bytes came", read.body.len());
    assert_eq!(storage.ask(B, Method::GET, &of_b).await.text(), "small");
    assert_eq!(storage.ask(B, Method::GET, &empty).await.text(), "");
    let looked = storage.ask(A, Method::HEAD, &of_a).await;
    assert_eq!(looked.headers["x-fission-storagetype"], "s3");
    assert_eq!(looked.headers["x-fission-bucket"], BUCKET);
    for method in [Method::GET, Method::HEAD, Method::DELETE] {
        let other = storage.ask(A, method, &of_b).await;
        assert_eq!(other.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(storage.list(A).await, std::slice::from_ref(&of_a));
    assert_eq!(storage.list(Signer::Master).await.len(), 3);

    let deleted = storage.ask(A, Method::DELETE, &of_a).await;
    assert_eq!(deleted.status, StatusCode::OK);
    assert!(
        world
            .directory
            .path()
            .join("spool/of-somebody-else")
            .exists()
    );
    let again = storage.ask(A, Method::DELETE, &of_a).await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
    assert_eq!(world.spooled(), 0);
}

#[tokio::test]
async fn unused_archives_of_a_bucket_go() {
    let world = World::start("key").await;
    world.storage.upload(A, b"unused").await.id();
    let store = Arc::new(Store::open(&world.backend).await.unwrap());
    let old = Prune {
        interval: Duration::from_secs(3600),
        grace: Duration::ZERO,
    };
    let mut pruner = Pruner::new(store, nothing_lives(), old);
    // A bucket's times are of whole seconds.
    let seen = async {
        while pruner.look().await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), seen)
        .await
        .unwrap();
    assert!(world.storage.list(Signer::Master).await.is_empty());
}

#[tokio::test]
async fn a_bucket_that_says_no_is_an_error_and_leaves_nothing() {
    let world = World::start("wrong").await;
    let answer = world.storage.upload(A, b"x").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{}", answer.text());
    assert!(
        answer.text().contains("failed to store"),
        "{}",
        answer.text()
    );
    assert_eq!(world.spooled(), 0);
    let missing = farplane_functions_storage::id::ArchiveId::new(Some("team-a")).to_string();
    let answer = world.storage.ask(A, Method::GET, &missing).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
}
