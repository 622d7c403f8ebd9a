//! Takes an upload to a spool file, hashing the whole request on its way.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use multer::{Field, Multipart};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use uuid::Uuid;

use crate::error::Error;

/// How long nothing may come.
const IDLE_SECONDS: u64 = 30;
/// What a form may have around the file.
const FORM_BYTES: u64 = 64 * 1024;
/// Header with the size of the file.
const SIZE_HEADER: &str = "x-file-size";
/// Name of the form's field.
const FIELD: &str = "uploadfile";

/// A file that came, in the spool. Removed when dropped, unless it was taken.
#[derive(Debug)]
pub struct Spooled {
    path: Option<PathBuf>,
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the whole request's body.
    pub digest: Vec<u8>,
}

impl Spooled {
    /// Where it is. The caller moves or removes it.
    pub fn take(mut self) -> PathBuf {
        self.path.take().unwrap_or_default()
    }

    /// Where it is.
    pub fn path(&self) -> Option<&PathBuf> {
        self.path.as_ref()
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            _ = std::fs::remove_file(path);
        }
    }
}

/// Receives a form's file into the directory.
///
/// # Errors
/// When it is no such form, too large, cut off, or cannot be written.
pub async fn receive(
    headers: &HeaderMap,
    body: Body,
    spool: &std::path::Path,
    limit: u64,
) -> Result<Spooled, Error> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let said: u64 = text(SIZE_HEADER)
        .and_then(|size| size.trim().parse().ok())
        .ok_or(Error::NoSize)?;
    if said > limit {
        return Err(Error::TooLarge { limit });
    }
    let kind = text(CONTENT_TYPE.as_str()).unwrap_or_default();
    let boundary = multer::parse_boundary(kind).map_err(|error| Error::Form(error.to_string()))?;
    let hasher = Arc::new(Mutex::new(Hasher::default()));
    let stream = hashed(body, Arc::clone(&hasher), limit);
    let mut form = Multipart::new(stream, boundary);
    let mut spooled = None;
    while let Some(field) = form
        .next_field()
        .await
        .map_err(|error| form_error(&error))?
    {
        if field.name() == Some(FIELD) {
            if spooled.is_some() {
                return Err(Error::Form(format!("there are two fields {FIELD}")));
            }
            spooled = Some(save(field, spool).await?);
        }
    }
    let mut spooled = spooled.ok_or_else(|| Error::Form(format!("there is no field {FIELD}")))?;
    if spooled.size != said {
        let found = spooled.size;
        return Err(Error::Size { said, found });
    }
    let hasher = std::mem::take(&mut *hasher.lock().unwrap_or_else(PoisonError::into_inner));
    spooled.digest = hasher.hash.finalize().to_vec();
    Ok(spooled)
}

#[derive(Default)]
struct Hasher {
    hash: Sha256,
    size: u64,
}

/// The body, hashed as it passes, and ended with an error when it is too large or does not come.
fn hashed(
    body: Body,
    hasher: Arc<Mutex<Hasher>>,
    limit: u64,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    let idle = Duration::from_secs(IDLE_SECONDS);
    let next = move |mut body: axum::body::BodyDataStream| async move {
        match timeout(idle, body.next()).await {
            Err(_) => Err(Error::Late(IDLE_SECONDS)),
            Ok(None) => Ok(None),
            Ok(Some(Ok(bytes))) => Ok(Some((bytes, body))),
            Ok(Some(Err(error))) => Err(Error::Form(format!("it was cut off: {error}"))),
        }
    };
    let bounded = move |bytes: Bytes| {
        let mut hasher = hasher.lock().unwrap_or_else(PoisonError::into_inner);
        hasher.size += u64::try_from(bytes.len()).unwrap_or(0);
        if hasher.size > limit + FORM_BYTES {
            return Err(Error::TooLarge { limit });
        }
        hasher.hash.update(&bytes);
        Ok(bytes)
    };
    futures::stream::try_unfold(body.into_data_stream(), next)
        .and_then(move |bytes| futures::future::ready(bounded(bytes)))
}

async fn save(mut field: Field<'_>, spool: &std::path::Path) -> Result<Spooled, Error> {
    let path = spool.join(Uuid::new_v4().to_string());
    let mut file = File::create_new(&path)
        .await
        .map_err(Error::disk("make a spool file"))?;
    let mut spooled = Spooled {
        path: Some(path),
        size: 0,
        digest: Vec::new(),
    };
    while let Some(bytes) = field.chunk().await.map_err(|error| form_error(&error))? {
        spooled.size += u64::try_from(bytes.len()).unwrap_or(0);
        file.write_all(&bytes)
            .await
            .map_err(Error::disk("write a spool file"))?;
    }
    // An archive that is named must be whole, whatever ends this machine.
    file.sync_all()
        .await
        .map_err(Error::disk("write a spool file"))?;
    Ok(spooled)
}

/// An error of the stream comes back wrapped; it is the one that counts.
fn form_error(error: &multer::Error) -> Error {
    let multer::Error::StreamReadFailed(inner) = error else {
        return Error::Form(error.to_string());
    };
    match inner.downcast_ref::<Error>() {
        Some(Error::TooLarge { limit }) => Error::TooLarge { limit: *limit },
        Some(Error::Late(seconds)) => Error::Late(*seconds),
        Some(Error::Form(words)) => Error::Form(words.clone()),
        _ => Error::Form(inner.to_string()),
    }
}
