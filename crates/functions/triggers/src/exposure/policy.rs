//! What an operator lets triggers ask for: hostnames, annotations, Gateways, Secrets of TLS.
//!
//! Pure. Promises: what is not listed is refused; the default lists nothing, so nothing is
//! exposed; an entry that could be read in two ways is refused when the process starts.

use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// Longest DNS name.
const NAME: usize = 253;
/// Longest label of one.
const LABEL: usize = 63;

/// What triggers may ask for, as the chart's value `exposure` says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Exposure {
    /// Hostnames: `a.example.com`, `*.example.com` for all below it, `*` for any and for none.
    #[serde(deserialize_with = "or_empty")]
    pub hostnames: Vec<String>,
    /// Keys of annotations, or beginnings of keys, which end in `/`.
    #[serde(deserialize_with = "or_empty")]
    pub annotations: Vec<String>,
    /// Gateways, as `namespace/name`. The first is that of triggers that name none.
    #[serde(deserialize_with = "or_empty")]
    pub parents: Vec<String>,
    /// Secrets of the platform's namespace with certificates.
    #[serde(deserialize_with = "or_empty")]
    pub tls_secrets: Vec<String>,
    /// Class of every Ingress; the cluster's default one when empty.
    #[serde(deserialize_with = "or_empty")]
    pub ingress_class: String,
}

/// Reads `null` as nothing, as a value of a chart that is left empty arrives.
fn or_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Why a policy is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It has another form.
    #[error("exposure: {0}")]
    Form(String),
    /// An entry of a list cannot be what it should be.
    #[error("exposure.{list}: {entry:?} is not {what}")]
    Entry {
        /// Which list.
        list: &'static str,
        /// The entry.
        entry: String,
        /// What is wanted.
        what: &'static str,
    },
}

impl FromStr for Exposure {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let policy: Self =
            serde_json::from_str(text).map_err(|error| PolicyError::Form(error.to_string()))?;
        policy.check()?;
        Ok(policy)
    }
}

impl Exposure {
    fn check(&self) -> Result<(), PolicyError> {
        let is_parent = |entry: &str| {
            let parts = entry.split_once('/');
            parts.is_some_and(|(namespace, name)| is_label(namespace) && is_name(name))
        };
        every(
            "hostnames",
            &self.hostnames,
            "a hostname, *.<domain> or *",
            |entry| entry == "*" || is_hostname(entry),
        )?;
        every(
            "annotations",
            &self.annotations,
            "a key of annotations or <prefix>/",
            |entry| is_key(entry) || entry.strip_suffix('/').is_some_and(is_name),
        )?;
        every(
            "parents",
            &self.parents,
            "<namespace>/<name of a Gateway>",
            is_parent,
        )?;
        let name = "the name of a Secret";
        every("tlsSecrets", &self.tls_secrets, name, is_name)?;
        let class = std::slice::from_ref(&self.ingress_class);
        every("ingressClass", class, "the name of a class", |entry| {
            entry.is_empty() || is_name(entry)
        })
    }

    /// Whether a trigger may be for this hostname; that of any host is empty.
    pub(crate) fn allows_host(&self, host: &str) -> bool {
        self.hostnames.iter().any(|entry| {
            let below = entry.strip_prefix('*');
            entry == "*"
                || (!host.is_empty()
                    && (entry == host
                        || below.is_some_and(|domain| {
                            domain.starts_with('.') && host.ends_with(domain)
                        })))
        })
    }

    /// Whether an object may have an annotation of this key.
    pub(crate) fn allows_annotation(&self, key: &str) -> bool {
        let mut entries = self.annotations.iter();
        entries.any(|entry| entry == key || (entry.ends_with('/') && key.starts_with(entry)))
    }

    /// Whether a route may be at this Gateway.
    pub(crate) fn allows_parent(&self, namespace: &str, name: &str) -> bool {
        let mut entries = self.parents.iter();
        entries.any(|entry| entry.split_once('/') == Some((namespace, name)))
    }

    /// Whether an Ingress may use this Secret.
    pub(crate) fn allows_secret(&self, name: &str) -> bool {
        self.tls_secrets.iter().any(|entry| entry == name)
    }

    /// Namespace and name of the Gateway of triggers that name none.
    pub(crate) fn default_parent(&self) -> Option<(&str, &str)> {
        self.parents.first()?.split_once('/')
    }
}

fn every(
    list: &'static str,
    entries: &[String],
    what: &'static str,
    is_good: impl Fn(&str) -> bool,
) -> Result<(), PolicyError> {
    match entries.iter().find(|entry| !is_good(entry)) {
        None => Ok(()),
        Some(entry) => Err(PolicyError::Entry {
            list,
            entry: entry.clone(),
            what,
        }),
    }
}

/// A label of a DNS name.
pub(crate) fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=LABEL).contains(&text.len())
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A DNS name in lower case, as most objects have.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= NAME && text.split('.').all(is_label)
}

/// A hostname, or one with `*` as its first label; no address.
pub(crate) fn is_hostname(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    text.len() <= NAME && is_name(name) && name.parse::<Ipv4Addr>().is_err()
}

