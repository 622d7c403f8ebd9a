//! Downloads an archive, within bounds: into memory when it is small, else to a file. Its checksum
//! is computed while it arrives, of one in memory by another thread; an entry that is most of it
//! is written ([`Early`]).

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use farplane_functions_types::auth::Key;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HOST, LOCATION};
use hyper::{Request, Response, StatusCode, Uri};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWriteExt as _, BufWriter};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::Error;
use crate::archive::{Collector, Early, Pieces, Written};
use crate::client::{is_storage, no_body, send, sign};

/// How long a server may take to begin its answer.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// How long a server may send nothing.
const IDLE_DEADLINE: Duration = Duration::from_secs(30);
/// Up to this size an archive is unpacked from memory: it is not written twice.
const MEMORY_BYTES: u64 = 32 << 20;
/// How much is written to a file at a time, each time by another thread.
const PIECE_BYTES: usize = 1 << 20;
/// Redirects that are followed.
const REDIRECTS: usize = 5;
/// Pauses between attempts at a server that is not there: one that is being replaced.
const PAUSES: [u64; 6] = [50, 100, 300, 1000, 3000, 5000];

/// What is downloaded, and where to.
#[derive(Debug)]
pub struct Download<'a> {
    /// From here.
    pub url: &'a str,
    /// Storage; empty when not known.
    pub storage_url: &'a str,
    /// Signs requests to storage.
    pub key: &'a Key,
    /// Namespace of the key.
    pub namespace: &'a str,
    /// Most bytes.
    pub limit: u64,
    /// The file; must not exist.
    pub path: &'a Path,
    /// Another one, for an entry; must not exist.
    pub early: &'a Path,
}

/// What came, with its SHA-256 in hex.
#[derive(Debug)]
pub enum Downloaded {
    /// The bytes, and what of them is written already.
    Memory(Pieces, Option<Written>, String),
    /// They are in the file.
    File(String),
}

/// Downloads. The file may be there after a failure too.
///
/// # Errors
/// When the server does not send all of it, or too much.
pub async fn download(download: Download<'_>) -> Result<Downloaded, Error> {
    let mut url = parse(download.url, None)?;
    let mut pauses = PAUSES.iter();
    for _ in 0..=REDIRECTS {
        let response = loop {
            let error = match request(&download, &url).await {
                Ok(response) if !is_passing(response.status()) => break response,
                Ok(response) => format!("the server answered {}", response.status()),
                Err(error) => error,
            };
            let Some(pause) = pauses.next() else {
                return Err(failed(&download, &url, error));
            };
            tokio::time::sleep(Duration::from_millis(*pause)).await;
        };
        if response.status().is_redirection() {
            let to = response.headers().get(LOCATION);
            let to = to.and_then(|to| to.to_str().ok()).unwrap_or_default();
            url = parse(to, Some(&url))?;
            continue;
        }
        if response.status() != StatusCode::OK {
            let status = response.status();
            let reason = format!("the server answered {status}; is the archive still there?");
            return Err(failed(&download, &url, reason));
        }
        return save(&download, &url, response).await;
    }
    Err(failed(&download, &url, "too many redirects".to_owned()))
}

fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

fn parse(text: &str, base: Option<&Uri>) -> Result<Uri, Error> {
    let refuse = |reason: String| Error::Url {
        url: text.to_owned(),
        reason,
    };
    let url: Uri = text
        .parse()
        .map_err(|error| refuse(format!("it cannot be read: {error}")))?;
    let url = match (url.scheme_str(), base) {
        (None, Some(base)) if url.path().starts_with('/') => {
            let mut parts = base.clone().into_parts();
            parts.path_and_query = url.path_and_query().cloned();
            Uri::from_parts(parts).map_err(|error| refuse(error.to_string()))?
        }
        _ => url,
    };
    match url.scheme_str() {
        Some("http" | "https") if url.host().is_some() => Ok(url),
        _ => Err(refuse("it must begin with http:// or https://".to_owned())),
    }
}

async fn request(download: &Download<'_>, url: &Uri) -> Result<Response<Incoming>, String> {
    let host = url.authority().map(ToString::to_string).unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    let mut request = Request::get(url.clone())
        .header(HOST, host)
        .body(no_body())
        .map_err(|error| error.to_string())?;
    if is_storage(url, download.storage_url) {
        let digest = Sha256::digest(b"");
        sign(&mut request, download.key, download.namespace, &digest);
    }
    send(request, HEAD_DEADLINE).await
}

