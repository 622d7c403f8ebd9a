//! Names of archives. Pure.
//!
//! `/fission/fission-functions/<uuid>`, or `/fission/fission-functions/_tenant_/<ns>/<uuid>`.
//! An id is only ever read into its parts, and paths are made of the parts: no id can name
//! anything else.

use std::fmt;

use uuid::Uuid;

const PREFIX: &str = "/fission/fission-functions/";
/// No namespace has an underscore.
const TENANT: &str = "_tenant_";

/// An archive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArchiveId {
    /// Whose it is; nobody's when none.
    pub namespace: Option<String>,
    uuid: Uuid,
}

impl ArchiveId {
    /// A new one.
    pub fn new(namespace: Option<&str>) -> Self {
        Self {
            namespace: namespace.map(str::to_owned),
            uuid: Uuid::new_v4(),
        }
    }

    /// Reads an id; none when it is not exactly as we write it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::of_key(text.strip_prefix(PREFIX)?)
    }

    /// Reads a key of the store.
    pub fn of_key(key: &str) -> Option<Self> {
        let (namespace, name) = match key.split_once('/') {
            None => (None, key),
            Some((TENANT, rest)) => {
                let (namespace, name) = rest.split_once('/')?;
                (Some(namespace), name)
            }
            Some(_) => return None,
        };
        if namespace.is_some_and(|namespace| !is_namespace(namespace)) {
            return None;
        }
        let uuid = Uuid::try_parse(name).ok()?;
        // One spelling only: others would be other names of the same archive.
        (uuid.hyphenated().to_string() == name).then(|| Self {
            namespace: namespace.map(str::to_owned),
            uuid,
        })
    }

    /// Reads the id in the URL of an archive of ours.
    pub fn of_url(url: &str) -> Option<Self> {
        let (path, query) = url.split_once('?')?;
        if !path.ends_with("/v1/archive") {
            return None;
        }
        let value = query.split('&').find_map(|pair| pair.strip_prefix("id="))?;
        Self::parse(&unescaped(value)?)
    }

    /// Name within the store.
    pub fn key(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{TENANT}/{namespace}/{}", self.uuid.hyphenated()),
            None => self.uuid.hyphenated().to_string(),
        }
    }
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}{}", self.key())
    }
}

/// True for what can be the name of a namespace.
pub fn is_namespace(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Undoes the escapes of a query's value.
pub fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let pair = [rest.next()?, rest.next()?];
                let pair = std::str::from_utf8(&pair).ok()?;
                if !pair.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return None;
                }
                bytes.push(u8::from_str_radix(pair, 16).ok()?);
            }
            b'+' => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UUID: &str = "0b0f3a52-1f5a-4b0e-8f67-0d1c1f6f9a11";

    #[test]
    fn ids_are_read_and_written() {
        for namespace in [None, Some("demo")] {
            let id = ArchiveId::new(namespace);
            assert_eq!(ArchiveId::parse(&id.to_string()), Some(id.clone()));
            assert_eq!(ArchiveId::of_key(&id.key()), Some(id.clone()));
            let url = format!("http://storagesvc.fission/v1/archive?id={id}");
            assert_eq!(ArchiveId::of_url(&url), Some(id.clone()));
            let escaped = id.to_string().replace('/', "%2F");
            let url = format!("http://storagesvc.fission/v1/archive?id={escaped}");
            assert_eq!(ArchiveId::of_url(&url), Some(id));
        }
    }

    #[test]
    fn anything_else_is_no_id() {
        let p = PREFIX;
        for text in [
            UUID.to_owned(),
            format!("{p}../{UUID}"),
            format!("{p}_tenant_/../{UUID}"),
            format!("{p}_tenant_/a/../b/{UUID}"),
            format!("{p}_tenant_/a/{UUID}/"),
            format!("{p}_tenant_//{UUID}"),
            format!("{p}_tenant_/A/{UUID}"),
            format!("{p}other/{UUID}"),
            format!("{p}{UUID}/.."),
            format!("{p}{}", UUID.to_uppercase()),
            format!("{p}{}", UUID.replace('-', "")),
            format!("{p}{{{UUID}}}"),
            format!("{p}urn:uuid:{UUID}"),
            format!("/fission/fission-functions//{UUID}"),
            format!("{p}{UUID}\0"),
            String::new(),
        ] {
            assert_eq!(ArchiveId::parse(&text), None, "{text:?}");
        }
        assert_eq!(ArchiveId::of_url("http://elsewhere/x?id=1"), None);
        assert_eq!(unescaped("%2"), None);
        assert_eq!(unescaped("%+1"), None);
    }

    proptest! {
        #[test]
        fn an_id_has_one_spelling(text in "/fission/fission-functions/[a-z0-9_/.%-]{0,80}") {
            if let Some(id) = ArchiveId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        #[test]
        fn reading_never_panics(text in ".*") {
            _ = ArchiveId::parse(&text);
            _ = ArchiveId::of_key(&text);
            _ = ArchiveId::of_url(&text);
        }
    }
}
