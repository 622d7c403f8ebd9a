//! Takes a package to storage.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use farplane_functions_types::Checksum;
use farplane_functions_types::wire::{UploadReply, UploadRequest};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use hyper::{Request, Uri};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio_util::io::ReaderStream;

use super::Error;
use super::place::{remove, temporary};
use super::settings::Settings;
use crate::archive::{self, name};
use crate::client::{ARCHIVE_PATH, Body, send, sign};

/// How long the whole upload may take.
const DEADLINE: Duration = Duration::from_secs(300);
/// Header with the size of the file within the form.
const SIZE_HEADER: &str = "x-file-size";
/// Ends no file by chance: 128 random bits, chosen once.
const BOUNDARY: &str = "farplane-5c1f0c6a9d7e4b38a2e46f1b7d90c3e5";

/// Packs a file or directory of the shared directory if asked to, and uploads it.
///
/// # Errors
/// When it cannot be packed, or storage does not take it.
pub async fn upload(settings: &Settings, request: &UploadRequest) -> Result<UploadReply, Error> {
    let name = &request.filename;
    if !name::is_plain(name) {
        return Err(Error::Filename(name.clone()));
    }
    let temporary = temporary(&settings.shared, name, "upload");
    let packing = Packing {
        source: settings.shared.join(name),
        output: temporary.clone(),
        pack: request.archive_package,
        limits: settings.limits,
    };
    let packed = tokio::task::spawn_blocking(move || packing.run())
        .await
        .map_err(|_| Error::Stopped)?;
    let uploaded = match packed {
        Ok(packed) => send_file(settings, request, &temporary, packed).await,
        Err(error) => Err(error),
    };
    remove(&temporary);
    uploaded
}

struct Packing {
    source: PathBuf,
    output: PathBuf,
    pack: bool,
    limits: archive::Limits,
}

/// What is sent.
struct Packed {
    size: u64,
    /// Of the file.
    checksum: Checksum,
    /// Of the form around it.
    digest: Vec<u8>,
}

impl Packing {
    fn run(&self) -> Result<Packed, Error> {
        if self.pack {
            let output =
                File::create_new(&self.output).map_err(Error::disk("make", &self.output))?;
            archive::pack(&self.source, io::BufWriter::new(output), &self.limits)?;
        } else {
            self.copy()?;
        }
        let hash = || {
            let (mut file, mut form) = (Sha256::new(), Sha256::new_with_prefix(head()));
            let mut reader = File::open(&self.output)?;
            let mut buffer = vec![0; 64 * 1024];
            let mut size = 0;
            loop {
                let count = reader.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                size += u64::try_from(count).unwrap_or(0);
                file.update(&buffer[..count]);
                form.update(&buffer[..count]);
            }
            form.update(tail());
            Ok::<_, io::Error>(Packed {
                size,
                checksum: Checksum::sha256(hex::encode(file.finalize())),
                digest: form.finalize().to_vec(),
            })
        };
        hash().map_err(Error::disk("read", &self.output))
    }

    /// A copy, since a build may still change the file; never of what a link leads to.
    fn copy(&self) -> Result<(), Error> {
        let copy = || {
            let parent = self.source.parent().unwrap_or(Path::new("/"));
            let name = self.source.file_name().unwrap_or_default();
            let mut tree = archive::tree::Tree::open(parent)?;
            let mut file = tree.open_entry(&[&name.to_string_lossy()])?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("it is no file; ask for it to be packed"));
            }
            io::copy(&mut file, &mut File::create_new(&self.output)?).map(drop)
        };
        copy().map_err(Error::disk("copy", &self.source))
    }
}

fn head() -> String {
    format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"uploadfile\"; \
         filename=\"package.zip\"\r\nContent-Type: application/octet-stream\r\n\r\n"
    )
}

fn tail() -> String {
    format!("\r\n--{BOUNDARY}--\r\n")
}

async fn send_file(
    settings: &Settings,
    request: &UploadRequest,
    path: &Path,
    packed: Packed,
) -> Result<UploadReply, Error> {
    let base = request.storage_url.trim_end_matches('/');
    let failed = |reason: String| Error::Upload {
        file: request.filename.clone(),
        url: base.to_owned(),
        reason,
    };
    if packed.size > settings.download_limit {
        let limit = settings.download_limit;
        let reason = format!("it has {} bytes, at most {limit} are taken", packed.size);
        return Err(failed(reason));
    }
    let file = tokio::fs::File::open(path)
        .await
        .map_err(Error::disk("open", path))?;
    let mut post = form(base, file, &packed).map_err(failed)?;
    let (key, namespace) = (&settings.storage_key, &settings.namespace);
    sign(&mut post, key, namespace, &packed.digest);
    let response = send(post, DEADLINE).await.map_err(failed)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), 64 * 1024)
        .collect()
        .await;
    let body = body.map_err(|error| failed(error.to_string()))?.to_bytes();
    if !status.is_success() {
        let words = String::from_utf8_lossy(&body);
        return Err(failed(format!("storage answered {status}: {words}")));
    }
    let stored: Stored =
        serde_json::from_slice(&body).map_err(|error| failed(error.to_string()))?;
    Ok(UploadReply {
        archive_download_url: format!("{base}{ARCHIVE_PATH}?id={}", escaped(&stored.id)),
        checksum: packed.checksum,
    })
}

#[derive(Deserialize)]
struct Stored {
    id: String,
}

fn form(base: &str, file: tokio::fs::File, packed: &Packed) -> Result<Request<Body>, String> {
    let (head, tail) = (head(), tail());
    let around = u64::try_from(head.len() + tail.len()).unwrap_or(0);
    let part = |text: String| stream::iter([Ok::<_, io::Error>(Bytes::from(text))]);
    let parts = part(head)
        .chain(ReaderStream::with_capacity(file, 64 * 1024))
        .chain(part(tail))
        .map_ok(Frame::data);
    let url: Uri = format!("{base}{ARCHIVE_PATH}")
        .parse()
        .map_err(|error| format!("the URL cannot be read: {error}"))?;
    let host = url.authority().map(ToString::to_string).unwrap_or_default();
    Request::post(url)
        .header(HOST, host)
        .header(CONTENT_LENGTH, packed.size + around)
        .header(SIZE_HEADER, packed.size)
        .header(
            CONTENT_TYPE,
            format!("multipart/form-data; boundary={BOUNDARY}"),
        )
        .body(BodyExt::boxed(StreamBody::new(parts)))
        .map_err(|error| error.to_string())
}

/// An id within a query.
fn escaped(id: &str) -> String {
    let mut escaped = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            other => {
                use std::fmt::Write as _;
                _ = write!(escaped, "%{other:02X}");
            }
        }
    }
    escaped
}
