//! Keys of a plane: three authorities, the key of service accounts, the encryption key, and
//! leaves. All are kept in one Secret `pki`; Pods mount one Secret per consumer with what
//! that consumer needs.
//!
//! Authorities and keys are made once and never again: a Secret that lost one is an error,
//! not a reason to make a cluster of another identity. Leaves are made anew at half of their
//! life, and when what is in them has to change.

mod leaves;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use farplane_pki::{CertificateAuthority, Duration, OffsetDateTime, service_account_keys};
use serde_json::{Value, json};

use crate::object::{metadata, yaml};
use crate::services::member_name;
use crate::{API_PORT, World, config};
use leaves::{LeafSpec, Signer};

const AUTHORITY_LIFE: Duration = Duration::days(3650);
/// Secret with everything secret of the plane.
const PKI: &str = "pki";

/// Keys cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A Service has no address yet.
    #[error("Service {service} has no address yet")]
    NoAddress {
        /// Which.
        service: String,
    },
    /// The Secret `pki` lacks something that is made only once.
    #[error(
        "Secret pki of the plane lost {name}; restore the Secret from a backup, or delete the cluster and make it anew"
    )]
    Lost {
        /// Which.
        name: &'static str,
    },
    /// The Secret `pki` holds something that cannot be read.
    #[error(
        "{name} in Secret pki of the plane is damaged; restore the Secret from a backup, or delete the cluster and make it anew"
    )]
    Damaged {
        /// Which.
        name: &'static str,
        /// Cause.
        source: farplane_pki::Error,
    },
    /// A key or certificate cannot be made.
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

impl std::fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_set().entries(self.contents.keys()).finish()
    }
}

impl Keys {
    /// Takes stored contents as they are.
    pub fn from_contents(contents: BTreeMap<String, Vec<u8>>) -> Self {
        Self { contents }
    }

    /// Everything, by key of the Secret.
    pub fn contents(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.contents
    }

    /// Text of one entry; empty when there is none.
    pub fn text(&self, name: &str) -> &str {
        self.contents
            .get(name)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }

    /// Kubeconfig for the hub's controllers, by the Service's address.
    pub fn admin_kubeconfig(&self) -> &str {
        self.text("admin.kubeconfig")
    }

    /// Secrets of the plane's namespace: `pki` first, then one per consumer.
    pub fn secrets(&self, world: &World) -> Vec<Value> {
        let mut all = vec![secret(
            world,
            PKI,
            self.contents
                .iter()
                .map(|(name, bytes)| (name.as_str(), bytes.as_slice())),
        )];
        let hub_ca = ("hub-ca.crt", world.hub.ca_pem.as_bytes());
        let apiserver = self.pick(&[
            "ca.crt",
            "front-proxy-ca.crt",
            "etcd-ca.crt",
            "sa.pub",
            "sa.key",
            "encryption.yaml",
            "apiserver.crt",
            "apiserver.key",
            "apiserver-kubelet-client.crt",
            "apiserver-kubelet-client.key",
            "apiserver-etcd-client.crt",
            "apiserver-etcd-client.key",
            "front-proxy-client.crt",
            "front-proxy-client.key",
            "egress-client.crt",
            "egress-client.key",
        ]);
        all.push(secret(world, "apiserver", apiserver.chain([hub_ca])));
        let common = ["ca.crt", "controllers.crt", "controllers.key"];
        let manager = self.pick(&[
            "ca.key",
            "sa.key",
            "controller-manager.crt",
            "controller-manager.key",
            "controller-manager.kubeconfig",
        ]);
        let manager = manager.chain(self.pick(&common));
        all.push(secret(world, "controller-manager", manager));
        let scheduler = self.pick(&["scheduler.crt", "scheduler.key", "scheduler.kubeconfig"]);
        let scheduler = scheduler.chain(self.pick(&common));
        all.push(secret(world, "scheduler", scheduler));
        for member in 0..world.replicas() {
            let name = member_name(member);
            let entries = [
                ("ca.crt", self.text("etcd-ca.crt")),
                ("tls.crt", self.text(&format!("{name}.crt"))),
                ("tls.key", self.text(&format!("{name}.key"))),
            ];
            let entries = entries.map(|(key, text)| (key, text.as_bytes()));
            all.push(secret(world, &name, entries));
        }
        all
    }

    fn pick<'a>(&'a self, names: &'a [&'a str]) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        names.iter().map(|name| (*name, self.text(name).as_bytes()))
    }

    fn set(&mut self, name: impl Into<String>, text: impl Into<Vec<u8>>) {
        self.contents.insert(name.into(), text.into());
    }
}

