//! Identities in certificates: a URI subject alternative name per role.
//!
//! Parts are names without `/`, so that no two identities share a URI.

use std::fmt;
use std::str::FromStr;

/// Who holds a certificate issued by the hub.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// `farplane://host/<organization>/<endpoint>/<host>/<uid>`
    Host {
        /// Organization.
        organization: String,
        /// Endpoint.
        endpoint: String,
        /// Name of the host.
        host: String,
        /// UID of the `Host` object: a new object of the same name is another host.
        uid: String,
    },
    /// `farplane://plane/<uid>`: the API servers of one plane, for egress.
    Plane {
        /// UID of the plane's object.
        uid: String,
    },
    /// `farplane://gateway`: a gateway of this hub.
    Gateway,
}

/// A URI that names no identity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{uri:?} names no identity")]
pub struct InvalidIdentity {
    /// What was read.
    pub uri: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host {
                organization,
                endpoint,
                host,
                uid,
            } => {
                write!(
                    formatter,
                    "farplane://host/{organization}/{endpoint}/{host}/{uid}"
                )
            }
            Self::Plane { uid } => write!(formatter, "farplane://plane/{uid}"),
            Self::Gateway => formatter.write_str("farplane://gateway"),
        }
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidIdentity {
            uri: uri.to_owned(),
        };
        let rest = uri.strip_prefix("farplane://").ok_or_else(invalid)?;
        let parts: Vec<&str> = rest.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(invalid());
        }
        match parts.as_slice() {
            ["host", organization, endpoint, host, uid] => Ok(Self::Host {
                organization: (*organization).to_owned(),
                endpoint: (*endpoint).to_owned(),
                host: (*host).to_owned(),
                uid: (*uid).to_owned(),
            }),
            ["plane", uid] => Ok(Self::Plane {
                uid: (*uid).to_owned(),
            }),
            ["gateway"] => Ok(Self::Gateway),
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_survive_their_uri() {
        let host = Identity::Host {
            organization: "acme".into(),
            endpoint: "site".into(),
            host: "one".into(),
            uid: "u-1".into(),
        };
        for identity in [
            host,
            Identity::Plane { uid: "u-2".into() },
            Identity::Gateway,
        ] {
            assert_eq!(identity.to_string().parse(), Ok(identity));
        }
    }

    #[test]
    fn odd_uris_name_nobody() {
        for uri in [
            "",
            "farplane://",
            "farplane://host/a/b/c",
            "farplane://plane/",
            "farplane://gateway/x",
            "https://plane/x",
            "farplane://host/a//b/c",
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri}");
        }
    }
}
