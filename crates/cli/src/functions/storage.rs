//! Archives that do not fit into an object: sent to the platform's storage.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use farplane_functions_types::names;
use farplane_functions_types::package::{Archive, Checksum, MAX_LITERAL_BYTES};
use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use kube::Client;
use serde::Deserialize;

use super::reach::{self, Ask, Part};
use crate::failure::Failure;

/// Path of archives.
const PATH: &str = "/v1/archive";

#[derive(Deserialize)]
struct Uploaded {
    id: String,
}

/// An archive of these bytes: within the object when they are few, else uploaded.
pub(crate) async fn archive(client: &Client, namespace: &str, bytes: Vec<u8>) -> Result<Archive> {
    let checksum = Checksum::of(&bytes);
    if bytes.len() <= MAX_LITERAL_BYTES {
        return Ok(literal(&bytes));
    }
    let id = upload(client, namespace, bytes).await?;
    Ok(Archive {
        kind: "url".to_owned(),
        url: url(&id),
        checksum,
        ..Archive::default()
    })
}

/// An archive within the object.
pub(crate) fn literal(bytes: &[u8]) -> Archive {
    use base64::Engine as _;
    Archive {
        kind: "literal".to_owned(),
        literal: base64::engine::general_purpose::STANDARD.encode(bytes),
        checksum: Checksum::of(bytes),
        ..Archive::default()
    }
}

/// Address of an archive, as the cluster's own parts reach it.
fn url(id: &str) -> String {
    let escaped: String = id
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect();
    format!("http://storagesvc.{}{PATH}?id={escaped}", names::NAMESPACE)
}

async fn upload(client: &Client, namespace: &str, bytes: Vec<u8>) -> Result<String> {
    let boundary = format!("farplane-{}", uuid::Uuid::new_v4().simple());
    let mut headers = HeaderMap::new();
    let kind = format!("multipart/form-data; boundary={boundary}");
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_str(&kind).context("name the upload")?,
    );
    headers.insert("x-file-size", HeaderValue::from(bytes.len()));
    let ask = Ask {
        method: Method::POST,
        target: PATH.to_owned(),
        headers,
        body: form(&boundary, &bytes),
    };
    let answer = reach::send(client, Part::Storage(namespace), ask).await?;
    let status = answer.status();
    let body = answer
        .into_body()
        .collect()
        .await
        .context("read the answer of the storage")?
        .to_bytes();
    if !status.is_success() {
        return Err(Failure::Refused(format!(
            "the storage does not take the archive ({status}): {}",
            String::from_utf8_lossy(&body).trim()
        ))
        .into());
    }
    let uploaded: Uploaded =
        serde_json::from_slice(&body).context("read the answer of the storage")?;
    Ok(uploaded.id)
}

/// A form with one file.
fn form(boundary: &str, bytes: &[u8]) -> Bytes {
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"uploadfile\"; filename=\"archive\"\r\nContent-Type: application/octet-stream\r\n\r\n"
    );
    let tail = format!("\r\n--{boundary}--\r\n");
    [head.as_bytes(), bytes, tail.as_bytes()].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_an_archive_is_escaped() {
        assert_eq!(
            url("/fission/fission-functions/a b"),
            "http://storagesvc.fission/v1/archive?id=%2Ffission%2Ffission-functions%2Fa%20b"
        );
    }

    #[test]
    fn a_form_holds_the_bytes_as_they_are() {
        let form = form("x", b"\r\n--y\0");
        assert!(form.starts_with(b"--x\r\n") && form.ends_with(b"\r\n\r\n\r\n--y\0\r\n--x--\r\n"));
    }
}
