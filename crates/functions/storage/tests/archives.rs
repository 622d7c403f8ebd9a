//! Archives over HTTP, in a directory: kept whole, apart by tenant, removed when unused.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use farplane_functions_storage::id::ArchiveId;
use farplane_functions_storage::prune::Pruner;
use farplane_functions_storage::settings::Prune;
use farplane_functions_storage::store::Store;
use farplane_functions_storage::{Backend, Settings};
use futures::FutureExt as _;
use hyper::{Method, StatusCode};
use support::{SECRET, Signer, Storage, nothing_lives};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

const A: Signer<'_> = Signer::Tenant("team-a");
const B: Signer<'_> = Signer::Tenant("team-b");

async fn start() -> (TempDir, Storage) {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings::local(directory.path().to_owned(), vec![SECRET.to_vec()]);
    (directory, Storage::start(settings).await)
}

/// Files below the volume, of archives and of uploads under way.
fn files(directory: &TempDir) -> usize {
    fn count(path: &std::path::Path) -> usize {
        path.read_dir()
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| match entry.file_type().unwrap().is_dir() {
                true => count(&entry.path()),
                false => 1,
            })
            .sum()
    }
    count(directory.path())
}

/// Waits for a condition.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_archive_is_kept_read_listed_and_deleted() {
    let (directory, storage) = start().await;
    let bytes: Vec<u8> = (0..3_000_000_u32)
        .map(|byte| byte.to_le_bytes()[1])
        .collect();
    let id = storage.upload(Signer::Master, &bytes).await.id();
    assert!(id.starts_with("/fission/fission-functions/"), "{id}");

    let read = storage.ask(Signer::Master, Method::GET, &id).await;
    assert_eq!(
        (read.status, read.body.len()),
        (StatusCode::OK, bytes.len())
    );
    assert!(read.body == bytes);
    let looked = storage.ask(Signer::Master, Method::HEAD, &id).await;
    assert_eq!(looked.headers["x-fission-storagetype"], "local");
    assert_eq!(
        storage.list(Signer::Master).await,
        std::slice::from_ref(&id)
    );

    let deleted = storage.ask(Signer::Master, Method::DELETE, &id).await;
    assert_eq!(deleted.status, StatusCode::OK);
    for method in [Method::GET, Method::HEAD, Method::DELETE] {
        let answer = storage.ask(Signer::Master, method, &id).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(files(&directory), 0);
}

#[tokio::test]
async fn a_tenant_sees_only_its_own() {
    let (_directory, storage) = start().await;
    let of_a = storage.upload(A, b"a").await.id();
    let of_b = storage.upload(B, b"b").await.id();
    let of_nobody = storage.upload(Signer::Master, b"n").await.id();
    assert!(of_a.contains("/_tenant_/team-a/"), "{of_a}");

    assert_eq!(storage.ask(A, Method::GET, &of_a).await.text(), "a");
    assert_eq!(storage.ask(A, Method::GET, &of_nobody).await.text(), "n");
    let missing = ArchiveId::new(Some("team-b")).to_string();
    for method in [Method::GET, Method::HEAD, Method::DELETE] {
        let other = storage.ask(A, method.clone(), &of_b).await;
        let none = storage.ask(A, method, &missing).await;
        assert_eq!(other.status, StatusCode::NOT_FOUND);
        assert_eq!(other.text(), none.text(), "another's tells as much as none");
    }
    let unowned = storage.ask(A, Method::DELETE, &of_nobody).await;
    assert_eq!(unowned.status, StatusCode::NOT_FOUND);
    assert_eq!(storage.list(A).await, std::slice::from_ref(&of_a));
    assert_eq!(storage.list(Signer::Master).await.len(), 3);
    assert_eq!(
        storage.ask(Signer::Master, Method::GET, &of_b).await.text(),
        "b"
    );
}

#[tokio::test]
async fn nobody_gets_in_without_the_right_key() {
    let (directory, storage) = start().await;
    let id = storage.upload(A, b"a").await.id();
    for signer in [Signer::Nobody, Signer::Liar("team-a")] {
        for method in [Method::GET, Method::HEAD, Method::DELETE] {
            let answer = storage.ask(signer, method, &id).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        }
        let uploaded = storage.upload(signer, b"x").await;
        assert_eq!(uploaded.status, StatusCode::UNAUTHORIZED);
    }
    let bad = storage.upload(Signer::Tenant("../team-b"), b"x").await;
    assert_eq!(bad.status, StatusCode::BAD_REQUEST);
    assert_eq!(files(&directory), 1, "nothing of a refused upload stays");
}

#[tokio::test]
async fn a_secret_that_is_being_replaced_still_works() {
    let directory = tempfile::tempdir().unwrap();
    let secrets = vec![b"new".to_vec(), SECRET.to_vec()];
    let settings = Settings::local(directory.path().to_owned(), secrets);
    let storage = Storage::start(settings).await;
    let id = storage.upload(A, b"a").await.id();
    assert_eq!(storage.ask(A, Method::GET, &id).await.text(), "a");
}

