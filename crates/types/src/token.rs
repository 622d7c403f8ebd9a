//! The text of a join token: `fpj1.<hub CA sha256>.<organization>.<id>.<secret>`.
//!
//! The hash of the hub's CA certificate (DER) comes first, so that a host proves the hub
//! before it sends the secret. `<id>` is the name of the `JoinToken` object.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// A parsed join token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the hub's CA certificate in DER, hex.
    pub ca_sha256: String,
    /// Organization.
    pub organization: String,
    /// Name of the `JoinToken`.
    pub id: String,
    /// The secret, hex.
    pub secret: String,
}

impl Token {
    /// What the `JoinToken` stores of the secret.
    pub fn secret_sha256(&self) -> String {
        hex::encode(Sha256::digest(self.secret.as_bytes()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Token({}/{})", self.organization, self.id)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ca_sha256,
            organization,
            id,
            secret,
        } = self;
        write!(formatter, "fpj1.{ca_sha256}.{organization}.{id}.{secret}")
    }
}

/// Text that is not a join token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "not a join token: {reason}; copy the whole command that `farplane host join-command` printed"
)]
pub struct InvalidToken {
    /// What is wrong with it.
    pub reason: &'static str,
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |reason| InvalidToken { reason };
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [prefix, ca_sha256, organization, id, secret] = parts.as_slice() else {
            return Err(invalid("it must have five parts"));
        };
        let is_hash = |part: &str| part.len() == 64 && hex::decode(part).is_ok();
        match () {
            () if *prefix != "fpj1" => Err(invalid("it must start with fpj1")),
            () if !is_hash(ca_sha256) => Err(invalid("the hash of the hub's CA is damaged")),
            () if !crate::names::is_valid_name(organization) => {
                Err(invalid("the organization is not a name"))
            }
            () if !crate::names::is_valid_name(id) => Err(invalid("the id is not a name")),
            () if !is_hash(secret) => Err(invalid("the secret is damaged")),
            () => Ok(Self {
                ca_sha256: (*ca_sha256).to_owned(),
                organization: (*organization).to_owned(),
                id: (*id).to_owned(),
                secret: (*secret).to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_their_text_and_hide_their_secret() {
        let token = Token {
            ca_sha256: "ab".repeat(32),
            organization: "acme".into(),
            id: "j1".into(),
            secret: "cd".repeat(32),
        };
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("cdcd"));
    }

    #[test]
    fn damaged_tokens_say_what_is_wrong() {
        for text in ["", "fpj1.a.b.c.d", "x", "fpj1..acme.j1.", "fpj2.a.b.c.d"] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }
}
