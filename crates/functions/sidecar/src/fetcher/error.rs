//! Why code could not be brought or loaded.

use std::io;
use std::time::Duration;

use hyper::StatusCode;

use super::claim::Taken;
use crate::archive;

/// Why code could not be brought or loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Pod has code already.
    #[error(transparent)]
    Taken(#[from] Taken),
    /// A name with directories in it.
    #[error("file name {0:?} is refused: it must be one name without directories")]
    Filename(String),
    /// Something of another namespace.
    #[error("{what} {namespace}/{name} is refused: this Pod may only read namespace {own}")]
    OtherNamespace {
        /// Kind of object.
        what: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The Pod's namespace.
        own: String,
    },
    /// The API server said no, or did not answer.
    #[error("failed to read {what} {name} from the API server: {reason}")]
    Api {
        /// Kind of object.
        what: &'static str,
        /// Its name.
        name: String,
        /// Why.
        reason: String,
        /// There is no such object.
        missing: bool,
    },
    /// There is no package to run yet.
    #[error(
        "package {name} has no code to run: its build is {status:?}; see the package's build log"
    )]
    NotBuilt {
        /// Name of the package.
        name: String,
        /// Status of its build.
        status: String,
    },
    /// The archive names nothing.
    #[error("the package names no code: neither literal nor url is set")]
    NoCode,
    /// Code in an image.
    #[error("code in an image (oci) cannot be fetched; give it as an archive")]
    Oci,
    /// A kind of fetch that is not known.
    #[error("fetchType {0} is not known; 0 is source, 1 deployment, 2 url")]
    FetchType(u8),
    /// The literal is no base64.
    #[error("the literal archive is no base64: {0}")]
    Literal(#[source] base64::DecodeError),
    /// Other bytes than were promised.
    #[error(
        "the archive's checksum is wrong: sha256 {found} came instead of {expected}; was it changed after the package was written?"
    )]
    Checksum {
        /// What the package says.
        expected: String,
        /// What came.
        found: String,
    },
    /// A digest we do not compute.
    #[error("checksums of type {0:?} are not known; use sha256")]
    ChecksumKind(String),
    /// The URL cannot be used.
    #[error("archive URL {url:?} cannot be used: {reason}")]
    Url {
        /// The URL.
        url: String,
        /// Why.
        reason: String,
    },
    /// The download failed.
    #[error("failed to download {url}: {reason}")]
    Download {
        /// The URL, without a query that may hold secrets.
        url: String,
        /// Why.
        reason: String,
    },
    /// More bytes than are taken.
    #[error(
        "the archive at {url} is larger than {limit} bytes; leave out what the function does not need"
    )]
    DownloadTooLarge {
        /// The URL.
        url: String,
        /// The bound.
        limit: u64,
    },
    /// The archive breaks a rule.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The disk said no.
    #[error("failed to {step} {path}: {source}")]
    Disk {
        /// What was done.
        step: &'static str,
        /// To what.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A place for values that is refused.
    #[error("mountPath {path:?} of {what} {name} is refused: {reason}")]
    MountPath {
        /// Kind of object.
        what: &'static str,
        /// Its name.
        name: String,
        /// The path.
        path: String,
        /// Why.
        reason: String,
    },
    /// Two objects want the same file.
    #[error(
        "{first} and {second} both have a value for {path}; give one of them another mountPath"
    )]
    SameFile {
        /// The one that was first.
        first: String,
        /// The one that came after.
        second: String,
        /// The file.
        path: String,
    },
    /// Nothing accepts connections where the runtime should be.
    #[error("the runtime did not listen at {address} within {} s: {reason}; see the log of the runtime's container", waited.as_secs())]
    NotListening {
        /// Where it should be.
        address: std::net::SocketAddr,
        /// How long we waited.
        waited: Duration,
        /// What the last attempt said.
        reason: String,
    },
    /// The runtime answered that it cannot load the code.
    #[error("{}", String::from_utf8_lossy(body))]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its words.
        body: bytes::Bytes,
    },
    /// The runtime went away while it loaded the code.
    #[error(
        "the runtime ended while it loaded the function ({0}): the code exited, crashed or needed more memory than the environment allows; see the log of the runtime's container"
    )]
    Ended(String),
    /// The runtime did not answer.
    #[error("the function did not finish loading within {} s", .0.as_secs())]
    LoadTimeout(Duration),
    /// Storage did not take a package.
    #[error("failed to upload {file} to {url}: {reason}")]
    Upload {
        /// The package.
        file: String,
        /// Where to.
        url: String,
        /// Why.
        reason: String,
    },
    /// A task of ours ended.
    #[error("the fetcher is shutting down")]
    Stopped,
}

impl Error {
    /// The part that an error is from: what a person should look at.
    pub fn component(&self) -> &'static str {
        match self {
            Self::Refused { .. } | Self::Ended(_) | Self::LoadTimeout(_) => "function",
            Self::NotListening { .. } => "environment",
            _ => "fetcher",
        }
    }

    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Taken(_) => StatusCode::CONFLICT,
            Self::Filename(_)
            | Self::NoCode
            | Self::Oci
            | Self::FetchType(_)
            | Self::Literal(_)
            | Self::Checksum { .. }
            | Self::ChecksumKind(_)
            | Self::Url { .. }
            | Self::DownloadTooLarge { .. }
            | Self::MountPath { .. }
            | Self::SameFile { .. } => StatusCode::BAD_REQUEST,
            Self::Archive(error) if error.is_of_archive() => StatusCode::BAD_REQUEST,
            Self::OtherNamespace { .. } => StatusCode::FORBIDDEN,
            Self::Api { missing: true, .. } => StatusCode::NOT_FOUND,
            Self::Refused { status, .. } => *status,
            Self::Ended(_) | Self::Download { .. } | Self::Upload { .. } => StatusCode::BAD_GATEWAY,
            Self::NotListening { .. } | Self::LoadTimeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Api { .. }
            | Self::NotBuilt { .. }
            | Self::Archive(_)
            | Self::Disk { .. }
            | Self::Stopped => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(super) fn disk(
        step: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Disk { step, path, source }
    }
}
