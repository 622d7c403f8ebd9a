//! A hub in one process: the real gateway over loopback, with keys of its own, a scripted API,
//! an artifact server and an API server that echoes; and agents that join it.

mod api;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farplane_agent::run::{self, Ended, RunError};
use farplane_agent::status::{self, Status};
use farplane_gateway::directory::Directory;
use farplane_gateway::gateway::Gateway;
use farplane_gateway::limits::{FailedJoins, Limits};
use farplane_gateway::metrics::Metrics;
use farplane_gateway::peer::Peers;
use farplane_gateway::tls::{Material, Sources};
use farplane_gateway::world::shared::Shared;
use farplane_gateway::world::{ApiServerPod, Key, Tracked};
use farplane_gateway::{Settings, accept, dial};
use farplane_types::token::Token;
use farplane_types::{Host, HostPlan, KubernetesCluster, names};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use api::FakeApi;

pub const DOMAIN: &str = "hub.test";
pub const UID: &str = "uid-of-one";
pub const PLANE: &str = "p1";
const HOST_PATH: &str = "namespaces/org-demo/hosts/one";
const PLAN_PATH: &str = "namespaces/org-demo/hostplans/one";

pub type Authority = CertifiedIssuer<'static, KeyPair>;

pub fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate with its key, PEM.
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

