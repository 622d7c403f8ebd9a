//! A registry that can only be read: the pull part of the OCI distribution API, under `/v2/`.
//!
//! Images are in a folder in OCI layout; its `index.json` names each by its full reference.
//! From there manifests, configurations and layers are found by digest, so nothing is served
//! that no image needs, and never a path from outside. The index is read again whenever its
//! file changes, so that images can be brought while this runs.
//!
//! It answers at an address of its own: hosts' programs reach this and nothing else.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use serde::Deserialize;

use crate::download::{response, send};

/// Name of an image in the index, as containerd reads and writes it.
const IMAGE_NAME: &str = "io.containerd.image.name";
const DIGEST_HEADER: HeaderName = HeaderName::from_static("docker-content-digest");
const VERSION_HEADER: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// Indexes in indexes that are followed.
const MAX_DEPTH: usize = 3;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// A manifest or an index: which of both shows in what is there.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    config: Option<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

/// Everything that the index leads to.
#[derive(Debug, Default)]
struct Contents {
    /// Digest by name and tag.
    tags: HashMap<(String, String), String>,
    /// Names of images.
    names: HashSet<String>,
    /// Media type of each manifest by digest.
    manifests: HashMap<String, String>,
    /// Digests of configurations and layers.
    blobs: HashSet<String>,
}

impl Contents {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("index.json");
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let index: Index =
            serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
        let mut contents = Self::default();
        for entry in index.manifests {
            let reference = entry.annotations.get(IMAGE_NAME);
            let Some((name, tag)) = reference.and_then(|text| name_and_tag(text)) else {
                bail!(
                    "{} lists {} without a reference in {IMAGE_NAME}",
                    path.display(),
                    entry.digest
                );
            };
            contents.names.insert(name.clone());
            contents.tags.insert((name, tag), entry.digest.clone());
            contents.follow(folder, entry, MAX_DEPTH)?;
        }
        Ok(contents)
    }

    fn follow(&mut self, folder: &Path, entry: Descriptor, depth: usize) -> Result<()> {
        let Some(path) = blob_path(folder, &entry.digest) else {
            bail!("{} is not a SHA-256 digest", entry.digest);
        };
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let manifest: Manifest =
            serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
        self.manifests.insert(entry.digest, entry.media_type);
        let blobs = manifest.layers.into_iter().chain(manifest.config);
        self.blobs.extend(blobs.map(|blob| blob.digest));
        for inner in manifest.manifests {
            let Some(depth) = depth.checked_sub(1) else {
                bail!("indexes are nested too deep at {}", inner.digest);
            };
            self.follow(folder, inner, depth)?;
        }
        Ok(())
    }

    /// File of what was asked for, with its digest and media type.
    fn find(&self, folder: &Path, ask: &Ask) -> Result<Found, Missing> {
        let (name, reference) = match ask {
            Ask::Manifest { name, reference } => (name, reference),
            Ask::Blob { name, digest } => (name, digest),
        };
        if !self.names.contains(name) {
            return Err(Missing::Name(name.clone()));
        }
        let missing = || Missing::of(ask);
        let (digest, kind) = match ask {
            Ask::Manifest { .. } => {
                let tag = (name.clone(), reference.clone());
                let digest = self.tags.get(&tag).unwrap_or(reference);
                let kind = self.manifests.get(digest).ok_or_else(missing)?;
                (digest, kind.as_str())
            }
            Ask::Blob { .. } => {
                let digest = self.blobs.get(reference).ok_or_else(missing)?;
                (digest, "application/octet-stream")
            }
        };
        Ok(Found {
            path: blob_path(folder, digest).ok_or_else(missing)?,
            digest: digest.clone(),
            kind: kind.to_owned(),
        })
    }
}

/// Name and tag of a full reference; its registry is left out.
fn name_and_tag(reference: &str) -> Option<(String, String)> {
    let (_, rest) = reference.split_once('/')?;
    let (name, tag) = rest.rsplit_once(':')?;
    (!name.is_empty() && !tag.is_empty()).then(|| (name.to_owned(), tag.to_owned()))
}

/// Place of a blob in the layout; `None` for what is no digest.
fn blob_path(folder: &Path, digest: &str) -> Option<PathBuf> {
    let hex = digest.strip_prefix("sha256:")?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_digest = hex.len() == 64 && hex.bytes().all(is_hex);
    is_digest.then(|| folder.join("blobs/sha256").join(hex))
}

#[derive(Debug, PartialEq, Eq)]
struct Found {
    path: PathBuf,
    digest: String,
    kind: String,
}

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
enum Ask {
    Manifest { name: String, reference: String },
    Blob { name: String, digest: String },
}

