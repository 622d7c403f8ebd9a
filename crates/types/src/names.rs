//! How names are made from other names.
//!
//! Names of people's choosing are never joined with separators (`a-b`/`c` must not meet
//! `a`/`b-c`). What needs a name of its own gets a constant prefix before one name, the
//! UID of the object, or, in DNS, labels that cannot hold the separator.

use sha2::{Digest as _, Sha256};

/// Longest name of an organization, endpoint, host or cluster, in bytes: a DNS label
/// that leaves room for constant prefixes.
pub const MAX_NAME_BYTES: usize = 50;

/// Namespace of the hub's own Pods and Secrets.
pub const SYSTEM_NAMESPACE: &str = "farplane-system";
/// Namespace of lab hosts.
pub const LAB_NAMESPACE: &str = "farplane-lab";

/// Label on every namespace and object of one plane; the value is the plane's UID.
pub const PLANE_LABEL: &str = "farplane.io/plane";
/// Label on every namespace and object of one organization; the value is its name.
pub const ORGANIZATION_LABEL: &str = "farplane.io/organization";
/// Label on control-plane Pods: `apiserver`, `etcd`, `controllers`.
pub const COMPONENT_LABEL: &str = "farplane.io/component";
/// Finalizer of every kind that owns something outside its namespace.
pub const FINALIZER: &str = "farplane.io/cleanup";
/// Field manager of the controllers.
pub const FIELD_MANAGER: &str = "farplane";

/// Namespace of an organization.
pub fn organization_namespace(organization: &str) -> String {
    format!("org-{organization}")
}

/// Organization of a namespace made by [`organization_namespace`].
pub fn organization_of_namespace(namespace: &str) -> Option<&str> {
    namespace
        .strip_prefix("org-")
        .filter(|name| !name.is_empty())
}

/// Namespace of a plane, from the UID of its object.
pub fn plane_namespace(uid: &str) -> String {
    format!("plane-{uid}")
}

/// Server name of a cluster's API server: what clients send as SNI and verify.
pub fn cluster_server_name(organization: &str, cluster: &str, hub_domain: &str) -> String {
    format!("{cluster}.{organization}.k8s.{hub_domain}")
}

/// Server name under which agents and egress clients reach the gateway itself.
pub fn gateway_server_name(hub_domain: &str) -> String {
    format!("gateway.{hub_domain}")
}

/// A short stable id of several parts; lengths are hashed too, so parts never run together.
pub fn digest_id(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(&hash.finalize()[..10])
}

/// Checks a name as the custom resources do: an RFC 1123 label of at most
/// [`MAX_NAME_BYTES`] bytes that starts with a letter.
pub fn is_valid_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    (1..=MAX_NAME_BYTES).contains(&bytes.len())
        && bytes[0].is_ascii_lowercase()
        && bytes[bytes.len() - 1] != b'-'
        && bytes.iter().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(digest_id(&["a-b", "c"]), digest_id(&["a", "b-c"]));
        assert_ne!(digest_id(&["ab", ""]), digest_id(&["a", "b"]));
        assert_ne!(
            cluster_server_name("a-b", "c", "hub.test"),
            cluster_server_name("a", "b-c", "hub.test")
        );
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "first", "a-1"] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", "A", "1a", "-a", "a-", "a.b", "a/b", &"a".repeat(51)] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }
}
