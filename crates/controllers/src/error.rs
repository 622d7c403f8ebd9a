//! Failures of the controllers, and what each asks for: trying again or waiting.

pub(crate) use farplane_control::objects::is_code;
use std::path::PathBuf;

/// Why a reconciliation ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the hub's API failed.
    #[error("failed to {step}")]
    Hub {
        /// What was tried, with its object.
        step: String,
        /// What the API said.
        source: Box<kube::Error>,
    },
    /// A request to a plane's API server failed.
    #[error("failed to {step} in the cluster")]
    Plane {
        /// What was tried, with its object.
        step: String,
        /// What the API said.
        source: Box<kube::Error>,
    },
    /// A client for a plane could not be made.
    #[error("failed to make a client for plane {plane}")]
    PlaneClient {
        /// UID of the plane.
        plane: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Keys could not be made or read.
    #[error("failed to make the keys of {of}")]
    Keys {
        /// Whose.
        of: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A Secret lacks a key or holds something else than it should.
    #[error("Secret {name} does not hold {key}; delete the Secret to have it made again")]
    DamagedSecret {
        /// Namespace and name.
        name: String,
        /// Missing or damaged key.
        key: String,
    },
    /// The blueprint refused the plane.
    #[error("failed to decide what cluster {cluster} is made of")]
    Decide {
        /// Cluster.
        cluster: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The artifact server's index could not be read.
    #[error("failed to read the index of artifacts at {url}")]
    Artifacts {
        /// Address.
        url: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The directory of a plane's store could not be made or removed.
    #[error("failed to {step} {}", path.display())]
    Store {
        /// Verb.
        step: &'static str,
        /// Directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process may lead now.
    #[error(transparent)]
    LeaseLost(#[from] farplane_control::leader::Lost),
    /// The port of metrics and health could not be opened.
    #[error("failed to listen on {address}")]
    Listen {
        /// Address.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A controller ended although nobody asked it to.
    #[error("the controller of {kind} ended")]
    ControllerEnded {
        /// Kind.
        kind: &'static str,
    },
}

/// What to do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Passes by itself: try again, with growing pauses.
    Retry,
    /// Will not pass before somebody changes something.
    Wait,
    /// The process cannot go on.
    Fatal,
}

impl Error {
    /// Wraps a failure of the hub's API.
    pub(crate) fn hub(step: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let step = step.into();
        move |source| Self::Hub {
            step,
            source: Box::new(source),
        }
    }

    /// Wraps a failure of a plane's API.
    pub(crate) fn plane(step: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let step = step.into();
        move |source| Self::Plane {
            step,
            source: Box::new(source),
        }
    }

    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Hub { source, .. } => match source.as_ref() {
                // Invalid, forbidden and the like; a conflict and absence pass.
                kube::Error::Api(status) if matches!(status.code, 400 | 403 | 405 | 422) => {
                    Class::Wait
                }
                _ => Class::Retry,
            },
            Self::Plane { .. }
            | Self::PlaneClient { .. }
            | Self::Artifacts { .. }
            | Self::Store { .. }
            | Self::Keys { .. } => Class::Retry,
            Self::DamagedSecret { .. } | Self::Decide { .. } => Class::Wait,
            Self::LeaseLost(_) | Self::Listen { .. } | Self::ControllerEnded { .. } => Class::Fatal,
        }
    }

    /// The error with its causes, on one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        if let Self::Hub { source, .. } | Self::Plane { source, .. } = self
            && let kube::Error::Api(status) = source.as_ref()
        {
            // The API's own words; the rest of that error is for programs.
            return format!("{text}: {}", status.message);
        }
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            let cause = source.to_string();
            // Foreign errors often repeat their cause.
            if !text.contains(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
            next = source.source();
        }
        text
    }
}
