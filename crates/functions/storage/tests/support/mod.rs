//! Storage on loopback, and clients with keys.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use farplane_functions_storage::{LiveUrls, Settings, serve};
use farplane_functions_types::auth::{Key, NAMESPACE_HEADER, Service, now};
use futures::FutureExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::header::HeaderMap;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

pub const SECRET: &[u8] = b"master";
pub const BOUNDARY: &str = "boundary";

/// A running storage.
pub struct Storage {
    pub address: SocketAddr,
    _stop: DropGuard,
}

/// Who signs.
#[derive(Clone, Copy)]
pub enum Signer<'a> {
    Nobody,
    Master,
    Tenant(&'a str),
    /// Says it is of this namespace, with the master's key.
    Liar(&'a str),
}

/// An answer.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// Its body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The id it tells.
    pub fn id(&self) -> String {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        let value: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        value["id"].as_str().unwrap().to_owned()
    }
}

/// Nothing is in use.
pub fn nothing_lives() -> LiveUrls {
    Arc::new(|| async { Ok(Vec::new()) }.boxed())
}

impl Storage {
    /// Starts with these settings.
    pub async fn start(settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = serve(settings, None, listener, stop.clone());
        tokio::spawn(async move { serving.await.unwrap() });
        Self {
            address,
            _stop: stop.drop_guard(),
        }
    }

    /// Sends a request.
    pub async fn send(
        &self,
        signer: Signer<'_>,
        method: Method,
        target: &str,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Answer {
        let (key, namespace) = match signer {
            Signer::Nobody => (None, None),
            Signer::Master => (Some(None), None),
            Signer::Tenant(namespace) => (Some(Some(namespace)), Some(namespace)),
            Signer::Liar(namespace) => (Some(None), Some(namespace)),
        };
        let mut request = Request::builder()
            .method(&method)
            .uri(format!("http://{}{target}", self.address));
        if let Some(of) = key {
            let key = Key::derived(SECRET, Service::Storage, of);
            let signed = key.sign(method.as_str(), target, &body, now()).unwrap();
            for (name, value) in signed.headers() {
                request = request.header(name, value);
            }
        }
        if let Some(namespace) = namespace {
            request = request.header(NAMESPACE_HEADER, namespace);
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.unwrap();
        let (head, body) = response.into_parts();
        Answer {
            status: head.status,
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    /// Uploads a file.
    pub async fn upload(&self, signer: Signer<'_>, file: &[u8]) -> Answer {
        let size = file.len().to_string();
        self.upload_as(signer, "uploadfile", &size, file).await
    }

    /// Uploads a file in a field, of a said size.
    pub async fn upload_as(
        &self,
        signer: Signer<'_>,
        field: &str,
        size: &str,
        file: &[u8],
    ) -> Answer {
        let mut body = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"../../x\"\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(file);
        body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        let headers = [("content-type", kind), ("x-file-size", size.to_owned())];
        self.send(signer, Method::POST, "/v1/archive", &headers, body)
            .await
    }

    /// Asks about an archive.
    pub async fn ask(&self, signer: Signer<'_>, method: Method, id: &str) -> Answer {
        let target = format!("/v1/archive?id={}", id.replace('/', "%2F"));
        self.send(signer, method, &target, &[], Vec::new()).await
    }

    /// Ids in the list.
    pub async fn list(&self, signer: Signer<'_>) -> Vec<String> {
        let answer = self
            .send(signer, Method::GET, "/v1/archive", &[], Vec::new())
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let mut ids: Vec<String> = serde_json::from_slice(&answer.body).unwrap();
        ids.sort();
        ids
    }
}
