//! Why something of the build manager did not work.

use std::time::Duration;

/// Why something of the build manager did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server said no.
    #[error("failed to {step} {name}: {source}")]
    Api {
        /// What was done.
        step: &'static str,
        /// To what.
        name: String,
        /// Why.
        source: kube::Error,
    },
    /// An object cannot be written down.
    #[error("failed to write {name} as JSON: {source}")]
    Json {
        /// Which object.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
}

impl Error {
    pub(crate) fn api(
        step: &'static str,
        name: impl Into<String>,
    ) -> impl FnOnce(kube::Error) -> Self {
        let name = name.into();
        move |source| Self::Api { step, name, source }
    }

    /// True when trying again is of no use before something changes.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::Api {
                source: kube::Error::Api(status),
                ..
            } => (400..500).contains(&status.code) && !matches!(status.code, 404 | 409 | 429),
            Self::Api { .. } => false,
            Self::Json { .. } => true,
        }
    }
}

/// Why a build gave no package.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The source or the command is at fault. Final until they change.
    #[error("{0}")]
    Refused(String),
    /// The builder could not be reached, or went away. Tried again.
    #[error("{0}")]
    Broken(String),
    /// A part did not answer in time. Final: it would take as long again.
    #[error("{what} did not answer within {} s; the build was stopped", deadline.as_secs())]
    Deadline {
        /// Which part.
        what: &'static str,
        /// How long it had.
        deadline: Duration,
    },
}

impl BuildError {
    /// True when it may go well the next time.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Broken(_))
    }
}
