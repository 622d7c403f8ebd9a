//! Answers of the router's own.

use farplane_functions_types::names::header;
use farplane_functions_types::wire::Failure;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};

use crate::body::Body;
use crate::state::Refusal;

/// The id of a request: the client's own where it has one.
pub fn request_id<B>(request: &Request<B>) -> String {
    let given = request
        .headers()
        .get(header::REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    match given {
        Some(id) if (1..=128).contains(&id.len()) => id.to_owned(),
        // The system's own source of randomness would be a call into the kernel.
        _ => uuid::Builder::from_random_bytes(rand::random())
            .into_uuid()
            .to_string(),
    }
}

/// Tells a client why it was refused, and the log too.
pub fn refused(id: &str, refusal: Refusal) -> Response<Body> {
    let Refusal { status, failure } = refusal;
    tracing::info!(%status, component = failure.component, reason = failure.reason, id, "refused");
    let component = HeaderValue::from_str(&failure.component);
    let failure = Failure {
        request_id: id.to_owned(),
        ..failure
    };
    let mut response = json(status, &failure);
    if let Ok(component) = component {
        response.headers_mut().insert(header::COMPONENT, component);
    }
    response
}

/// An answer in words.
pub fn text(status: StatusCode, text: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::text(text));
    *response.status_mut() = status;
    response
}

/// An answer for programs.
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = text(status, body);
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
