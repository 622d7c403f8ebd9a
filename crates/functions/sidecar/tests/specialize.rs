//! A fetcher and a runtime on loopback: code is brought once and loaded, or the cause is told.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::io::{Cursor, Write as _};
use std::time::Duration;

use farplane_functions_types::wire::{FETCHER_STATE, FetcherState};
use hyper::{Method, StatusCode};
use support::{Pod, call, literal};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

fn zip(files: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer
            .start_file(*name, SimpleFileOptions::default())
            .unwrap();
        writer.write_all(content.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

async fn state(pod: &Pod) -> FetcherState {
    let (status, body) = pod.get(FETCHER_STATE).await;
    assert_eq!(status, StatusCode::OK);
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn a_file_becomes_a_function_once() {
    let pod = Pod::new().await;
    assert_eq!(state(&pod).await, FetcherState::default());
    let request = pod.request(literal(b"def main():\n    return 'hello'\n"), "main.main");
    assert_eq!(
        pod.post("/specialize", &request).await,
        (StatusCode::OK, String::new())
    );
    assert_eq!(pod.call().await, (StatusCode::OK, "hello".to_owned()));
    let told = state(&pod).await;
    assert!(told.begun);
    assert_eq!(told.function, request.function);

    let (status, words) = pod.post("/specialize", &request).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(words.contains("demo/hello"), "{words}");
}

#[tokio::test]
async fn a_zip_is_unpacked_and_kept_when_asked() {
    let code = zip(&[
        ("lib/words.py", "WORD = 'unpacked'\n"),
        (
            "main.py",
            "import os\ndef main():\n    here = os.path.dirname(__file__)\n    return open(here + '/lib/words.py').read()\n",
        ),
    ]);
    let pod = Pod::new().await;
    let request = pod.request(literal(&code), "main.main");
    assert_eq!(pod.post("/specialize", &request).await.0, StatusCode::OK);
    assert_eq!(pod.call().await.1, "WORD = 'unpacked'\n");

    let pod = Pod::generic(|_| {}).await;
    let mut request = pod.request(literal(&code), "main.main").fetch;
    request.keep_archive = true;
    assert_eq!(pod.post("/fetch", &request).await.0, StatusCode::OK);
    let kept = std::fs::read(pod.shared().join("deployarchive")).unwrap();
    assert_eq!(kept, code);
}

#[tokio::test]
async fn a_runtime_of_the_first_version_is_told_without_a_body() {
    let pod = Pod::new().await;
    let mut request = pod.request(literal(b"def main():\n    return 1\n"), "");
    "user".clone_into(&mut request.fetch.filename);
    request.load.env_version = 1;
    assert_eq!(pod.post("/specialize", &request).await.0, StatusCode::OK);
    assert_eq!(pod.call().await.1, "1");
}

#[tokio::test]
async fn the_functions_own_error_is_answered_word_for_word() {
    let pod = Pod::new().await;
    let request = pod.request(literal(b"import nothing_like_this\n"), "main.main");
    assert_eq!(
        pod.post("/specialize", &request).await,
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            "ModuleNotFoundError: No module named 'nothing_like_this'".to_owned()
        )
    );
    let told = state(&pod).await;
    assert!(told.begun && told.function.is_none());
}

#[tokio::test]
async fn a_runtime_that_ends_while_it_loads_is_said_so() {
    let pod = Pod::new().await;
    let request = pod.request(literal(b"import os\nos._exit(3)\n"), "main.main");
    let (status, words) = pod.post("/specialize", &request).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(
        words.contains("the runtime ended while it loaded"),
        "{words}"
    );
}

#[tokio::test]
async fn code_that_never_finishes_loading_ends_at_the_deadline() {
    let mut pod = Pod::generic(|settings| {
        settings.load_deadline = Duration::from_millis(500);
    })
    .await;
    pod.start_runtime();
    let request = pod.request(literal(b"import time\ntime.sleep(3600)\n"), "main.main");
    let (status, words) = pod.post("/specialize", &request).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert!(words.contains("did not finish loading"), "{words}");
}

#[tokio::test]
async fn a_runtime_that_starts_late_is_waited_for() {
    let mut pod = Pod::generic(|_| {}).await;
    let request = pod.request(literal(b"def main():\n    return 'late'\n"), "main.main");
    let body = serde_json::to_vec(&request).unwrap();
    let fetcher = pod.fetcher;
    let specialised = tokio::spawn(async move {
        call(
            fetcher,
            Method::POST,
            "/specialize",
            body,
            Some(&support::key()),
        )
        .await
    });
    let placed = pod.shared().join("deployarchive");
    let wait = async {
        while !placed.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .unwrap();
    pod.start_runtime();
    assert_eq!(specialised.await.unwrap().0, StatusCode::OK);
    assert_eq!(pod.call().await.1, "late");
}

#[tokio::test]
async fn a_pod_that_waits_for_code_is_ready_when_its_runtime_listens() {
    let mut pod = Pod::generic(|settings| settings.wait_for_runtime = true).await;
    let fetcher = pod.fetcher;
    let ready = tokio::spawn(async move {
        call(fetcher, Method::GET, "/readiness-healthz", vec![], None).await
    });
    // A runtime takes longer to start than a probe that does not wait takes to be answered.
    pod.start_runtime();
    assert_eq!(ready.await.unwrap().0, StatusCode::OK);
    tokio::net::TcpStream::connect(pod.runtime).await.unwrap();
}

#[tokio::test]
async fn a_runtime_that_never_listens_is_given_up() {
    let pod = Pod::generic(|settings| settings.listen_deadline = Duration::ZERO).await;
    let request = pod.request(literal(b"x"), "main.main");
    let (status, words) = pod.post("/specialize", &request).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert!(words.contains("did not listen"), "{words}");
}

#[tokio::test]
async fn a_request_without_the_right_signature_does_nothing() {
    let pod = Pod::new().await;
    let request = pod.request(literal(b"def main():\n    return 1\n"), "main.main");
    let body = serde_json::to_vec(&request).unwrap();
    let wrong = farplane_functions_types::auth::Key::from_bytes(&[8; 32]);
    for key in [None, Some(&wrong)] {
        let (status, _) = call(pod.fetcher, Method::POST, "/specialize", body.clone(), key).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let (status, _) = call(pod.fetcher, Method::GET, FETCHER_STATE, Vec::new(), key).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(state(&pod).await, FetcherState::default());
    for open in ["/healthz", "/readiness-healthz", "/version"] {
        let (status, _) = call(pod.fetcher, Method::GET, open, Vec::new(), None).await;
        assert_eq!(status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_broken_archive_is_refused_by_name_and_leaves_nothing() {
    let cases = [
        (zip(&[("../out", "x")]), "climbs out"),
        (zip(&[("/etc/x", "x")]), "absolute"),
        (zip(&[("a", "x"), ("a/b", "x")]), "twice"),
        (b"PK\x03\x04nonsense".to_vec(), "cannot be read as a zip"),
    ];
    for (bytes, words) in cases {
        let pod = Pod::new().await;
        let request = pod.request(literal(&bytes), "main.main");
        let (status, said) = pod.post("/specialize", &request).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{said}");
        assert!(said.contains(words), "{said}");
        assert_eq!(pod.shared().read_dir().unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_wrong_checksum_is_refused() {
    let pod = Pod::new().await;
    let mut archive = literal(b"def main():\n    return 1\n");
    archive.checksum = farplane_functions_types::Checksum::of(b"other");
    let request = pod.request(archive, "main.main");
    let (status, words) = pod.post("/specialize", &request).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(words.contains("checksum is wrong"), "{words}");
}

#[tokio::test]
async fn a_pod_of_a_deployment_loads_at_its_start() {
    let mut pod = Pod::generic(|settings| {
        let path = settings.shared.join("deployarchive");
        let request = serde_json::json!({
            "FetchReq": {
                "fetchType": 1,
                "filename": "deployarchive",
                "archive": literal(b"def main():\n    return 'at start'\n"),
            },
            "LoadReq": {"filepath": path, "functionName": "main.main", "envVersion": 3},
        });
        settings.startup = Some(Box::new(serde_json::from_value(request).unwrap()));
    })
    .await;
    pod.start_runtime();
    // The first probe is held until the code is there.
    assert_eq!(pod.get("/readiness-healthz").await.0, StatusCode::OK);
    assert_eq!(pod.call().await.1, "at start");
}