/// Makes what is missing, renews what is due, keeps the rest. `plane_ca` signs the plane's
/// identity towards the gateway.
///
/// # Errors
/// When the stored keys lost what cannot be made again or are damaged, or a Service has no
/// address yet.
pub fn renew_keys(world: &World, plane_ca: &CertificateAuthority) -> Result<Keys, KeyError> {
    let mut keys = Keys::from_contents(world.stored.clone());
    if keys.contents.is_empty() {
        make_once(&mut keys, now(world))?;
    }
    let authority = |name: &'static str, key: &'static str| {
        for part in [name, key] {
            if keys.text(part).is_empty() {
                return Err(KeyError::Lost { name: part });
            }
        }
        CertificateAuthority::from_pem(keys.text(name), keys.text(key))
            .map_err(|source| KeyError::Damaged { name, source })
    };
    let cluster_ca = authority("ca.crt", "ca.key")?;
    let front_proxy_ca = authority("front-proxy-ca.crt", "front-proxy-ca.key")?;
    let etcd_ca = authority("etcd-ca.crt", "etcd-ca.key")?;
    for name in ["sa.key", "sa.pub", "encryption.yaml"] {
        if keys.text(name).is_empty() {
            return Err(KeyError::Lost { name });
        }
    }
    for leaf in leaves::wanted(world)? {
        let authority = match leaf.signer {
            Signer::Cluster => &cluster_ca,
            Signer::FrontProxy => &front_proxy_ca,
            Signer::Etcd => &etcd_ca,
            Signer::Plane => plane_ca,
        };
        renew_leaf(&mut keys, &leaf, authority, now(world))?;
    }
    kubeconfigs(world, &mut keys)?;
    Ok(keys)
}

/// The world's time as certificates have it.
pub(crate) fn now(world: &World) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(world.now.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn make_once(keys: &mut Keys, now: OffsetDateTime) -> Result<(), KeyError> {
    let failed = |name: &'static str| {
        move |source| KeyError::Make {
            name: name.to_owned(),
            source,
        }
    };
    for (name, common_name) in [
        ("ca", "kubernetes"),
        ("front-proxy-ca", "kubernetes-front-proxy"),
        ("etcd-ca", "etcd"),
    ] {
        let authority = CertificateAuthority::generate(common_name, AUTHORITY_LIFE, now)
            .map_err(failed(name))?;
        keys.set(format!("{name}.crt"), authority.certificate_pem());
        keys.set(format!("{name}.key"), authority.key_pem());
    }
    let pair = service_account_keys().map_err(failed("sa.key"))?;
    keys.set("sa.key", pair.private_pem);
    keys.set("sa.pub", pair.public_pem);
    let key: [u8; 32] = rand::random();
    keys.set("encryption.yaml", config::encryption(&BASE64.encode(key)));
    Ok(())
}

fn renew_leaf(
    keys: &mut Keys,
    leaf: &LeafSpec,
    authority: &CertificateAuthority,
    now: OffsetDateTime,
) -> Result<(), KeyError> {
    let (certificate, key) = (format!("{}.crt", leaf.name), format!("{}.key", leaf.name));
    let present = !keys.text(&key).is_empty();
    if present && leaf.is_good(keys.text(&certificate), authority, now) {
        return Ok(());
    }
    let made = authority
        .issue(&leaf.request(now))
        .map_err(|source| KeyError::Make {
            name: leaf.name.clone(),
            source,
        })?;
    keys.set(certificate, made.certificate_pem);
    keys.set(key, made.key_pem);
    Ok(())
}

fn kubeconfigs(world: &World, keys: &mut Keys) -> Result<(), KeyError> {
    let address = leaves::address(world, "apiserver")?;
    let server = format!("https://{address}:{API_PORT}");
    // By file beside it, so that a renewed certificate is read without a restart.
    for name in ["controller-manager", "scheduler"] {
        let cluster = json!({ "server": server, "certificate-authority": "ca.crt" });
        let user = json!({
            "client-certificate": format!("{name}.crt"),
            "client-key": format!("{name}.key"),
        });
        let text = kubeconfig(&world.name(), name, cluster, user);
        keys.set(format!("{name}.kubeconfig"), text);
    }
    let cluster =
        json!({ "server": server, "certificate-authority-data": encoded(keys, "ca.crt") });
    let user = json!({
        "client-certificate-data": encoded(keys, "admin.crt"),
        "client-key-data": encoded(keys, "admin.key"),
    });
    let text = kubeconfig(&world.name(), "farplane:hub", cluster, user);
    keys.set("admin.kubeconfig", text);
    Ok(())
}

/// One entry in base64, as kubeconfigs hold it.
pub(crate) fn encoded(keys: &Keys, name: &str) -> String {
    BASE64.encode(keys.text(name))
}

/// A kubeconfig of one context, which has the cluster's name.
pub(crate) fn kubeconfig(name: &str, user_name: &str, cluster: Value, user: Value) -> String {
    yaml(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": name, "cluster": cluster }],
        "users": [{ "name": user_name, "user": user }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": user_name } }],
        "current-context": name,
    }))
}

fn secret<'a>(
    world: &World,
    name: &str,
    entries: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Value {
    let data: serde_json::Map<String, Value> = entries
        .into_iter()
        .map(|(key, bytes)| (key.to_owned(), json!(BASE64.encode(bytes))))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(world, name),
        "type": "Opaque",
        "data": data,
    })
}
