//! What can go wrong, and what is answered then.

use std::io;
use std::net::SocketAddr;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use farplane_functions_types::auth::Refusal;
use farplane_functions_types::names::header;

/// Why storage does not start, or a request is not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken.
    #[error("failed to listen at {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The store cannot be used.
    #[error("failed to open the store at {place}: {reason}")]
    Open {
        /// Directory or bucket.
        place: String,
        /// Why.
        reason: String,
    },
    /// Not signed as it should be.
    #[error("{0}")]
    Signature(#[from] Refusal),
    /// The namespace of a signature is none.
    #[error("the namespace of the signature is no namespace")]
    Namespace,
    /// No such archive, or none that the caller may know of.
    #[error("there is no such archive")]
    NotFound,
    /// `id` is missing.
    #[error("parameter id is missing")]
    NoId,
    /// The form is not as it should be.
    #[error("the upload cannot be read: {0}; send a multipart form with the file as `uploadfile`")]
    Form(String),
    /// Another size than was promised.
    #[error("the file has {found} bytes, X-File-Size says {said}; was the upload cut off?")]
    Size {
        /// What the header says.
        said: u64,
        /// What came.
        found: u64,
    },
    /// X-File-Size is missing or no number.
    #[error("header X-File-Size is missing or no number")]
    NoSize,
    /// Larger than is taken.
    #[error("the archive is larger than {limit} bytes; leave out what the function does not need")]
    TooLarge {
        /// The bound.
        limit: u64,
    },
    /// Nothing came.
    #[error("nothing of the upload came for {0} s")]
    Late(u64),
    /// The volume is full.
    #[error("the volume of the archives is full; make it larger, or delete packages")]
    Full,
    /// The disk said no.
    #[error("failed to {step}: {source}")]
    Disk {
        /// What was done.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The store said no.
    #[error("failed to {step} an archive: {source}")]
    Store {
        /// What was done.
        step: &'static str,
        /// Why.
        source: object_store::Error,
    },
}

impl Error {
    pub(crate) fn disk(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Disk { step, source },
        }
    }

    pub(crate) fn store(step: &'static str) -> impl FnOnce(object_store::Error) -> Self {
        move |source| match source {
            object_store::Error::NotFound { .. } => Self::NotFound,
            source => Self::Store { step, source },
        }
    }

    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Signature(_) => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Namespace | Self::NoId | Self::Form(_) | Self::Size { .. } | Self::NoSize => {
                StatusCode::BAD_REQUEST
            }
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Late(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Full => StatusCode::INSUFFICIENT_STORAGE,
            Self::Store { .. } => StatusCode::BAD_GATEWAY,
            Self::Disk { .. } | Self::Listen { .. } | Self::Open { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::error!(error = %self, "a request failed");
        }
        (status, [(header::COMPONENT, "storage")], self.to_string()).into_response()
    }
}
