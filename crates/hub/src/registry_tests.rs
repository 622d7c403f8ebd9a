//! What a client sees of a registry whose images are real files.

use super::*;
use axum::http::header::{CONTENT_LENGTH, RANGE};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A digest that is easy to tell; contents are not checked where they are served from.
fn digest(number: u8) -> String {
    format!("sha256:{number:064x}")
}

fn put(folder: &Path, number: u8, content: &[u8]) {
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let name = digest(number);
    std::fs::write(blobs.join(name.trim_start_matches("sha256:")), content).unwrap();
}

fn put_json(folder: &Path, number: u8, content: &Value) {
    put(folder, number, content.to_string().as_bytes());
}

fn descriptor(kind: &str, number: u8) -> Value {
    json!({ "mediaType": kind, "digest": digest(number), "size": 1 })
}

fn list(folder: &Path, entries: &[(&str, &str, u8)]) {
    let entry = |(reference, kind, number): &(&str, &str, u8)| {
        let mut entry = descriptor(kind, *number);
        entry["annotations"] = json!({ IMAGE_NAME: reference });
        entry
    };
    let entries: Vec<_> = entries.iter().map(entry).collect();
    let index = json!({ "schemaVersion": 2, "manifests": entries });
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
}

/// Image `tools/one:v1`: manifest 1, configuration 2, layer 3; blob 9 belongs to no image.
fn registry() -> (tempfile::TempDir, Arc<Registry>) {
    let folder = tempfile::tempdir().unwrap();
    let manifest = json!({
        "config": descriptor("config", 2),
        "layers": [descriptor("layer", 3)],
    });
    put_json(folder.path(), 1, &manifest);
    put(folder.path(), 2, b"{}");
    put(folder.path(), 3, b"0123456789");
    put(folder.path(), 9, b"secret");
    list(folder.path(), &[("farplane.io/tools/one:v1", MANIFEST, 1)]);
    let registry = Arc::new(Registry::open(folder.path()).unwrap());
    (folder, registry)
}

async fn ask(
    registry: &Arc<Registry>,
    method: &str,
    path: &str,
) -> (StatusCode, HeaderMap, String) {
    ask_with(registry, method, path, None).await
}

async fn ask_with(
    registry: &Arc<Registry>,
    method: &str,
    path: &str,
    range: Option<&str>,
) -> (StatusCode, HeaderMap, String) {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(range) = range {
        request = request.header(RANGE, range);
    }
    let request = request.body(Body::empty()).unwrap();
    let answer = router(Arc::clone(registry)).oneshot(request).await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    (status, headers, text)
}

#[tokio::test]
async fn an_image_is_pulled_by_tag_and_digest() {
    let (_folder, registry) = registry();
    assert_eq!(ask(&registry, "GET", "/v2/").await.0, StatusCode::OK);
    for reference in ["v1", &digest(1)] {
        let path = format!("/v2/tools/one/manifests/{reference}?ns=farplane.io");
        let (status, headers, text) = ask(&registry, "GET", &path).await;
        assert_eq!(
            (status, &headers[CONTENT_TYPE]),
            (StatusCode::OK, &MANIFEST.parse().unwrap())
        );
        assert_eq!(headers[&DIGEST_HEADER], digest(1));
        assert!(text.contains(&digest(3)), "{text}");
    }
    let layer = format!("/v2/tools/one/blobs/{}", digest(3));
    let (status, headers, text) = ask(&registry, "GET", &layer).await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, "0123456789"));
    assert_eq!(headers[&DIGEST_HEADER], digest(3));
    let (status, headers, text) = ask(&registry, "HEAD", &layer).await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, ""));
    assert_eq!(headers[CONTENT_LENGTH], "10");
    let part = ask_with(&registry, "GET", &layer, Some("bytes=4-")).await;
    assert_eq!(
        (part.0, part.2.as_str()),
        (StatusCode::PARTIAL_CONTENT, "456789")
    );
}

