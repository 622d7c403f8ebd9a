//! Who asks, by the key that signed.

use axum::http::HeaderMap;
use farplane_functions_types::auth::{Key, NAMESPACE_HEADER, Service, now};

use crate::error::Error;
use crate::id::{ArchiveId, is_namespace};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// The platform's own parts, and people with the master secret.
    Platform,
    /// A fetcher of this namespace.
    Tenant(String),
}

impl Principal {
    /// Namespace of archives that it uploads.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Platform => None,
            Self::Tenant(namespace) => Some(namespace),
        }
    }

    /// Whether it may read an archive. Those without an owner are uploaded with the master
    /// secret, for packages of any namespace; their ids cannot be guessed.
    pub fn may_read(&self, id: &ArchiveId) -> bool {
        match self {
            Self::Platform => true,
            Self::Tenant(namespace) => id.namespace.as_ref().is_none_or(|owner| owner == namespace),
        }
    }

    /// Whether it may delete an archive, and is shown it in lists.
    pub fn owns(&self, id: &ArchiveId) -> bool {
        match self {
            Self::Platform => true,
            Self::Tenant(namespace) => id.namespace.as_ref() == Some(namespace),
        }
    }
}

/// A request that says who it is from; not proven until its body is known.
#[derive(Debug)]
pub struct Claim {
    principal: Principal,
    /// Any of them will do; none when nothing is checked.
    keys: Vec<Key>,
}

impl Claim {
    /// Reads who a request says it is from, and whether its signature is of now.
    ///
    /// # Errors
    /// When it cannot be accepted, whatever its body is.
    pub fn of(headers: &HeaderMap, secrets: &[Vec<u8>]) -> Result<Self, Error> {
        let namespace = match headers.get(NAMESPACE_HEADER).map(|value| value.to_str()) {
            None => None,
            Some(Ok("")) => None,
            Some(Ok(namespace)) if is_namespace(namespace) => Some(namespace.to_owned()),
            Some(_) => return Err(Error::Namespace),
        };
        let keys: Vec<Key> = secrets
            .iter()
            .filter(|secret| !secret.is_empty())
            .map(|secret| Key::derived(secret, Service::Storage, namespace.as_deref()))
            .collect();
        if let Some(key) = keys.first() {
            key.fresh(headers, now())?;
        }
        let principal = namespace.map_or(Principal::Platform, Principal::Tenant);
        Ok(Self { principal, keys })
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// When no key made it.
    pub fn prove(
        self,
        method: &str,
        target: &str,
        headers: &HeaderMap,
        digest: &[u8],
    ) -> Result<Principal, Error> {
        let mut refusal = None;
        for key in &self.keys {
            match key.verify_digest(method, target, digest, headers, now()) {
                Ok(()) => return Ok(self.principal),
                Err(error) => refusal = Some(error),
            }
        }
        match refusal {
            None => Ok(self.principal),
            Some(refusal) => Err(refusal.into()),
        }
    }
}
