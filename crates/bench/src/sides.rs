//! Two tunnels to the same target, entered through the same door: HTTP CONNECT over mutual TLS.
//!
//! Both: a server process, an agent process that dialled it with a certificate, and a client
//! in this process. Farplane: a real gateway with its API server, and a real agent that joined
//! with a token and holds a plan. konnectivity: server and agent as their project releases
//! them, in mode `http-connect`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use farplane_pki::{
    CertificateAuthority, Duration as Lifetime, LeafRequest, OffsetDateTime, Usages, Validity,
};
use farplane_types::token::Token;
use farplane_types::{Host, HostPlan, HostPlanSpec, JoinToken, KubernetesCluster, PlaneReference};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rustls::ClientConfig;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::loopback::{Loopback, ORG, create};
use crate::process::{Running, eventually, free_port};
use crate::tls;

const LIMIT: Duration = Duration::from_secs(60);
const HOST: &str = "one";

/// Where a tunnel is entered.
#[derive(Clone)]
pub struct Door {
    address: String,
    server_name: String,
    tls: Arc<ClientConfig>,
    target: String,
}

impl Door {
    /// A new stream to the target.
    ///
    /// # Errors
    /// When a step on the way fails.
    pub async fn open(&self) -> Result<TlsStream<TcpStream>> {
        let mut stream = tls::connect(&self.address, &self.server_name, &self.tls).await?;
        tls::ask_connect(&mut stream, &self.target).await?;
        Ok(stream)
    }
}

/// One tunnel that works.
pub struct Side {
    /// Its name in reports.
    pub name: &'static str,
    /// Where it is entered.
    pub door: Door,
    /// Its server and its agent.
    pub pids: [u32; 2],
    // Agents before servers, so that nobody mourns.
    _agent: Running,
    _server: Server,
}

enum Server {
    Farplane {
        _hub: Box<Loopback>,
    },
    Konnectivity {
        _process: Running,
        _folder: tempfile::TempDir,
    },
}

impl Side {
    async fn working(self) -> Result<Self> {
        eventually("a stream through the tunnel", LIMIT, async || {
            let mut stream = self.door.open().await?;
            crate::traffic::first_byte(&mut stream).await
        })
        .await
        .with_context(|| format!("{}; its agent: {}", self.name, self._agent.tail()))?;
        Ok(self)
    }
}

/// Farplane's gateway and agent.
///
/// # Errors
/// When a part does not come up.
pub async fn farplane(dist: &Path, target: SocketAddr) -> Result<Side> {
    let hub = Loopback::start(dist).await?;
    let secret = hex::encode(rand::random::<[u8; 32]>());
    let token = Token {
        ca_sha256: hub.keys.hub_pin()?,
        organization: ORG.to_owned(),
        id: "t1".to_owned(),
        secret,
    };
    let end = (Timestamp::now() + SignedDuration::from_mins(30)).to_string();
    let object: JoinToken = serde_json::from_value(json!({
        "apiVersion": "farplane.io/v1alpha1", "kind": "JoinToken", "metadata": { "name": token.id },
        "spec": { "endpoint": "site", "secretSha256": token.secret_sha256(), "expiresAt": end } }))?;
    create(&hub.org::<JoinToken>(), &object).await?;
    let agent = start_agent(dist, &hub, &token, target)?;
    let hosts = hub.org::<Host>();
    eventually("host to join", LIMIT, async || {
        hosts.get(HOST).await.with_context(|| agent.tail())
    })
    .await?;
    let cluster: KubernetesCluster = serde_json::from_value(json!({
        "apiVersion": "farplane.io/v1alpha1", "kind": "KubernetesCluster",
        "metadata": { "name": "c" }, "spec": {} }))?;
    let made = create(&hub.org::<KubernetesCluster>(), &cluster).await?;
    let plane = made.metadata.uid.context("the cluster has no UID")?;
    let spec = HostPlanSpec {
        plane: PlaneReference {
            kind: "KubernetesCluster".to_owned(),
            name: "c".to_owned(),
            uid: plane.clone(),
        },
        listeners: Vec::new(),
        reachable: vec![format!("{}/32", target.ip())],
        units: Vec::new(),
    };
    create(&hub.org::<HostPlan>(), &HostPlan::new(HOST, spec)).await?;
    let leaf = hub.keys.plane_leaf(&plane)?;
    let identity = Some((leaf.certificate_pem.as_str(), leaf.key_pem.as_str()));
    let door = Door {
        address: hub.gateway.to_string(),
        server_name: hub.server_name(),
        tls: tls::settings(hub.keys.hub_ca().as_bytes(), identity, &[b"http/1.1"])?,
        target: target.to_string(),
    };
    let side = Side {
        name: "farplane",
        door,
        pids: [hub.gateway_process.pid(), agent.pid()],
        _agent: agent,
        _server: Server::Farplane {
            _hub: Box::new(hub),
        },
    };
    side.working().await
}