#[tokio::test]
async fn an_index_of_platforms_leads_to_its_manifests() {
    let (folder, registry) = registry();
    put_json(
        folder.path(),
        5,
        &json!({ "manifests": [descriptor(MANIFEST, 1)] }),
    );
    list(folder.path(), &[("farplane.io/many:v1", INDEX, 5)]);
    let (status, headers, _) = ask(&registry, "GET", "/v2/many/manifests/v1").await;
    assert_eq!(
        (status, &headers[CONTENT_TYPE]),
        (StatusCode::OK, &INDEX.parse().unwrap())
    );
    for path in [
        format!("/v2/many/manifests/{}", digest(1)),
        format!("/v2/many/blobs/{}", digest(3)),
    ] {
        assert_eq!(
            ask(&registry, "GET", &path).await.0,
            StatusCode::OK,
            "{path}"
        );
    }
    // What the new index does not lead to is gone.
    let old = ask(&registry, "GET", "/v2/tools/one/manifests/v1").await;
    assert_eq!(old.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let (_folder, registry) = registry();
    let blob = digest(9);
    for (path, code, word) in [
        (
            "/v2/tools/two/manifests/v1".to_owned(),
            "NAME_UNKNOWN",
            "tools/two",
        ),
        (
            "/v2/tools/one/manifests/v2".to_owned(),
            "MANIFEST_UNKNOWN",
            "v2",
        ),
        (
            format!("/v2/tools/one/blobs/{blob}"),
            "BLOB_UNKNOWN",
            blob.as_str(),
        ),
    ] {
        let (status, _, text) = ask(&registry, "GET", &path).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["errors"][0]["code"], code, "{path}");
        let message = answer["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains(word), "{message}");
    }
}

#[tokio::test]
async fn nothing_else_is_reached() {
    let (folder, registry) = registry();
    let mut paths = vec![
        "/".to_owned(),
        "/v2".to_owned(),
        "/index.json".to_owned(),
        "/artifacts/abc".to_owned(),
        "/v2/../index.json".to_owned(),
        "/v2/%2e%2e/index.json".to_owned(),
        "/v2//index.json".to_owned(),
        "/v2/_catalog".to_owned(),
        "/v2/tools/one/tags/list".to_owned(),
        "/v2/tools/one/manifests/".to_owned(),
        "/v2/tools/one/manifests/../index.json".to_owned(),
        "/v2/tools/one/blobs/..%2f..%2findex.json".to_owned(),
        "/v2/tools/one/blobs/sha256:..%2f..%2f..%2findex.json".to_owned(),
        "/v2/tools/one/blobs/uploads/".to_owned(),
        // A blob that is on disk, but of no image.
        format!("/v2/tools/one/blobs/{}", digest(9)),
        format!("/v2/tools/one/manifests/{}", digest(9)),
        // A layer is no manifest, a manifest is no layer.
        format!("/v2/tools/one/manifests/{}", digest(3)),
        format!("/v2/tools/one/blobs/{}", digest(1)),
    ];
    paths.push(format!(
        "/v2/tools/one/blobs/sha256:{}",
        folder.path().display()
    ));
    for path in paths {
        let status = ask(&registry, "GET", &path).await.0;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn every_other_method_is_refused() {
    let (_folder, registry) = registry();
    for method in [
        "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "ODD",
    ] {
        for path in ["/v2/", "/v2/tools/one/blobs/uploads/", "/index.json"] {
            let (status, headers, _) = ask(&registry, method, path).await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_eq!(headers[ALLOW], "GET, HEAD");
        }
    }
}

#[tokio::test]
async fn images_come_while_it_runs_and_a_broken_index_takes_none_away() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Arc::new(Registry::open(folder.path()).unwrap());
    let status = async |path: &str| ask(&registry, "GET", path).await.0;
    assert_eq!(status("/v2/one/manifests/v1").await, StatusCode::NOT_FOUND);
    put_json(
        folder.path(),
        1,
        &json!({ "layers": [descriptor("layer", 3)] }),
    );
    list(folder.path(), &[("farplane.io/one:v1", MANIFEST, 1)]);
    assert_eq!(status("/v2/one/manifests/v1").await, StatusCode::OK);
    // Longer than the one before, so that it differs whatever the clock's grain is.
    let entries = [
        ("farplane.io/one:v1", MANIFEST, 1),
        ("farplane.io/two:v1", MANIFEST, 7),
    ];
    list(folder.path(), &entries);
    assert_eq!(status("/v2/one/manifests/v1").await, StatusCode::OK);
    assert_eq!(status("/v2/two/manifests/v1").await, StatusCode::NOT_FOUND);
    put_json(folder.path(), 7, &json!({ "layers": [] }));
    assert_eq!(status("/v2/two/manifests/v1").await, StatusCode::OK);
}

#[test]
fn a_wrong_index_is_told_at_the_start() {
    for index in [
        "{",
        r#"{"manifests":[{"mediaType":"m","digest":"sha256:../../x","annotations":{"io.containerd.image.name":"farplane.io/a:v1"}}]}"#,
        r#"{"manifests":[{"mediaType":"m","digest":"sha256:00"}]}"#,
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("index.json"), index).unwrap();
        assert!(Registry::open(folder.path()).is_err(), "{index}");
    }
}
