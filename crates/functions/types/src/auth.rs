//! Signatures on requests between the platform's own parts.
//!
//! Each service has a key, derived from the master secret by HKDF-SHA256 with the service's name
//! (and the namespace, where each tenant has its own). A request carries the time and
//! an HMAC-SHA256 over method, request target, digest of the body and that time; the receiver
//! takes times within [`SKEW_SECONDS`]. Fission's protocol, so its command line can talk to us.
//!
//! An empty secret means that nothing is signed or checked; we never install like that.

use http::HeaderMap;
use ring::{hkdf, hmac};
use sha2::{Digest, Sha256};

/// Header with the time of the signature, in seconds since 1970.
pub const TIMESTAMP_HEADER: &str = "x-fission-auth-timestamp";
/// Header with the signature, hex.
pub const SIGNATURE_HEADER: &str = "x-fission-auth-signature";
/// Header with the namespace whose key signed.
pub const NAMESPACE_HEADER: &str = "x-fission-auth-namespace";
/// Seconds by which the clocks of two parts may differ.
pub const SKEW_SECONDS: u64 = 60;

const INFO: &str = "fission-internal-v1:";

/// Who a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// Archives.
    Storage,
    /// Fetchers; one key per namespace.
    Fetcher,
    /// Builders; one key per namespace.
    Builder,
    /// The executor.
    Executor,
    /// The router's internal listener.
    RouterInternal,
    /// The queue of asynchronous calls. Our own.
    Invocations,
    /// Tokens of users of the router's public listener. Our own.
    RouterPublic,
}

impl Service {
    fn as_str(self) -> &'static str {
        match self {
            Self::Storage => "storagesvc",
            Self::Fetcher => "fetcher",
            Self::Builder => "builder",
            Self::Executor => "executor",
            Self::RouterInternal => "router-internal",
            Self::Invocations => "invocations",
            Self::RouterPublic => "router-public",
        }
    }
}

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No signature.
    #[error("the request is not signed: {TIMESTAMP_HEADER} and {SIGNATURE_HEADER} are needed")]
    Missing,
    /// Signed too long ago, or in the future.
    #[error("the signature's time is more than {SKEW_SECONDS} s away; compare both clocks")]
    Stale,
    /// Signed with another key, or for another request.
    #[error("the signature does not fit the request; is the secret the same on both sides?")]
    Wrong,
}

/// A key for one service.
#[derive(Clone)]
pub struct Key(Option<hmac::Key>);

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(if self.0.is_some() {
            "Key(..)"
        } else {
            "Key(none)"
        })
    }
}

struct Length;

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

/// The 32 bytes of a service's key.
pub fn derive(secret: &[u8], service: Service, namespace: Option<&str>) -> [u8; 32] {
    let mut info = format!("{INFO}{}", service.as_str());
    if let Some(namespace) = namespace {
        info.push(':');
        info.push_str(namespace);
    }
    let mut key = [0; 32];
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(secret);
    // Fails only for outputs of more than 255 blocks.
    if let Ok(material) = prk.expand(&[info.as_bytes()], Length) {
        _ = material.fill(&mut key);
    }
    key
}

impl Key {
    /// The key of a service, from the master secret.
    pub fn derived(secret: &[u8], service: Service, namespace: Option<&str>) -> Self {
        if secret.is_empty() {
            return Self(None);
        }
        Self::from_bytes(&derive(secret, service, namespace))
    }

    /// A key that was derived elsewhere; none when empty.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self((!bytes.is_empty()).then(|| hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// Signs a request: `target` is path and query as they are sent, `now` seconds since 1970.
    pub fn sign(&self, method: &str, target: &str, body: &[u8], now: u64) -> Option<Signed> {
        self.sign_digest(method, target, &Sha256::digest(body), now)
    }

    /// [`Self::sign`] for a body of which only the SHA-256 is at hand.
    pub fn sign_digest(
        &self,
        method: &str,
        target: &str,
        digest: &[u8],
        now: u64,
    ) -> Option<Signed> {
        let key = self.0.as_ref()?;
        let tag = hmac::sign(key, message(method, target, digest, now).as_bytes());
        Some(Signed {
            timestamp: now.to_string(),
            signature: hex::encode(tag.as_ref()),
        })
    }

    /// Checks a request's signature.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn verify(
        &self,
        method: &str,
        target: &str,
        body: &[u8],
        headers: &HeaderMap,
        now: u64,
    ) -> Result<(), Refusal> {
        self.verify_digest(method, target, &Sha256::digest(body), headers, now)
    }

    /// [`Self::verify`] for a body of which only the SHA-256 is at hand.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn verify_digest(
        &self,
        method: &str,
        target: &str,
        digest: &[u8],
        headers: &HeaderMap,
        now: u64,
    ) -> Result<(), Refusal> {
        let Some(key) = self.0.as_ref() else {
            return Ok(());
        };
        let timestamp = self.fresh(headers, now)?;
        let signature = headers
            .get(SIGNATURE_HEADER)
            .and_then(|value| hex::decode(value.as_bytes()).ok())
            .ok_or(Refusal::Wrong)?;
        let message = message(method, target, digest, timestamp);
        hmac::verify(key, message.as_bytes(), &signature).map_err(|_| Refusal::Wrong)
    }

    /// What can be checked before the body is read: is there a signature of now?
    /// Returns its time; 0 when nothing is checked.
    ///
    /// # Errors
    /// Why the request cannot be accepted, whatever its body is.
    pub fn fresh(&self, headers: &HeaderMap, now: u64) -> Result<u64, Refusal> {
        if self.0.is_none() {
            return Ok(0);
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (timestamp, _) = text(TIMESTAMP_HEADER)
            .zip(text(SIGNATURE_HEADER))
            .ok_or(Refusal::Missing)?;
        let timestamp: u64 = timestamp.parse().map_err(|_| Refusal::Wrong)?;
        if timestamp.abs_diff(now) > SKEW_SECONDS {
            return Err(Refusal::Stale);
        }
        Ok(timestamp)
    }
}

