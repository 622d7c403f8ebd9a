//! The artifact server's index: which files hosts can be told to fetch.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use http_body_util::{BodyExt as _, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::error::Error;

/// The index changes with a new release of the hub only.
const LIFE: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BYTES: usize = 1024 * 1024;

/// A copy of the index.
#[derive(Default)]
pub(crate) struct Index {
    copy: Mutex<Option<(Instant, String)>>,
}

impl Index {
    /// Text of the index, at most a minute old.
    pub async fn text(&self, base: &str) -> Result<String, Error> {
        {
            let copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, text)) = copy.as_ref().filter(|(read, _)| read.elapsed() < LIFE) {
                return Ok(text.clone());
            }
        }
        let url = format!("{base}/index.json");
        let text = tokio::time::timeout(TIMEOUT, fetch(&url))
            .await
            .unwrap_or_else(|_| Err("no answer in time".into()))
            .map_err(|source| Error::Artifacts { url, source })?;
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        *copy = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}

async fn fetch(url: &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let client: Client<HttpConnector, Body> = Client::builder(TokioExecutor::new()).build_http();
    let response = client.get(url.parse()?).await?;
    if !response.status().is_success() {
        return Err(format!("HTTP status {}", response.status()).into());
    }
    let body = Limited::new(response.into_body(), MAX_BYTES)
        .collect()
        .await?;
    Ok(String::from_utf8(body.to_bytes().to_vec())?)
}
