//! Whether a join is allowed, decided without IO, in the order in which it is told.
//!
//! Until the secret has matched, every refusal reads the same, so that nobody learns which
//! organizations or tokens exist.

use farplane_types::token::Token;
use farplane_types::{Host, JoinToken, Organization, names};
use hyper::StatusCode;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// Annotation on a host that a token made: the token's name.
pub const TOKEN_ANNOTATION: &str = "farplane.io/join-token";
/// Longest validity of a token, whatever it says.
const MAX_VALIDITY: SignedDuration = SignedDuration::from_hours(1);
/// What to do about most refusals.
const NEW: &str = "make a new command with `farplane host join-command`";

/// Why a join is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a token at all.
    #[error("{reason}")]
    NotAToken {
        /// What is wrong with it.
        reason: String,
    },
    /// No such token, or another secret.
    #[error("this token is unknown, was revoked, or is damaged; {NEW}")]
    Unknown,
    /// Too old.
    #[error("this token has expired; {NEW}, and check this machine's way to the hub")]
    Expired,
    /// Used for something else.
    #[error("this token was used already, by host {host}; {NEW}")]
    Used {
        /// Who used it.
        host: String,
    },
    /// The signing request is unusable.
    #[error("{reason}; this is a fault of the agent, install the hub's version of it")]
    BadRequest {
        /// What is wrong with it.
        reason: String,
    },
    /// Not a host name.
    #[error(
        "{name:?} cannot be a host's name; choose lower-case letters, digits and dashes, \
         at most 50, starting with a letter, and pass it with --name"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// The token is for another host.
    #[error("this token is for host {bound} only; pass --name {bound}, or {NEW}")]
    OtherHost {
        /// The host that it is for.
        bound: String,
    },
    /// The name belongs to another host.
    #[error(
        "host {name} exists already; pass another name with --name, or make a command for \
         exactly this host with `farplane host join-command --host {name}`"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The host is on its way out.
    #[error("host {name} is being removed; try again when it is gone")]
    BeingRemoved {
        /// The name.
        name: String,
    },
    /// The host belongs elsewhere.
    #[error("host {name} belongs to endpoint {endpoint}; make a token for that endpoint")]
    OtherEndpoint {
        /// The name.
        name: String,
        /// Its endpoint.
        endpoint: String,
    },
    /// The organization is full.
    #[error(
        "the organization has {limit} hosts, which is its limit; remove one with \
         `farplane host remove`, or ask the operator for more"
    )]
    LimitReached {
        /// The limit.
        limit: u32,
    },
}

impl Refusal {
    /// HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotAToken { .. } | Self::BadRequest { .. } | Self::BadName { .. } => {
                StatusCode::BAD_REQUEST
            }
            Self::Unknown | Self::Expired | Self::Used { .. } | Self::OtherHost { .. } => {
                StatusCode::FORBIDDEN
            }
            Self::NameTaken { .. } | Self::BeingRemoved { .. } | Self::OtherEndpoint { .. } => {
                StatusCode::CONFLICT
            }
            Self::LimitReached { .. } => StatusCode::FORBIDDEN,
        }
    }

    /// Short name for metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::NotAToken { .. } => "not-a-token",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Used { .. } => "used",
            Self::BadRequest { .. } => "bad-request",
            Self::BadName { .. } => "bad-name",
            Self::OtherHost { .. } => "other-host",
            Self::NameTaken { .. } => "name-taken",
            Self::BeingRemoved { .. } => "being-removed",
            Self::OtherEndpoint { .. } => "other-endpoint",
            Self::LimitReached { .. } => "limit",
        }
    }
}

/// Whether a token is used now or was used by this very join before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Now, by one update.
    First,
    /// Before: the answer got lost.
    Repeat,
}

/// What becomes of the host's object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Is made.
    Create,
    /// Is there and is the one meant.
    Existing,
}

/// Whether this secret is the token's. Says nothing on its age.
///
/// # Errors
/// [`Refusal::Unknown`], whatever is wrong.
pub fn authentic<'a>(
    token: &Token,
    found: Option<&'a JoinToken>,
) -> Result<&'a JoinToken, Refusal> {
    let object = found.ok_or(Refusal::Unknown)?;
    let deleted = object.metadata.deletion_timestamp.is_some();
    let matches = same(&token.secret_sha256(), &object.spec.secret_sha256);
    if deleted || !matches {
        return Err(Refusal::Unknown);
    }
    Ok(object)
}

/// Compares in a time that depends on the length only.
fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let differences = a.iter().zip(b).fold(0, |all, (x, y)| all | (x ^ y));
    a.len() == b.len() && std::hint::black_box(differences) == 0
}

/// Whether the token may be used now, by this key for this name.
///
/// # Errors
/// When it is too old, used otherwise, or for another host.
pub fn usable(
    object: &JoinToken,
    name: &str,
    key_sha256: &str,
    now: Timestamp,
) -> Result<Use, Refusal> {
    let created = object.metadata.creation_timestamp.as_ref();
    // Without a time of creation there is no bound; the API always sets one.
    let created = created.ok_or(Refusal::Expired)?.0;
    let last = created
        .checked_add(MAX_VALIDITY)
        .map_or(object.spec.expires_at.0, |last| {
            last.min(object.spec.expires_at.0)
        });
    if now >= last {
        return Err(Refusal::Expired);
    }
    let status = object.status.clone().unwrap_or_default();
    let use_ = match status.used_by {
        None => Use::First,
        Some(host) => {
            if host != name || status.key_sha256.as_deref() != Some(key_sha256) {
                return Err(Refusal::Used { host });
            }
            Use::Repeat
        }
    };
    if !names::is_valid_name(name) {
        return Err(Refusal::BadName {
            name: name.to_owned(),
        });
    }
    match &object.spec.host {
        Some(bound) if bound != name => Err(Refusal::OtherHost {
            bound: bound.clone(),
        }),
        _ => Ok(use_),
    }
}

/// Whether the name is free, or the host of that name is the one that the token means.
///
/// A token bound to a host means whatever host has the name, enrolled or not: an admin said
/// so. One without means the host that it made itself, on an earlier try.
///
/// # Errors
/// When the name belongs to another host.
pub fn target(
    object: &JoinToken,
    name: &str,
    use_: Use,
    existing: Option<&Host>,
) -> Result<Target, Refusal> {
    let Some(host) = existing else {
        return Ok(Target::Create);
    };
    let annotations = host.metadata.annotations.as_ref();
    let made_by = annotations.and_then(|list| list.get(TOKEN_ANNOTATION));
    let own = use_ == Use::Repeat && made_by == object.metadata.name.as_ref() && made_by.is_some();
    if object.spec.host.is_none() && !own {
        return Err(Refusal::NameTaken {
            name: name.to_owned(),
        });
    }
    if host.metadata.deletion_timestamp.is_some() {
        return Err(Refusal::BeingRemoved {
            name: name.to_owned(),
        });
    }
    if host.spec.endpoint != object.spec.endpoint {
        return Err(Refusal::OtherEndpoint {
            name: name.to_owned(),
            endpoint: host.spec.endpoint.clone(),
        });
    }
    Ok(Target::Existing)
}

/// Whether the organization may have one more host.
///
/// # Errors
/// When it is gone or full.
pub fn room(organization: Option<&Organization>, hosts: usize) -> Result<(), Refusal> {
    let organization = organization
        .filter(|it| it.metadata.deletion_timestamp.is_none())
        .ok_or(Refusal::Unknown)?;
    match organization.spec.limits.hosts {
        Some(limit) if hosts >= limit as usize => Err(Refusal::LimitReached { limit }),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