impl Ask {
    /// Reads what follows `/v2/`. Names and references are compared with what is known as
    /// they stand, so nothing in them is decoded.
    fn parse(rest: &str) -> Option<Self> {
        let split = |word: &str| {
            let (name, reference) = rest.rsplit_once(word)?;
            let is_whole = !name.is_empty() && !reference.is_empty() && !reference.contains('/');
            is_whole.then(|| (name.to_owned(), reference.to_owned()))
        };
        if let Some((name, reference)) = split("/manifests/") {
            return Some(Self::Manifest { name, reference });
        }
        let (name, digest) = split("/blobs/")?;
        Some(Self::Blob { name, digest })
    }
}

/// What is not there; the words end up in the events of a Pod.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Missing {
    #[error("the hub carries no image {0}")]
    Name(String),
    #[error("the hub carries image {name}, but not {reference}")]
    Manifest { name: String, reference: String },
    #[error("the hub has no blob {0}")]
    Blob(String),
}

impl Missing {
    fn of(ask: &Ask) -> Self {
        match ask {
            Ask::Manifest { name, reference } => Self::Manifest {
                name: name.clone(),
                reference: reference.clone(),
            },
            Ask::Blob { digest, .. } => Self::Blob(digest.clone()),
        }
    }

    /// Code in the answer, as the distribution API has it.
    fn code(&self) -> &'static str {
        match self {
            Self::Name(_) => "NAME_UNKNOWN",
            Self::Manifest { .. } => "MANIFEST_UNKNOWN",
            Self::Blob(_) => "BLOB_UNKNOWN",
        }
    }
}

/// The folder, and what was last read of it.
pub struct Registry {
    folder: PathBuf,
    read: Mutex<(Option<Stamp>, Arc<Contents>)>,
}

/// Tells one state of the index from another.
#[derive(PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Registry {
    /// A registry of the images in `folder`. Without an index there are none yet.
    ///
    /// # Errors
    /// When there is an index that cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        let registry = Self {
            folder: folder.to_owned(),
            read: Mutex::default(),
        };
        let images = registry.refresh()?.tags.len();
        tracing::info!(folder = %folder.display(), images, "images to be pulled");
        Ok(registry)
    }

    fn refresh(&self) -> Result<Arc<Contents>> {
        let path = self.folder.join("index.json");
        let stamp = match std::fs::metadata(&path) {
            Ok(metadata) => Some(Stamp::of(&metadata)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("look at {}", path.display())),
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.0 != stamp {
            let contents = match stamp {
                Some(_) => Contents::read(&self.folder)?,
                None => Contents::default(),
            };
            *read = (stamp, Arc::new(contents));
        }
        Ok(Arc::clone(&read.1))
    }

    /// The contents as they are now, else as they last were: a half-brought image must not
    /// take away those that are there.
    fn contents(&self) -> Arc<Contents> {
        self.refresh().unwrap_or_else(|error| {
            tracing::warn!(
                error = format!("{error:#}"),
                "the index of images is not used"
            );
            let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(&read.1)
        })
    }
}

/// The whole of what is answered.
pub fn router(registry: Arc<Registry>) -> Router {
    Router::new().fallback(answer).with_state(registry)
}

async fn answer(State(registry): State<Arc<Registry>>, request: Request) -> Response<Body> {
    let (method, uri) = (request.method(), request.uri());
    let mut answer = answer_to(&registry, method, uri, request.headers()).await;
    let version = HeaderValue::from_static("registry/2.0");
    answer.headers_mut().insert(VERSION_HEADER, version);
    answer
}

async fn answer_to(
    registry: &Registry,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Response<Body> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let message = "images can only be pulled from here";
        let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message);
        let allowed = HeaderValue::from_static("GET, HEAD");
        answer.headers_mut().insert(ALLOW, allowed);
        return answer;
    }
    let rest = uri.path().strip_prefix("/v2/");
    if rest == Some("") {
        return json(StatusCode::OK, "{}".to_owned());
    }
    let Some(ask) = rest.and_then(Ask::parse) else {
        let message = "only manifests and blobs of images are here";
        return refusal(StatusCode::NOT_FOUND, "UNSUPPORTED", message);
    };
    let found = match registry.contents().find(&registry.folder, &ask) {
        Ok(found) => found,
        Err(missing) => {
            let (code, message) = (missing.code(), missing.to_string());
            return refusal(StatusCode::NOT_FOUND, code, &message);
        }
    };
    let hex = found.digest.trim_start_matches("sha256:");
    match send(&found.path, hex, &found.kind, headers).await {
        Ok(mut answer) => {
            if let Ok(digest) = found.digest.parse() {
                answer.headers_mut().insert(DIGEST_HEADER, digest);
            }
            answer
        }
        Err(error) => {
            tracing::warn!(path = %found.path.display(), %error, "could not read a blob");
            let message = "the hub cannot read the blob";
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", message)
        }
    }
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let error = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
    json(status, error.to_string())
}

fn json(status: StatusCode, text: String) -> Response<Body> {
    let kind = "application/json".to_owned();
    response(status, &[(CONTENT_TYPE, kind)], Body::from(text))
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
