//! Archives by URL: from a real storage with its signatures, and from servers that misbehave.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

mod support;

use std::net::SocketAddr;

use farplane_functions_storage::Settings as StorageSettings;
use farplane_functions_types::auth::{Key, NAMESPACE_HEADER, SIGNATURE_HEADER, Service};
use farplane_functions_types::wire::{FetchRequest, UploadReply, UploadRequest};
use farplane_functions_types::{Archive, Checksum};
use hyper::StatusCode;
use support::Pod;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

const SECRET: &[u8] = b"master";

/// A Pod of namespace `demo` with its key of storage, and storage.
struct World {
    pod: Pod,
    storage: String,
    _stop: DropGuard,
    _archives: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let archives = tempfile::tempdir().unwrap();
        let settings = StorageSettings::local(archives.path().to_owned(), vec![SECRET.to_vec()]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let storage = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let serving = farplane_functions_storage::serve(settings, None, listener, stop.clone());
        tokio::spawn(async move { serving.await.unwrap() });
        let pod = Pod::generic(|settings| {
            settings.storage_key = Key::derived(SECRET, Service::Storage, Some("demo"));
            settings.download_limit = 1 << 20;
        })
        .await;
        Self {
            pod,
            storage,
            _stop: stop.drop_guard(),
            _archives: archives,
        }
    }

    async fn upload(&self, filename: &str, pack: bool) -> UploadReply {
        let request = UploadRequest {
            filename: filename.to_owned(),
            storage_url: self.storage.clone(),
            archive_package: pack,
        };
        let (status, body) = self.pod.post("/upload", &request).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn fetch(&self, filename: &str, url: &str, checksum: Checksum) -> (StatusCode, String) {
        let archive = Archive {
            kind: "url".to_owned(),
            url: url.to_owned(),
            checksum,
            ..Archive::default()
        };
        let request = FetchRequest {
            fetch_type: 1,
            filename: filename.to_owned(),
            storage_url: self.storage.clone(),
            archive: Some(archive),
            ..FetchRequest::default()
        };
        self.pod.post("/fetch", &request).await
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.pod.shared().join(path)
    }
}

/// A server that answers each request with these bytes and closes; it tells what it was sent.
async fn server(answer: Vec<u8>) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (answer, sender) = (answer.clone(), sender.clone());
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => request.push(byte),
                        Err(_) => return,
                    }
                }
                _ = sender.send(String::from_utf8_lossy(&request).into_owned());
                _ = stream.write_all(&answer).await;
            });
        }
    });
    (address, receiver)
}

fn http(head: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").into_bytes();
    answer.extend_from_slice(body);
    answer
}

#[tokio::test]
async fn a_package_goes_to_storage_and_comes_back() {
    let world = World::new().await;
    std::fs::create_dir(world.at("built")).unwrap();
    std::fs::write(world.at("built/main.py"), "code").unwrap();
    let packed = world.upload("built", true).await;
    assert!(packed.archive_download_url.contains("_tenant_%2Fdemo%2F"));
    let (url, checksum) = (&packed.archive_download_url, packed.checksum.clone());
    let fetched = world.fetch("again", url, checksum).await;
    assert_eq!(fetched.0, StatusCode::OK, "{}", fetched.1);
    assert_eq!(std::fs::read(world.at("again/main.py")).unwrap(), b"code");

    std::fs::write(world.at("one.jar"), vec![7; 500_000]).unwrap();
    let plain = world.upload("one.jar", false).await;
    let (url, checksum) = (&plain.archive_download_url, plain.checksum.clone());
    assert_eq!(world.fetch("jar", url, checksum).await.0, StatusCode::OK);
    assert_eq!(std::fs::read(world.at("jar")).unwrap(), vec![7; 500_000]);
    assert!(world.at("one.jar").exists(), "what a build made is its own");
    let left = world.pod.shared().read_dir().unwrap().count();
    assert_eq!(left, 4, "nothing of downloads and uploads stays");
}

#[tokio::test]
async fn archives_of_others_and_wrong_ones_are_not_taken() {
    let world = World::new().await;
    std::fs::write(world.at("file"), "content").unwrap();
    let uploaded = world.upload("file", false).await;
    let (url, wrong) = (&uploaded.archive_download_url, Checksum::of(b"other"));
    let (status, words) = world.fetch("x", url, wrong).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(words.contains("checksum is wrong"), "{words}");

    // One that is unpacked while its checksum is computed.
    std::fs::write(world.at("large"), vec![7; 500_000]).unwrap();
    let large = world.upload("large", false).await;
    std::fs::remove_file(world.at("large")).unwrap();
    let (large, wrong) = (&large.archive_download_url, Checksum::of(b"other"));
    let (status, words) = world.fetch("x", large, wrong).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(words.contains("checksum is wrong"), "{words}");

    let other = url.replace("demo", "other");
    let (status, words) = world.fetch("x", &other, Checksum::default()).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(words.contains("404"), "{words}");
    for bad in [
        "ftp://x/y",
        "file:///etc/passwd",
        "/etc/passwd",
        "nonsense",
        "http:///x",
    ] {
        let (status, words) = world.fetch("x", bad, Checksum::default()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}: {words}");
    }
    assert!(!world.at("x").exists());
    assert_eq!(world.pod.shared().read_dir().unwrap().count(), 1);
}