/// Values of the two headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// [`TIMESTAMP_HEADER`].
    pub timestamp: String,
    /// [`SIGNATURE_HEADER`].
    pub signature: String,
}

impl Signed {
    /// Both headers.
    pub fn headers(self) -> [(&'static str, String); 2] {
        [
            (TIMESTAMP_HEADER, self.timestamp),
            (SIGNATURE_HEADER, self.signature),
        ]
    }
}

/// What is signed. The time is floored to a minute here, not in the header.
fn message(method: &str, target: &str, digest: &[u8], timestamp: u64) -> String {
    let digest = hex::encode(digest);
    let minute = timestamp - timestamp % 60;
    format!("{method}\n{target}\n{digest}\n{minute}")
}

/// Seconds since 1970.
pub fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_017;

    fn headers(signed: Signed) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in signed.headers() {
            map.insert(name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn a_signed_request_is_accepted_and_a_changed_one_is_not() {
        let key = Key::derived(b"master", Service::Executor, None);
        let signed = key.sign("POST", "/a?b=c", b"body", NOW).unwrap();
        let headers = headers(signed);
        let check =
            |method, target, body: &[u8], now| key.verify(method, target, body, &headers, now);
        assert_eq!(check("POST", "/a?b=c", b"body", NOW), Ok(()));
        assert_eq!(check("GET", "/a?b=c", b"body", NOW), Err(Refusal::Wrong));
        assert_eq!(check("POST", "/a?b=d", b"body", NOW), Err(Refusal::Wrong));
        assert_eq!(check("POST", "/a?b=c", b"bodY", NOW), Err(Refusal::Wrong));
        assert_eq!(
            check("POST", "/a?b=c", b"body", NOW + 300),
            Err(Refusal::Stale)
        );
        assert_eq!(
            check("POST", "/a?b=c", b"body", NOW - 300),
            Err(Refusal::Stale)
        );
        assert_eq!(
            key.verify("POST", "/a", b"", &HeaderMap::new(), NOW),
            Err(Refusal::Missing)
        );
    }

    /// Made with Python's hmac from the protocol's words, with a time within a minute as
    /// Fission's command sends it.
    #[test]
    fn the_signature_is_the_one_of_the_standard() {
        let key = Key::derived(b"0123456789abcdef", Service::Storage, None);
        let signed = key
            .sign("GET", "/v1/archive?id=x", b"", 1_700_000_017)
            .unwrap();
        assert_eq!(signed.timestamp, "1700000017");
        assert_eq!(signed.signature, SIGNED);
        let headers = headers(signed);
        let digest = Sha256::digest(b"");
        let verify = |now| key.verify_digest("GET", "/v1/archive?id=x", &digest, &headers, now);
        assert_eq!(verify(1_700_000_077), Ok(()));
        assert_eq!(verify(1_700_000_078), Err(Refusal::Stale));
    }
    const SIGNED: &str = "bed8628353d18141b165a31d842b053686a32182a4bb1dfc2c31d928e277dbe3";

    #[test]
    fn keys_of_services_and_namespaces_differ() {
        let mut keys = std::collections::BTreeSet::new();
        let services = [
            Service::Storage,
            Service::Fetcher,
            Service::Builder,
            Service::Executor,
            Service::RouterInternal,
        ];
        for service in services {
            for namespace in [None, Some("a"), Some("b"), Some("a:b")] {
                assert!(keys.insert(derive(b"master", service, namespace)));
            }
        }
        assert!(keys.insert(derive(b"other", Service::Storage, None)));
    }

    /// Made with an independent implementation (Python's hmac): a change would shut out
    /// every other implementation.
    #[test]
    fn the_key_is_the_one_of_the_standard() {
        let key = derive(b"0123456789abcdef", Service::Fetcher, Some("default"));
        assert_eq!(hex::encode(key), KNOWN);
    }
    const KNOWN: &str = "5c4b203e9b1efe9c97bec31f52f1c66160a16419f6d57d0df875ea84af496b39";

    #[test]
    fn without_a_secret_everything_passes() {
        let key = Key::derived(b"", Service::Executor, None);
        assert_eq!(key.sign("GET", "/", b"", NOW), None);
        assert_eq!(key.verify("GET", "/", b"", &HeaderMap::new(), NOW), Ok(()));
    }
}