/// A key of labels and annotations.
pub(crate) fn is_key(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(is_name) && !name.is_empty() && is_value(name)
}

/// A value of a label; may be empty.
pub(crate) fn is_value(text: &str) -> bool {
    let is_end = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= LABEL
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && is_end(text.chars().next())
        && is_end(text.chars().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Exposure {
        text.parse().unwrap()
    }

    #[test]
    fn nothing_is_allowed_by_default() {
        for text in [
            "{}",
            r#"{"hostnames":null,"annotations":[],"ingressClass":null}"#,
        ] {
            let policy = policy(text);
            assert_eq!(policy, Exposure::default());
            for host in ["", "*", "example.com", "*.com"] {
                assert!(!policy.allows_host(host), "{host}");
            }
            assert!(!policy.allows_annotation("a/b") && !policy.allows_annotation(""));
            assert!(!policy.allows_parent("infra", "web") && !policy.allows_parent("", ""));
            assert!(!policy.allows_secret("web") && !policy.allows_secret(""));
            assert_eq!(policy.default_parent(), None);
        }
    }

    #[test]
    fn a_domain_allows_what_is_below_it_and_nothing_beside() {
        let policy = policy(r#"{"hostnames":["*.example.com","shop.example.org"]}"#);
        for host in [
            "a.example.com",
            "a.b.example.com",
            "*.example.com",
            "*.a.example.com",
            "shop.example.org",
        ] {
            assert!(policy.allows_host(host), "{host}");
        }
        for host in [
            "",
            "*",
            "example.com",
            "evilexample.com",
            "a.example.com.evil.org",
            "*.com",
            "example.org",
            "a.shop.example.org",
            "*.shop.example.org",
        ] {
            assert!(!policy.allows_host(host), "{host}");
        }
    }

    #[test]
    fn a_star_allows_any_host_and_none() {
        let policy = policy(r#"{"hostnames":["*"]}"#);
        assert!(policy.allows_host("") && policy.allows_host("a.b"));
    }

    #[test]
    fn annotations_are_allowed_by_key_or_by_prefix() {
        let policy = policy(r#"{"annotations":["a.io/b","c.io/"]}"#);
        for key in ["a.io/b", "c.io/x"] {
            assert!(policy.allows_annotation(key), "{key}");
        }
        for key in ["a.io/bb", "a.io/", "a.io/c", "c.iox/x", "x.c.io/x", "c.io"] {
            assert!(!policy.allows_annotation(key), "{key}");
        }
    }

    #[test]
    fn gateways_are_allowed_by_namespace_and_name() {
        let policy = policy(r#"{"parents":["infra/web","b/c"]}"#);
        assert!(policy.allows_parent("infra", "web"));
        assert!(!policy.allows_parent("fission", "web") && !policy.allows_parent("infra", "c"));
        assert!(!policy.allows_parent("infra/web", "") && !policy.allows_parent("", "infra/web"));
        assert_eq!(policy.default_parent(), Some(("infra", "web")));
    }

    #[test]
    fn entries_that_say_something_else_are_refused() {
        for (text, list) in [
            (r#"{"hostnames":["*example.com"]}"#, "hostnames"),
            (r#"{"hostnames":["*."]}"#, "hostnames"),
            (r#"{"hostnames":["**"]}"#, "hostnames"),
            (r#"{"hostnames":[""]}"#, "hostnames"),
            (r#"{"hostnames":["a.*.com"]}"#, "hostnames"),
            (r#"{"hostnames":["10.0.0.1"]}"#, "hostnames"),
            (r#"{"annotations":["/"]}"#, "annotations"),
            (r#"{"annotations":["*"]}"#, "annotations"),
            (r#"{"annotations":["a/b/"]}"#, "annotations"),
            (r#"{"parents":["web"]}"#, "parents"),
            (r#"{"parents":["infra/*"]}"#, "parents"),
            (r#"{"tlsSecrets":["*"]}"#, "tlsSecrets"),
            (r#"{"ingressClass":"a b"}"#, "ingressClass"),
        ] {
            let error = text.parse::<Exposure>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("exposure.{list}: ")), "{error}");
        }
        let error = r#"{"hostname":["a"]}"#.parse::<Exposure>().unwrap_err();
        assert!(error.to_string().contains("unknown field"), "{error}");
    }

    #[test]
    fn hostnames_are_dns_names_in_lower_case() {
        for good in ["a", "a.b-c.d", "*.a.b", "1a.com"] {
            assert!(is_hostname(good), "{good}");
        }
        let long = format!("{}.com", "a".repeat(64));
        let longest = "a.".repeat(126) + "aa";
        for bad in [
            "", "*", "A.com", "a..b", ".a", "a.", "a b", "a/b", "a:80", "-a.b", "a_b", "a\n.b",
            "*.*.a", "a.*", "1.2.3.4", "[::1]", "ä.de", &long, &longest,
        ] {
            assert!(!is_hostname(bad), "{bad}");
        }
    }
}
