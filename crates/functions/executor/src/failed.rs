//! Why a caller gets no instance.

use farplane_functions_types::wire::Failure;
use http::StatusCode;

/// Why a caller gets no instance: what routers pass on to clients.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{component}: {reason}")]
pub struct Failed {
    /// HTTP status of the answer.
    pub status: StatusCode,
    /// Part that a person should look at.
    pub component: String,
    /// The cause in words.
    pub reason: String,
}

impl Failed {
    pub(crate) fn new(
        status: StatusCode,
        component: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            status,
            component: component.into(),
            reason: reason.into(),
        }
    }

    /// Passes: the same request may succeed later.
    pub(crate) fn later(component: &str, reason: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, component, reason)
    }

    /// Does not pass before an object is changed.
    pub(crate) fn wrong(component: &str, reason: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, component, reason)
    }

    pub(crate) fn full(limit: usize) -> Self {
        let reason = format!(
            "all {limit} instances that the function's concurrency allows are known to the caller"
        );
        Self::new(StatusCode::TOO_MANY_REQUESTS, "executor", reason)
    }

    /// Says something about the function, not about a moment.
    pub(crate) fn is_worth_telling(&self) -> bool {
        let passes = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        !passes.contains(&self.status)
    }

    /// As it is sent.
    pub(crate) fn message(&self) -> Failure {
        Failure {
            component: self.component.clone(),
            reason: self.reason.clone(),
            ..Failure::default()
        }
    }
}
