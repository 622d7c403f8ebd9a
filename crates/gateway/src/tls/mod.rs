//! Certificates of the gateway, kept in step with the API, and the TLS made of them.
//!
//! Flow: the objects `gateway-tls`, `host-ca`, `plane-ca` (Secrets) and `hub-ca` (the public
//! ConfigMap, so that the gateway never sees that key) are watched; each change builds a
//! new [`Material`], which connections accepted afterwards use. A set that does not build
//! is logged and the last good one stays.
//!
//! Sessions are never resumed: each handshake proves a certificate that is valid now.

pub mod verify;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use farplane_types::names::SYSTEM_NAMESPACE;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client, Resource};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::route::Protocol;
use verify::RoleVerifier;

/// Why no TLS could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// An object has not been made yet.
    #[error("{object} has no {key} yet")]
    Absent {
        /// Name of the object.
        object: &'static str,
        /// Key in it.
        key: &'static str,
    },
    /// Text that is not PEM of the right kind.
    #[error("{object} {key} is not PEM")]
    Pem {
        /// Name of the object.
        object: &'static str,
        /// Key in it.
        key: &'static str,
        /// What the parser says.
        source: rustls_pki_types::pem::Error,
    },
    /// A CA that cannot be a root.
    #[error("{object} is no usable CA certificate")]
    Root {
        /// Name of the object.
        object: &'static str,
        /// What rustls says.
        source: rustls::Error,
    },
    /// A verifier that cannot be built.
    #[error("failed to build the verifier for certificates of {object}")]
    Verifier {
        /// Name of the CA.
        object: &'static str,
        /// What rustls says.
        source: rustls::server::VerifierBuilderError,
    },
    /// Certificate and key that do not fit.
    #[error("gateway-tls is no usable certificate with its key")]
    Serving {
        /// What rustls says.
        source: rustls::Error,
    },
}

/// What the TLS is made of, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Serving and peer certificate with its chain.
    pub gateway_certificate: Option<Vec<u8>>,
    /// Key of it.
    pub gateway_key: Option<Vec<u8>>,
    /// CA of hosts.
    pub host_ca: Option<Vec<u8>>,
    /// Key of the CA of hosts, which signs them.
    pub host_ca_key: Option<Vec<u8>>,
    /// CA of planes.
    pub plane_ca: Option<Vec<u8>>,
    /// CA of gateways.
    pub hub_ca: Option<Vec<u8>>,
}

/// TLS ready for use.
pub struct Material {
    /// For agents: TLS 1.3, client certificate required.
    tunnel: Arc<ServerConfig>,
    /// For other gateways: the same.
    peer: Arc<ServerConfig>,
    /// For everything else: TLS 1.2 or later, client certificate optional.
    http: Arc<ServerConfig>,
    /// Towards other gateways.
    pub client: Arc<ClientConfig>,
    /// Certificates of the hub's CA, PEM.
    pub hub_ca: String,
    /// Certificate of the CA of hosts, PEM.
    pub host_ca: String,
    /// Its key, PEM.
    pub host_ca_key: String,
}

impl Material {
    /// Server side for this protocol.
    pub fn server(&self, protocol: Protocol) -> Arc<ServerConfig> {
        Arc::clone(match protocol {
            Protocol::Tunnel => &self.tunnel,
            Protocol::Peer => &self.peer,
            Protocol::Http => &self.http,
        })
    }

    /// Builds TLS from certificates.
    ///
    /// # Errors
    /// When one is missing or unusable.
    pub fn build(sources: &Sources) -> Result<Self, TlsError> {
        let host_ca = need(&sources.host_ca, "host-ca", "tls.crt")?;
        let host_ca_key = need(&sources.host_ca_key, "host-ca", "tls.key")?;
        let plane_ca = need(&sources.plane_ca, "plane-ca", "tls.crt")?;
        let hub_ca = need(&sources.hub_ca, "hub-ca", "ca.crt")?;
        let certificate = need(&sources.gateway_certificate, "gateway-tls", "tls.crt")?;
        let key = need(&sources.gateway_key, "gateway-tls", "tls.key")?;

        let mut chain = certificates(certificate, "gateway-tls", "tls.crt")?;
        // Who joins knows the hub by the hash of its CA, so it has to be shown.
        for ca in certificates(hub_ca, "hub-ca", "ca.crt")? {
            if !chain.contains(&ca) {
                chain.push(ca);
            }
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| TlsError::Pem {
            object: "gateway-tls",
            key: "tls.key",
            source,
        })?;
        let hub_roots = roots(hub_ca, "hub-ca", "ca.crt")?;
        let verifier = RoleVerifier::new(
            roots(host_ca, "host-ca", "tls.crt")?,
            roots(plane_ca, "plane-ca", "tls.crt")?,
            hub_roots.clone(),
        )?;
        let server = |versions: &[&'static SupportedProtocolVersion], mandatory, alpn: &[u8]| {
            server_config(
                versions,
                verifier.clone().mandatory(mandatory),
                (chain.clone(), key.clone_key()),
                alpn,
            )
        };
        Ok(Self {
            tunnel: server(&[&TLS13], true, farplane_tunnel::ALPN)?,
            peer: server(&[&TLS13], true, farplane_tunnel::PEER_ALPN)?,
            http: server(&[&TLS13, &TLS12], false, b"http/1.1")?,
            client: client_config(hub_roots, chain, key)?,
            hub_ca: text(hub_ca),
            host_ca: text(host_ca),
            host_ca_key: text(host_ca_key),
        })
    }
}