#[tokio::test]
async fn names_that_climb_are_names_of_nothing() {
    let (directory, storage) = start().await;
    std::fs::write(directory.path().join("secret"), "secret").unwrap();
    let of_b = storage.upload(B, b"b").await.id();
    let uuid = of_b.rsplit('/').next().unwrap();
    for id in [
        "/fission/fission-functions/../secret".to_owned(),
        "/fission/secret".to_owned(),
        "/etc/passwd".to_owned(),
        "../../etc/passwd".to_owned(),
        format!("/fission/fission-functions/_tenant_/team-a/../team-b/{uuid}"),
        format!("/fission/fission-functions/x/../_tenant_/team-b/{uuid}"),
        format!("/fission/fission-functions//_tenant_/team-b/{uuid}"),
        "%zz".to_owned(),
        String::new(),
    ] {
        for method in [Method::GET, Method::HEAD, Method::DELETE] {
            let answer = storage.ask(A, method, &id).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{id}");
        }
    }
    assert_eq!(files(&directory), 2);
}

#[tokio::test]
async fn bad_uploads_are_refused_and_leave_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = Settings::local(directory.path().to_owned(), vec![SECRET.to_vec()]);
    settings.limit = 1000;
    let storage = Storage::start(settings).await;
    let too_large = storage.upload(A, &[0; 1001]).await;
    assert_eq!(too_large.status, StatusCode::PAYLOAD_TOO_LARGE);
    // Says less than it sends.
    let lying = storage
        .upload_as(A, "uploadfile", "10", &[0; 100_000])
        .await;
    assert_eq!(lying.status, StatusCode::PAYLOAD_TOO_LARGE);
    let cut = storage.upload_as(A, "uploadfile", "11", &[0; 10]).await;
    assert_eq!(cut.status, StatusCode::BAD_REQUEST);
    assert!(cut.text().contains("cut off"), "{}", cut.text());
    let no_size = storage.upload_as(A, "uploadfile", "many", &[0; 10]).await;
    assert_eq!(no_size.status, StatusCode::BAD_REQUEST);
    let no_field = storage.upload_as(A, "other", "10", &[0; 10]).await;
    assert!(
        no_field.text().contains("uploadfile"),
        "{}",
        no_field.text()
    );
    let no_form = [("x-file-size", "1".to_owned())];
    let no_form = storage
        .send(A, Method::POST, "/v1/archive", &no_form, vec![0])
        .await;
    assert_eq!(no_form.status, StatusCode::BAD_REQUEST);
    assert_eq!(files(&directory), 0);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings::local(directory.path().to_owned(), Vec::new());
    let storage = Storage::start(settings).await;
    let mut stream = tokio::net::TcpStream::connect(storage.address)
        .await
        .unwrap();
    let request = "POST /v1/archive HTTP/1.1\r\nHost: x\r\nX-File-Size: 100\r\n\
        Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 500\r\n\r\n\
        --b\r\nContent-Disposition: form-data; name=\"uploadfile\"\r\n\r\nsome bytes";
    stream.write_all(request.as_bytes()).await.unwrap();
    let spool = directory.path().join(".spool");
    until(|| spool.read_dir().unwrap().count() > 0).await;
    drop(stream);
    until(|| files(&directory) == 0).await;
}

#[tokio::test]
async fn what_an_ended_process_left_is_removed_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let backend = Backend::Local {
        directory: directory.path().to_owned(),
    };
    let store = Store::open(&backend).await.unwrap();
    std::fs::write(store.spool().join("half"), "half").unwrap();
    drop(store);
    Store::open(&backend).await.unwrap();
    assert_eq!(files(&directory), 0);
}

#[tokio::test]
async fn unused_archives_go_when_seen_twice_and_used_or_young_ones_stay() {
    let (directory, storage) = start().await;
    let used = storage.upload(A, b"used").await.id();
    let unused = storage.upload(A, b"unused").await.id();
    let backend = Backend::Local {
        directory: directory.path().to_owned(),
    };
    let store = Arc::new(Store::open(&backend).await.unwrap());
    let live = {
        let url = format!("http://storagesvc.fission.svc/v1/archive?id={used}");
        move || {
            let url = url.clone();
            async move { Ok(vec![url]) }.boxed()
        }
    };
    let old = Prune {
        interval: Duration::from_secs(3600),
        grace: Duration::ZERO,
    };
    let mut pruner = Pruner::new(Arc::clone(&store), Arc::new(live), old);
    assert_eq!(pruner.look().await, Ok(0));
    assert_eq!(pruner.look().await, Ok(1));
    assert_eq!(storage.list(A).await, [used]);
    let gone = storage.ask(A, Method::GET, &unused).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);

    let mut careful = Pruner::new(Arc::clone(&store), nothing_lives(), Prune::default());
    let unknown = || async { Err("the API server is away".to_owned()) }.boxed();
    let mut blind = Pruner::new(store, Arc::new(unknown), old);
    for _ in 0..3 {
        assert_eq!(careful.look().await, Ok(0), "it is too young");
        assert!(blind.look().await.is_err());
    }
    assert_eq!(storage.list(A).await.len(), 1);
}
