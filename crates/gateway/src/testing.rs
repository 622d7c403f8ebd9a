//! A gateway in one process for tests: own keys, a scripted API, agents and planes that
//! connect over loopback.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use farplane_tunnel::lines::{self, LineReader, MAX_LINE_BYTES};
use farplane_tunnel::{Class, Config, Hello, Incoming, Moves, Session, TunnelStream};
use farplane_types::names;
use farplane_types::wire::{AgentMessage, PlanMessage};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, StatusCode};
use kube::client::Body;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{BufReader, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::directory::Directory;
use crate::gateway::Gateway;
use crate::limits::{FailedJoins, Limits};
use crate::metrics::Metrics;
use crate::peer::Peers;
use crate::tls::{Material, Sources};
use crate::world::shared::Shared;
use crate::{Settings, accept, dial};

pub const DOMAIN: &str = "hub.test";

/// What comes down a plan stream.
pub type Lines = LineReader<BufReader<ReadHalf<TunnelStream>>>;

/// Both directions of a plan stream.
pub fn messages(stream: TunnelStream) -> (Lines, WriteHalf<TunnelStream>) {
    let (input, output) = tokio::io::split(stream);
    let lines = LineReader::new(BufReader::new(input), MAX_LINE_BYTES);
    (lines, output)
}

/// A removed host says that it is clean, hears that this has arrived, and leaves.
pub async fn last_word(mut lines: Lines, mut output: WriteHalf<TunnelStream>) {
    lines::send(&mut output, &AgentMessage::Clean)
        .await
        .unwrap();
    assert_eq!(lines.next::<PlanMessage>().await.unwrap(), None);
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The hub's keys.
pub struct Keyring {
    pub host: Authority,
    pub plane: Authority,
    pub hub: Authority,
}

/// A certificate with its key, PEM.
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

impl Keyring {
    pub fn new() -> Self {
        Self {
            host: authority(),
            plane: authority(),
            hub: authority(),
        }
    }

    pub fn leaf(authority: &Authority, uri: &str) -> Leaf {
        let name = names::gateway_server_name(DOMAIN);
        let mut params = CertificateParams::new(vec![name]).unwrap();
        let uri = uri.try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::hours(1);
        let key = KeyPair::generate().unwrap();
        Leaf {
            certificate: params.signed_by(&key, authority).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    pub fn host(&self, organization: &str, name: &str, uid: &str) -> Leaf {
        let uri = format!("farplane://host/{organization}/site/{name}/{uid}");
        Self::leaf(&self.host, &uri)
    }

    pub fn plane(&self, uid: &str) -> Leaf {
        Self::leaf(&self.plane, &format!("farplane://plane/{uid}"))
    }

    pub fn sources(&self) -> Sources {
        let gateway = Self::leaf(&self.hub, "farplane://gateway");
        Sources {
            gateway_certificate: Some(gateway.certificate.into_bytes()),
            gateway_key: Some(gateway.key.into_bytes()),
            host_ca: Some(self.host.pem().into_bytes()),
            host_ca_key: Some(self.host.key().serialize_pem().into_bytes()),
            plane_ca: Some(self.plane.pem().into_bytes()),
            hub_ca: Some(self.hub.pem().into_bytes()),
        }
    }
}

/// Objects by path, with resource versions as the API has them.
#[derive(Clone, Default)]
pub struct FakeApi {
    pub objects: Arc<Mutex<HashMap<String, Value>>>,
    version: Arc<Mutex<u64>>,
    /// Whether every request fails.
    pub down: Arc<AtomicBool>,
}

pub const GROUP: &str = "/apis/farplane.io/v1alpha1";

impl FakeApi {
    pub fn put(&self, path: &str, mut object: Value) {
        object["metadata"]["resourceVersion"] = json!(self.next());
        self.objects
            .lock()
            .unwrap()
            .insert(format!("{GROUP}/{path}"), object);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        let objects = self.objects.lock().unwrap();
        objects.get(&format!("{GROUP}/{path}")).cloned()
    }

    pub fn count(&self, prefix: &str) -> usize {
        let prefix = format!("{GROUP}/{prefix}/");
        let objects = self.objects.lock().unwrap();
        objects
            .keys()
            .filter(|path| path.starts_with(&prefix))
            .count()
    }

    fn next(&self) -> String {
        let mut version = self.version.lock().unwrap();
        *version += 1;
        version.to_string()
    }

    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                // Others get a turn between a read and the write that follows it.
                tokio::task::yield_now().await;
                let (status, answer) = api.handle(&head.method, head.uri.path(), body);
                let bytes = serde_json::to_vec(&answer).unwrap();
                let mut response = Response::new(Full::new(bytes.into()));
                *response.status_mut() = status;
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        kube::Client::new(service, "default")
    }

    fn handle(&self, method: &Method, path: &str, mut body: Value) -> (StatusCode, Value) {
        let mut objects = self.objects.lock().unwrap();
        let target = path.strip_suffix("/status").unwrap_or(path).to_owned();
        let failure = |code: StatusCode| {
            let reason = match code {
                StatusCode::NOT_FOUND => "NotFound",
                StatusCode::CONFLICT => "Conflict",
                _ => "ServiceUnavailable",
            };
            let answer = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
                "message": code.to_string(), "reason": reason, "code": code.as_u16() });
            (code, answer)
        };
        if self.down.load(Ordering::Relaxed) {
            return failure(StatusCode::SERVICE_UNAVAILABLE);
        }
        match method.as_str() {
            "GET" => match objects.get(&target) {
                Some(object) => (StatusCode::OK, object.clone()),
                None => failure(StatusCode::NOT_FOUND),
            },
            "POST" => {
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                let target = format!("{target}/{name}");
                if objects.contains_key(&target) {
                    return failure(StatusCode::CONFLICT);
                }
                body["metadata"]["resourceVersion"] = json!(self.next());
                body["metadata"]["uid"] = json!(format!("uid-of-{name}"));
                objects.insert(target, body.clone());
                (StatusCode::CREATED, body)
            }
            "PUT" => {
                let Some(object) = objects.get_mut(&target) else {
                    return failure(StatusCode::NOT_FOUND);
                };
                let read = &body["metadata"]["resourceVersion"];
                if object["metadata"]["resourceVersion"] != *read {
                    return failure(StatusCode::CONFLICT);
                }
                object["status"] = body["status"].clone();
                object["metadata"]["resourceVersion"] = json!(self.next());
                (StatusCode::OK, object.clone())
            }
            "PATCH" => {
                let Some(object) = objects.get_mut(&target) else {
                    return failure(StatusCode::NOT_FOUND);
                };
                if object["metadata"]["uid"] != body["metadata"]["uid"] {
                    return failure(StatusCode::CONFLICT);
                }
                for (field, value) in body["status"].as_object().unwrap() {
                    object["status"][field] = value.clone();
                }
                (StatusCode::OK, object.clone())
            }
            _ => failure(StatusCode::METHOD_NOT_ALLOWED),
        }
    }
}

/// A gateway that listens on loopback.
pub struct TestGateway {
    pub gateway: Arc<Gateway>,
    pub address: SocketAddr,
    pub api: FakeApi,
    _keys: watch::Sender<Option<Arc<Material>>>,
    _stop: tokio_util::sync::DropGuard,
}

impl TestGateway {
    pub fn start(keyring: &Keyring, name: &str) -> Self {
        Self::start_with(keyring, name, FakeApi::default())
    }

    pub fn start_with(keyring: &Keyring, name: &str, api: FakeApi) -> Self {
        Self::start_all(keyring, name, api, "127.0.0.1:1")
    }

    /// With a registry of images at this address.
    pub fn start_at(keyring: &Keyring, name: &str, registry: &str) -> Self {
        Self::start_all(keyring, name, FakeApi::default(), registry)
    }

    fn start_all(keyring: &Keyring, name: &str, api: FakeApi, registry: &str) -> Self {
        let listener = dial::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let material = Material::build(&keyring.sources()).unwrap();
        let (sender, keys) = watch::channel(Some(Arc::new(material)));
        let shutdown = CancellationToken::new();
        let settings = Settings {
            hub_domain: DOMAIN.into(),
            listen: address,
            metrics_listen: "127.0.0.1:0".parse().unwrap(),
            pod_name: name.into(),
            pod_ip: address.ip(),
            artifacts_url: "http://127.0.0.1:1".into(),
            registry_url: format!("http://{registry}"),
            streams_per_organization: 16,
            bytes_in_flight_per_organization: usize::MAX,
        };
        let gateway = Arc::new(Gateway {
            artifacts: "127.0.0.1:1".into(),
            registry: registry.into(),
            client: api.client(),
            world: Shared::new(DOMAIN),
            keys,
            sessions: Arc::default(),
            moves: Moves::default(),
            bulk: tokio::runtime::Handle::current(),
            peers: Peers::default(),
            directory: Directory::default(),
            limits: Limits::new(settings.streams_per_organization, usize::MAX),
            failed_joins: FailedJoins::default(),
            metrics: Metrics::default(),
            shutdown: shutdown.clone(),
            settings,
        });
        tokio::spawn(accept::run(Arc::clone(&gateway), listener));
        tokio::spawn(Directory::run(Arc::clone(&gateway)));
        Self {
            gateway,
            address,
            api,
            _keys: sender,
            _stop: shutdown.drop_guard(),
        }
    }

    /// TLS to the gateway; a refused certificate may show only when something is read.
    pub async fn tls(
        &self,
        keyring: &Keyring,
        leaf: Option<&Leaf>,
        alpn: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        tls(self.address, keyring, leaf, alpn).await
    }

    /// A tunnel as an agent opens it.
    pub async fn tunnel(&self, keyring: &Keyring, leaf: &Leaf, epoch: u64) -> (Session, Incoming) {
        self.tunnel_of(Class::Interactive, keyring, leaf, epoch)
            .await
    }

    /// [`Self::tunnel`] of a class.
    pub async fn tunnel_of(
        &self,
        class: Class,
        keyring: &Keyring,
        leaf: &Leaf,
        epoch: u64,
    ) -> (Session, Incoming) {
        let tls = self
            .tls(keyring, Some(leaf), farplane_tunnel::ALPN)
            .await
            .unwrap();
        let hello = Hello::new("test", epoch, class);
        Session::connect(tls, hello, Config::default())
            .await
            .unwrap()
    }

    /// Waits until the gateway holds a tunnel of this host.
    pub async fn holding(&self, uid: &str) {
        while !self.gateway.sessions.holds(uid) {
            tokio::task::yield_now().await;
        }
    }
}

/// TLS to a gateway at this address.
pub async fn tls(
    address: SocketAddr,
    keyring: &Keyring,
    leaf: Option<&Leaf>,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(keyring.hub.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match leaf {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let chain = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
    };
    if !alpn.is_empty() {
        config.alpn_protocols = vec![alpn.to_vec()];
    }
    let name = ServerName::try_from(names::gateway_server_name(DOMAIN)).unwrap();
    let tcp = TcpStream::connect(address).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, tcp).await
}