async fn save(
    download: &Download<'_>,
    url: &Uri,
    response: Response<Incoming>,
) -> Result<Downloaded, Error> {
    let too_large = || Error::DownloadTooLarge {
        url: shown(download, url),
        limit: download.limit,
    };
    let length = response.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > download.limit) {
        return Err(too_large());
    }
    let mut to = match length {
        Some(length) if length <= MEMORY_BYTES => To::Memory(
            Collector::default(),
            Early::new(download.early.to_owned()),
            Hashing::start(),
        ),
        _ => To::file(download.path).await?,
    };
    let mut body = response.into_body();
    let mut size = 0;
    while let Some(frame) = next(download, url, &mut body).await? {
        let Ok(bytes) = frame.into_data() else {
            continue;
        };
        size += u64::try_from(bytes.len()).unwrap_or(0);
        if size > download.limit {
            return Err(too_large());
        }
        to.write(bytes, download.path).await?;
    }
    to.end(download.path).await
}

/// Computes a checksum on a thread of its own.
struct Hashing {
    pieces: mpsc::Sender<Bytes>,
    digest: JoinHandle<String>,
}

impl Hashing {
    fn start() -> Self {
        let (pieces, coming) = mpsc::channel::<Bytes>();
        let digest = spawn_blocking(move || {
            let mut hasher = Sha256::new();
            coming.iter().for_each(|piece| hasher.update(&piece));
            hex::encode(hasher.finalize())
        });
        Self { pieces, digest }
    }

    async fn end(self) -> Result<String, Error> {
        drop(self.pieces);
        self.digest.await.map_err(|_| Error::Stopped)
    }
}

/// Where bytes go.
enum To {
    Memory(Collector, Early, Hashing),
    File(Box<BufWriter<tokio::fs::File>>, Sha256),
}

impl To {
    async fn file(path: &Path) -> Result<Self, Error> {
        let file = tokio::fs::File::create_new(path).await;
        let file = file.map_err(Error::disk("make", path))?;
        let file = BufWriter::with_capacity(PIECE_BYTES, file);
        Ok(Self::File(Box::new(file), Sha256::new()))
    }

    async fn write(&mut self, bytes: Bytes, path: &Path) -> Result<(), Error> {
        match self {
            Self::Memory(all, early, hashing) => {
                // It ends before the channel only when everything does.
                _ = hashing.pieces.send(bytes.clone());
                early.take(&bytes);
                all.push(bytes);
            }
            Self::File(file, hasher) => {
                hasher.update(&bytes);
                let written = file.write_all(&bytes).await;
                written.map_err(Error::disk("write", path))?;
            }
        }
        Ok(())
    }

    async fn end(self, path: &Path) -> Result<Downloaded, Error> {
        match self {
            Self::Memory(all, early, hashing) => {
                let digest = hashing.end().await?;
                Ok(Downloaded::Memory(all.end(), early.written(), digest))
            }
            Self::File(mut file, hasher) => {
                file.flush().await.map_err(Error::disk("write", path))?;
                Ok(Downloaded::File(hex::encode(hasher.finalize())))
            }
        }
    }
}

async fn next(
    download: &Download<'_>,
    url: &Uri,
    body: &mut Incoming,
) -> Result<Option<hyper::body::Frame<bytes::Bytes>>, Error> {
    match timeout(IDLE_DEADLINE, body.frame()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(frame))) => Ok(Some(frame)),
        Ok(Some(Err(error))) => {
            let reason = format!("the download broke off before its end: {error}");
            Err(failed(download, url, reason))
        }
        Err(_) => {
            let reason = format!("nothing came for {} s", IDLE_DEADLINE.as_secs());
            Err(failed(download, url, reason))
        }
    }
}

fn failed(download: &Download<'_>, url: &Uri, reason: String) -> Error {
    let url = shown(download, url);
    Error::Download { url, reason }
}

/// A URL as it may be shown: queries of other servers can be credentials.
fn shown(download: &Download<'_>, url: &Uri) -> String {
    let host = url.host().unwrap_or_default();
    let scheme = url.scheme_str().unwrap_or_default();
    let rest = if is_storage(url, download.storage_url) {
        url.path_and_query().map_or("", |path| path.as_str())
    } else {
        url.path()
    };
    format!("{scheme}://{host}{rest}")
}
