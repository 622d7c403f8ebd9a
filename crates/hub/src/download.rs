//! Sends a file, or the part of it that `Range` asks for.

use std::io::SeekFrom;
use std::path::Path;

use axum::body::Body;
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE};
use axum::http::{HeaderMap, HeaderName, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

/// Read and sent at a time.
const CHUNK_BYTES: usize = 128 * 1024;

/// Answers with a file whose content is named by `sha256`.
///
/// # Errors
/// When it cannot be read.
pub async fn send(
    path: &Path,
    sha256: &str,
    kind: &str,
    headers: &HeaderMap,
) -> std::io::Result<Response<Body>> {
    let mut file = tokio::fs::File::open(path).await?;
    let size = file.metadata().await?.len();
    let asked = headers.get(RANGE).and_then(|value| value.to_str().ok());
    let (status, first, length) = match range(asked, size) {
        Range::All => (StatusCode::OK, 0, size),
        Range::Part { first, length } => (StatusCode::PARTIAL_CONTENT, first, length),
        Range::Unsatisfiable => {
            let headers = [(CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok(response(
                StatusCode::RANGE_NOT_SATISFIABLE,
                &headers,
                Body::empty(),
            ));
        }
    };
    file.seek(SeekFrom::Start(first)).await?;
    let stream = ReaderStream::with_capacity(file.take(length), CHUNK_BYTES);
    let mut all = vec![
        (CONTENT_TYPE, kind.to_owned()),
        (CONTENT_LENGTH, length.to_string()),
        (ACCEPT_RANGES, "bytes".to_owned()),
        (ETAG, format!("\"{sha256}\"")),
    ];
    if status == StatusCode::PARTIAL_CONTENT {
        let last = first + length - 1;
        all.push((CONTENT_RANGE, format!("bytes {first}-{last}/{size}")));
    }
    Ok(response(status, &all, Body::from_stream(stream)))
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    All,
    Part { first: u64, length: u64 },
    Unsatisfiable,
}

/// Reads `bytes=a-b`, `bytes=a-` and `bytes=-n`. Anything else counts as not asked, as
/// the standard allows.
fn range(header: Option<&str>, size: u64) -> Range {
    let Some((first, last)) = header
        .and_then(|value| value.strip_prefix("bytes="))
        .filter(|value| !value.contains(','))
        .and_then(|value| value.split_once('-'))
    else {
        return Range::All;
    };
    let (first, last) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.min(size.saturating_sub(1))),
        (Ok(first), Err(_)) if last.is_empty() => (first, size.saturating_sub(1)),
        (Err(_), Ok(0)) if first.is_empty() => return Range::Unsatisfiable,
        (Err(_), Ok(count)) if first.is_empty() => {
            (size.saturating_sub(count), size.saturating_sub(1))
        }
        _ => return Range::All,
    };
    if first >= size {
        return Range::Unsatisfiable;
    }
    Range::Part {
        first,
        length: last - first + 1,
    }
}

/// A plain text answer.
pub fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    response(
        status,
        &[(CONTENT_TYPE, "text/plain".to_owned())],
        Body::from(text),
    )
}

/// An answer with these headers.
pub fn response(
    status: StatusCode,
    headers: &[(HeaderName, String)],
    body: Body,
) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name.clone(), value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let part = |first, length| Range::Part { first, length };
        assert_eq!(range(Some("bytes=0-0"), 10), part(0, 1));
        assert_eq!(range(Some("bytes=2-99"), 10), part(2, 8));
        assert_eq!(range(Some("bytes=-3"), 10), part(7, 3));
        assert_eq!(range(Some("bytes=-99"), 10), part(0, 10));
        assert_eq!(range(Some("bytes=-0"), 10), Range::Unsatisfiable);
        assert_eq!(range(Some("bytes=0-"), 0), Range::Unsatisfiable);
        for odd in [
            "bytes=5-2",
            "bytes=0-1,3-4",
            "lines=1-2",
            "bytes=x-y",
            "bytes=-",
        ] {
            assert_eq!(range(Some(odd), 10), Range::All, "{odd}");
        }
    }
}