fn need<'a>(
    field: &'a Option<Vec<u8>>,
    object: &'static str,
    key: &'static str,
) -> Result<&'a [u8], TlsError> {
    field.as_deref().ok_or(TlsError::Absent { object, key })
}

fn text(pem: &[u8]) -> String {
    String::from_utf8_lossy(pem).into_owned()
}

fn certificates(
    pem: &[u8],
    object: &'static str,
    key: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem {
            object,
            key,
            source,
        })
}

/// Several certificates may be in one object while a CA is being replaced.
fn roots(
    pem: &[u8],
    object: &'static str,
    key: &'static str,
) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem, object, key)? {
        store
            .add(certificate)
            .map_err(|source| TlsError::Root { object, source })?;
    }
    Ok(Arc::new(store))
}

fn server_config(
    versions: &[&'static SupportedProtocolVersion],
    verifier: RoleVerifier,
    (chain, key): (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    alpn: &[u8],
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|source| TlsError::Serving { source })?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, key)
        .map_err(|source| TlsError::Serving { source })?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client_config(
    hub_roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| TlsError::Serving { source })?
        .with_root_certificates(hub_roots)
        .with_client_auth_cert(chain, key)
        .map_err(|source| TlsError::Serving { source })?;
    config.alpn_protocols = vec![farplane_tunnel::PEER_ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// The newest material; `None` until every object exists.
pub type Keys = watch::Receiver<Option<Arc<Material>>>;

/// Watches the objects for ever and publishes what is built from them.
pub async fn follow(client: Client, keys: watch::Sender<Option<Arc<Material>>>) {
    let (sources, changes) = watch::channel(Sources::default());
    let secrets = || Api::<Secret>::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let maps = Api::<ConfigMap>::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let gateway = follow_object(secrets(), "gateway-tls", |object| {
        sources.send_modify(|it| {
            it.gateway_certificate = secret(object, "tls.crt");
            it.gateway_key = secret(object, "tls.key");
        });
    });
    let hosts = follow_object(secrets(), "host-ca", |object| {
        sources.send_modify(|it| {
            it.host_ca = secret(object, "tls.crt");
            it.host_ca_key = secret(object, "tls.key");
        });
    });
    let planes = follow_object(secrets(), "plane-ca", |object| {
        sources.send_modify(|it| it.plane_ca = secret(object, "tls.crt"));
    });
    let hub = follow_object(maps, "hub-ca", |object: &ConfigMap| {
        let data: Option<&BTreeMap<_, _>> = object.data.as_ref();
        let pem = data.and_then(|data| data.get("ca.crt"));
        sources.send_modify(|it| it.hub_ca = pem.map(|pem| pem.clone().into_bytes()));
    });
    tokio::join!(gateway, hosts, planes, hub, publish(changes, keys));
}

fn secret(object: &Secret, key: &str) -> Option<Vec<u8>> {
    Some(object.data.as_ref()?.get(key)?.0.clone())
}

async fn follow_object<K>(api: Api<K>, name: &'static str, take: impl Fn(&K))
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut changes = watch_object(api, name).default_backoff().boxed();
    while let Some(change) = changes.next().await {
        match change {
            Ok(Some(object)) => take(&object),
            // A deleted key is made anew by the controllers; until then the last one serves.
            Ok(None) => tracing::info!(object = name, "waiting for the object to be made"),
            Err(error) => tracing::warn!(object = name, %error, "watch failed, will be repeated"),
        }
    }
}

async fn publish(
    mut changes: watch::Receiver<Sources>,
    keys: watch::Sender<Option<Arc<Material>>>,
) {
    let mut used = Sources::default();
    while changes.changed().await.is_ok() {
        let sources = changes.borrow_and_update().clone();
        if sources == used {
            continue;
        }
        match Material::build(&sources) {
            Ok(material) => {
                keys.send_replace(Some(Arc::new(material)));
                used = sources;
                tracing::info!("certificates loaded");
            }
            Err(error @ TlsError::Absent { .. }) => tracing::info!(%error, "waiting"),
            Err(error) => {
                let reason = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, reason, "certificates are unusable, the last ones stay");
            }
        }
    }
}