/// Its plan has no units, so it changes nothing on this machine.
fn start_agent(dist: &Path, hub: &Loopback, token: &Token, target: SocketAddr) -> Result<Running> {
    let path = hub.folder().join("agent.yaml");
    let config = json!({
        "hub": hub.gateway.to_string(),
        "token": token.to_string(),
        "name": HOST,
        "serverName": hub.server_name(),
        "stateDir": hub.folder().join("agent"),
        "nodeAddress": target.ip(),
    });
    std::fs::write(&path, config.to_string()).context("write the agent's configuration")?;
    let arguments = [
        "run".to_owned(),
        "--config".to_owned(),
        path.display().to_string(),
    ];
    let environment = [("RUST_LOG", "warn".to_owned())];
    Running::start(
        &dist.join("bin/farplane-agent"),
        "agent",
        hub.folder(),
        &arguments,
        &environment,
    )
}

/// konnectivity's server and agent, from a folder with both programs.
///
/// # Errors
/// When a part does not come up.
pub async fn konnectivity(bin: &Path, target: SocketAddr) -> Result<Side> {
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let path = folder.path();
    let now = OffsetDateTime::now_utc();
    let ca = CertificateAuthority::generate("konnectivity", Lifetime::days(1), now)
        .context("make an authority")?;
    let issue = |name: &str, usages| {
        let mut request =
            LeafRequest::new(name, usages, Validity::starting(now, Lifetime::hours(12)));
        request.dns_names = vec![name.to_owned()];
        request.ip_addresses = vec![[127, 0, 0, 1].into()];
        ca.issue(&request)
            .with_context(|| format!("sign for {name}"))
    };
    let write = |name: &str, text: &str| {
        std::fs::write(path.join(name), text).with_context(|| format!("write {name}"))
    };
    let (server, agent, client) = (
        issue("server", Usages::Server)?,
        issue("agent", Usages::Client)?,
        issue("client", Usages::Client)?,
    );
    write("ca.crt", ca.certificate_pem())?;
    for (name, leaf) in [("server", &server), ("agent", &agent)] {
        write(&format!("{name}.crt"), &leaf.certificate_pem)?;
        write(&format!("{name}.key"), &leaf.key_pem)?;
    }
    let (front, back) = (free_port()?, free_port()?);
    let server = start_konnectivity_server(bin, path, front, back)?;
    let agent = start_konnectivity_agent(bin, path, back)?;
    let identity = Some((client.certificate_pem.as_str(), client.key_pem.as_str()));
    let door = Door {
        address: format!("127.0.0.1:{front}"),
        server_name: "server".to_owned(),
        tls: tls::settings(ca.certificate_pem().as_bytes(), identity, &[])?,
        target: target.to_string(),
    };
    let side = Side {
        name: "konnectivity",
        door,
        pids: [server.pid(), agent.pid()],
        _agent: agent,
        _server: Server::Konnectivity {
            _process: server,
            _folder: folder,
        },
    };
    side.working().await
}

fn start_konnectivity_server(bin: &Path, path: &Path, front: u16, back: u16) -> Result<Running> {
    let arguments = [
        "--mode=http-connect".to_owned(),
        "--uds-name=".to_owned(),
        format!("--server-port={front}"),
        format!("--agent-port={back}"),
        format!("--admin-port={}", free_port()?),
        format!("--health-port={}", free_port()?),
        "--server-bind-address=127.0.0.1".to_owned(),
        "--agent-bind-address=127.0.0.1".to_owned(),
        "--health-bind-address=127.0.0.1".to_owned(),
        "--server-cert=server.crt".to_owned(),
        "--server-key=server.key".to_owned(),
        "--server-ca-cert=ca.crt".to_owned(),
        "--cluster-cert=server.crt".to_owned(),
        "--cluster-key=server.key".to_owned(),
        "--cluster-ca-cert=ca.crt".to_owned(),
    ];
    Running::start(
        &bin.join("konnectivity-server"),
        "konnectivity-server",
        path,
        &arguments,
        &[],
    )
}

fn start_konnectivity_agent(bin: &Path, path: &Path, back: u16) -> Result<Running> {
    let arguments = [
        "--proxy-server-host=127.0.0.1".to_owned(),
        format!("--proxy-server-port={back}"),
        format!("--admin-server-port={}", free_port()?),
        "--health-server-host=127.0.0.1".to_owned(),
        format!("--health-server-port={}", free_port()?),
        "--ca-cert=ca.crt".to_owned(),
        "--agent-cert=agent.crt".to_owned(),
        "--agent-key=agent.key".to_owned(),
    ];
    Running::start(
        &bin.join("konnectivity-agent"),
        "konnectivity-agent",
        path,
        &arguments,
        &[],
    )
}