/// A leaf for `uri`, valid from `hours.0` to `hours.1` from now on.
pub fn leaf(authority: &Authority, uri: &str, hours: (i64, i64)) -> Leaf {
    let name = names::gateway_server_name(DOMAIN);
    let mut params = CertificateParams::new(vec![name]).unwrap();
    params
        .subject_alt_names
        .push(SanType::URI(uri.try_into().unwrap()));
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now + time::Duration::hours(hours.0);
    params.not_after = now + time::Duration::hours(hours.1);
    let key = KeyPair::generate().unwrap();
    Leaf {
        certificate: params.signed_by(&key, authority).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

pub fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Waits for a condition; says what it waits for when that takes too long.
pub async fn until(what: &str, condition: impl FnMut() -> bool) {
    until_or(condition, || what.to_owned()).await;
}

/// As [`until`], with the last state of affairs for the one who reads the failure.
pub async fn until_or(mut condition: impl FnMut() -> bool, state: impl Fn() -> String) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    assert!(waited.is_ok(), "{}", state());
}

/// The hub's keys and objects; they outlive its gateways.
pub struct Hub {
    pub host_ca: Authority,
    pub hub_ca: Authority,
    pub plane_ca: Authority,
    pub api: FakeApi,
}

impl Hub {
    pub fn new() -> Self {
        // Another test may have set it up already; the log is shown when a test fails.
        _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let api = FakeApi::default();
        let organization = json!({ "apiVersion": "farplane.io/v1alpha1", "kind": "Organization",
            "metadata": { "name": "demo" }, "spec": {} });
        api.put("organizations/demo", organization);
        Self {
            host_ca: authority(),
            hub_ca: authority(),
            plane_ca: authority(),
            api,
        }
    }

    /// A token that ends so many minutes from now.
    pub fn token(&self, id: &str, minutes: i64) -> Token {
        let token = Token {
            ca_sha256: hex::encode(Sha256::digest(self.hub_ca.der())),
            organization: "demo".into(),
            id: id.into(),
            secret: hex::encode(rand::random::<[u8; 32]>()),
        };
        let now = Timestamp::now();
        let object = json!({
            "apiVersion": "farplane.io/v1alpha1", "kind": "JoinToken",
            "metadata": { "name": id, "namespace": "org-demo", "creationTimestamp": now.to_string() },
            "spec": { "endpoint": "site", "secretSha256": token.secret_sha256(),
                "expiresAt": (now + SignedDuration::from_mins(minutes)).to_string() },
        });
        let path = format!("namespaces/org-demo/jointokens/{id}");
        self.api.put(&path, object);
        token
    }

    fn sources(&self) -> Sources {
        let gateway = leaf(&self.hub_ca, "farplane://gateway", (-1, 24));
        // The agent knows the CA by its hash only, so the gateway shows it.
        let chain = format!("{}{}", gateway.certificate, self.hub_ca.pem());
        Sources {
            gateway_certificate: Some(chain.into_bytes()),
            gateway_key: Some(gateway.key.into_bytes()),
            host_ca: Some(self.host_ca.pem().into_bytes()),
            host_ca_key: Some(self.host_ca.key().serialize_pem().into_bytes()),
            plane_ca: Some(self.plane_ca.pem().into_bytes()),
            hub_ca: Some(self.hub_ca.pem().into_bytes()),
        }
    }

    /// Starts a gateway at this address, or at any.
    pub async fn gateway(&self, at: Option<SocketAddr>, artifacts: &str) -> TestGateway {
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = loop {
            match dial::listen(at.unwrap_or(any)) {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let address = listener.local_addr().unwrap();
        let material = Material::build(&self.sources()).unwrap();
        let (keys, receiver) = watch::channel(Some(Arc::new(material)));
        let shutdown = CancellationToken::new();
        let settings = Settings {
            hub_domain: DOMAIN.into(),
            listen: address,
            metrics_listen: any,
            pod_name: "g1".into(),
            pod_ip: address.ip(),
            artifacts_url: format!("http://{artifacts}"),
            registry_url: "http://127.0.0.1:1".into(),
            streams_per_organization: 64,
            bytes_in_flight_per_organization: usize::MAX,
        };
        let gateway = Arc::new(Gateway {
            artifacts: artifacts.to_owned(),
            registry: "127.0.0.1:1".into(),
            client: self.api.client(),
            world: Shared::new(DOMAIN),
            keys: receiver,
            sessions: Arc::default(),
            moves: Default::default(),
            bulk: tokio::runtime::Handle::current(),
            peers: Peers::default(),
            directory: Directory::default(),
            limits: Limits::new(64, usize::MAX),
            failed_joins: FailedJoins::default(),
            metrics: Metrics::default(),
            shutdown: shutdown.clone(),
            settings,
        });
        let accepting = tokio::spawn(accept::run(Arc::clone(&gateway), listener));
        tokio::spawn(Directory::run(Arc::clone(&gateway)));
        TestGateway {
            gateway,
            address,
            accepting,
            _keys: keys,
            _stop: shutdown.drop_guard(),
        }
    }

    /// The host's object as the API has it.
    pub fn host(&self) -> Option<Value> {
        self.api.get(HOST_PATH)
    }

    /// Makes the host as if it had joined.
    pub fn put_host(&self) {
        let host = json!({ "apiVersion": "farplane.io/v1alpha1", "kind": "Host",
            "metadata": { "name": "one", "namespace": "org-demo", "uid": UID },
            "spec": { "endpoint": "site" }, "status": {} });
        self.api.put(HOST_PATH, host);
    }

    /// Whether the agent said that its plan is true.
    pub fn is_applied(&self, generation: i64) -> bool {
        self.api.get(PLAN_PATH).is_some_and(|plan| {
            let status = &plan["status"];
            status["observedGeneration"] == generation
                && status["conditions"][0]["type"] == "Applied"
                && status["conditions"][0]["status"] == "True"
        })
    }

    /// Why the plan is not true.
    pub fn plan_status(&self) -> Value {
        let plan = self.api.get(PLAN_PATH).unwrap_or_default();
        plan["status"].clone()
    }
}

/// A gateway that listens on loopback.
pub struct TestGateway {
    pub gateway: Arc<Gateway>,
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
    _keys: watch::Sender<Option<Arc<Material>>>,
    _stop: DropGuard,
}

impl TestGateway {
    fn insert<T: Tracked>(&self, object: T) {
        self.gateway.world.change(|world| T::insert(world, object));
    }

    /// Lets the gateway know the host.
    pub fn knows(&self, hub: &Hub) {
        let mut host = hub.host().unwrap();
        // The scripted API keeps what it was sent; the path has the namespace.
        host["metadata"]["namespace"] = json!("org-demo");
        self.insert::<Host>(read(host));
    }

    /// The host is deleted: the API knows first, the gateway's view follows.
    pub fn removes(&self, hub: &Hub) {
        hub.api.remove(HOST_PATH);
        let key = Key {
            namespace: "org-demo".into(),
            name: "one".into(),
        };
        self.gateway.world.change(|world| Host::remove(world, &key));
    }

    /// Gives the host to plane [`PLANE`] with this plan.
    pub fn plans(&self, hub: &Hub, generation: i64, spec: &Value) {
        let mut spec = spec.clone();
        spec["plane"] = json!({ "kind": "KubernetesCluster", "name": "c", "uid": PLANE });
        let plan = json!({
            "apiVersion": "farplane.io/v1alpha1", "kind": "HostPlan",
            "metadata": { "name": "one", "namespace": "org-demo", "uid": "plan1",
                "generation": generation },
            "spec": spec, "status": {},
        });
        hub.api.put(PLAN_PATH, plan.clone());
        self.insert::<KubernetesCluster>(read(json!({
            "apiVersion": "farplane.io/v1alpha1", "kind": "KubernetesCluster",
            "metadata": { "name": "c", "namespace": "org-demo", "uid": PLANE }, "spec": {},
        })));
        self.insert::<HostPlan>(read(plan));
    }

    /// The plane's API server is at this address, port 6443.
    pub fn api_server(&self, ip: &str) {
        self.insert(ApiServerPod(read(json!({
            "metadata": { "name": "a", "namespace": format!("plane-{PLANE}") },
            "status": { "phase": "Running", "podIP": ip,
                "conditions": [{ "type": "Ready", "status": "True" }] },
        }))));
    }

    /// Ends at once: connections are cut, the port becomes free.
    pub async fn kill(self) {
        self.accepting.abort();
        _ = self.accepting.await;
        for session in self.gateway.sessions.all() {
            session.close("killed");
        }
    }
}

/// A loopback address of this process: the port of API servers is fixed, and tests run beside
/// others of their kind.
pub fn own(block: u8) -> String {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    format!("127.{block}.{high}.{low}")
}

/// Greets every connection at `ip:6443`, then echoes.
pub async fn echo_server(ip: &str) -> JoinHandle<()> {
    let listener = TcpListener::bind((ip, 6443)).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                socket.write_all(b"api\n").await.unwrap();
                let (mut input, mut output) = socket.split();
                // The other end may go at any time.
                _ = tokio::io::copy(&mut input, &mut output).await;
            });
        }
    })
}