#[tokio::test]
async fn servers_that_send_too_much_or_too_little_are_refused() {
    let world = World::new().await;
    let cases = [
        (
            http("200 OK\r\nContent-Length: 9000000", b""),
            "larger than",
        ),
        (http("200 OK", &vec![0; (1 << 20) + 1]), "larger than"),
        (http("200 OK\r\nContent-Length: 100", b"half"), "broke off"),
        (http("404 Not Found\r\nContent-Length: 0", b""), "404"),
        (
            http("302 Found\r\nLocation: ftp://x/", b""),
            "must begin with http",
        ),
        (
            http("302 Found\r\nLocation: /again", b""),
            "too many redirects",
        ),
    ];
    for (answer, words) in cases {
        let (address, _) = server(answer).await;
        let url = format!("http://{address}/code.zip?token=hidden");
        let (status, said) = world.fetch("x", &url, Checksum::default()).await;
        assert!(status.is_client_error() || status == StatusCode::BAD_GATEWAY);
        assert!(said.contains(words), "{words}: {said}");
        assert!(!said.contains("hidden"), "{said}");
    }
    assert_eq!(world.pod.shared().read_dir().unwrap().count(), 0);
}

#[tokio::test]
async fn an_archive_of_unknown_size_goes_by_a_file() {
    let world = World::new().await;
    let body = vec![7; 300_000];
    let (address, _) = server(http("200 OK", &body)).await;
    let url = format!("http://{address}/code");
    let (status, words) = world.fetch("x", &url, Checksum::of(&body)).await;
    assert_eq!(status, StatusCode::OK, "{words}");
    assert_eq!(std::fs::read(world.at("x")).unwrap(), body);
    let (status, _) = world.fetch("y", &url, Checksum::of(b"other")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(world.pod.shared().read_dir().unwrap().count(), 1);
}

#[tokio::test]
async fn no_other_server_is_sent_a_signature() {
    let world = World::new().await;
    // A redirect from a server to itself, and to another host's archive path.
    let (target, mut at_target) = server(http("200 OK\r\nContent-Length: 2", b"ok")).await;
    let to = format!("http://localhost:{}/v1/archive?id=x", target.port());
    let (first, mut at_first) = server(http(&format!("302 Found\r\nLocation: {to}"), b"")).await;
    let url = format!("http://localhost:{}/v1/archive?id=x", first.port());
    let (status, words) = world.fetch("x", &url, Checksum::default()).await;
    assert_eq!(status, StatusCode::OK, "{words}");
    assert_eq!(std::fs::read(world.at("x")).unwrap(), b"ok");
    for seen in [
        at_first.recv().await.unwrap(),
        at_target.recv().await.unwrap(),
    ] {
        let seen = seen.to_ascii_lowercase();
        assert!(!seen.contains(SIGNATURE_HEADER), "{seen}");
        assert!(!seen.contains(NAMESPACE_HEADER), "{seen}");
    }
}

#[tokio::test]
async fn a_link_is_never_uploaded() {
    let world = World::new().await;
    let secret = world.pod.directory.path().join("token");
    std::fs::write(&secret, "token").unwrap();
    std::os::unix::fs::symlink(&secret, world.at("link")).unwrap();
    std::fs::create_dir(world.at("built")).unwrap();
    std::os::unix::fs::symlink(&secret, world.at("built/link")).unwrap();
    for (filename, archive_package) in [("link", true), ("link", false), ("built", true)] {
        let request = UploadRequest {
            filename: filename.to_owned(),
            storage_url: world.storage.clone(),
            archive_package,
        };
        let (status, words) = world.pod.post("/upload", &request).await;
        assert!(!status.is_success(), "{filename}: {words}");
    }
    for filename in ["../token", "/etc/passwd", "."] {
        let request = UploadRequest {
            filename: filename.to_owned(),
            storage_url: world.storage.clone(),
            archive_package: true,
        };
        let (status, _) = world.pod.post("/upload", &request).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{filename}");
    }
}