/// A machine with an agent.
pub struct Machine {
    pub folder: TempDir,
    pub config: PathBuf,
    pub bulk: tokio::runtime::Handle,
}

pub type Running = (CancellationToken, JoinHandle<Result<Ended, RunError>>);

impl Machine {
    pub fn new(gateway: SocketAddr, token: Option<&Token>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("agent.yaml");
        let machine = Self {
            folder,
            config,
            bulk: tokio::runtime::Handle::current(),
        };
        machine.configure(gateway, token);
        machine
    }

    pub fn configure(&self, gateway: SocketAddr, token: Option<&Token>) {
        let config = json!({
            "hub": gateway.to_string(), "name": "one", "stateDir": self.state(),
            "serverName": names::gateway_server_name(DOMAIN),
            "token": token.map(ToString::to_string),
        });
        std::fs::write(&self.config, config.to_string()).unwrap();
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn agent_dir(&self) -> PathBuf {
        self.state().join("agent")
    }

    pub fn status(&self) -> Status {
        status::read(&self.agent_dir()).unwrap().unwrap_or_default()
    }

    pub fn start(&self) -> Running {
        let stop = CancellationToken::new();
        let (config, bulk, token) = (self.config.clone(), self.bulk.clone(), stop.clone());
        let task = tokio::spawn(async move { run::run(&config, bulk, token).await });
        (stop, task)
    }
}

pub async fn stop((stop, task): Running) {
    stop.cancel();
    assert_eq!(task.await.unwrap().unwrap(), Ended::Stopped);
}
