//! A hub without its Pods: real etcd, API server and gateway process on loopback, with the
//! keys that the controllers would have made.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use farplane_pki::{
    CertificateAuthority, Duration as Lifetime, Leaf, LeafRequest, OffsetDateTime, Usages, Validity,
};
use farplane_types::identity::Identity;
use farplane_types::names::{SYSTEM_NAMESPACE, gateway_server_name, organization_namespace};
use farplane_types::{Organization, OrganizationSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::process::{Running, eventually, free_port};

/// Organization of the benchmarks here.
pub const ORG: &str = "demo";
const DOMAIN: &str = "bench.internal";
const LIMIT: Duration = Duration::from_secs(60);

/// The hub's authorities.
pub struct Keys {
    hub: CertificateAuthority,
    host: CertificateAuthority,
    plane: CertificateAuthority,
}

impl Keys {
    fn generate() -> Result<Self> {
        let authority = |name| {
            CertificateAuthority::generate(name, Lifetime::days(1), OffsetDateTime::now_utc())
                .with_context(|| format!("make the authority {name}"))
        };
        Ok(Self {
            hub: authority("hub")?,
            host: authority("host")?,
            plane: authority("plane")?,
        })
    }

    /// Certificate of the hub's authority, PEM.
    pub fn hub_ca(&self) -> &str {
        self.hub.certificate_pem()
    }

    /// What join tokens pin.
    ///
    /// # Errors
    /// None in practice.
    pub fn hub_pin(&self) -> Result<String> {
        self.hub.sha256_der_hex().context("hash the hub's CA")
    }

    /// Certificate of a host.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn host_leaf(&self, host: &str, uid: &str) -> Result<Leaf> {
        let identity = Identity::Host {
            organization: ORG.to_owned(),
            endpoint: "site".to_owned(),
            host: host.to_owned(),
            uid: uid.to_owned(),
        };
        leaf(&self.host, host, &identity, Usages::Client)
    }

    /// Certificate of a plane, for egress.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn plane_leaf(&self, uid: &str) -> Result<Leaf> {
        let identity = Identity::Plane {
            uid: uid.to_owned(),
        };
        leaf(&self.plane, "plane", &identity, Usages::Client)
    }
}

/// A leaf of one day.
///
/// # Errors
/// When it cannot be signed.
pub fn leaf(
    authority: &CertificateAuthority,
    name: &str,
    identity: &Identity,
    usages: Usages,
) -> Result<Leaf> {
    let validity = Validity::starting(OffsetDateTime::now_utc(), Lifetime::hours(12));
    let mut request = LeafRequest::new(name, usages, validity);
    request.uris = vec![identity.to_string()];
    if usages != Usages::Client {
        request.dns_names = vec![name.to_owned()];
    }
    authority
        .issue(&request)
        .with_context(|| format!("sign for {identity}"))
}

/// etcd, API server and gateway. All end with it.
pub struct Loopback {
    /// Keys of the hub.
    pub keys: Keys,
    /// Client of the API.
    pub client: Client,
    /// Address of the gateway.
    pub gateway: SocketAddr,
    /// The gateway's process. Ends first.
    pub gateway_process: Running,
    api_server: Running,
    _etcd: Running,
    folder: tempfile::TempDir,
}

impl Loopback {
    /// Starts everything; the gateway is ready and no host is known.
    ///
    /// # Errors
    /// When a program is missing or does not get ready.
    pub async fn start(dist: &Path) -> Result<Self> {
        let bin = dist.join("bin");
        let folder = tempfile::tempdir().context("make a temporary folder")?;
        let path = folder.path();
        let (etcd, store) = start_etcd(&bin, path)?;
        let (mut api_server, port) = start_api_server(&bin, path, store)?;
        let client = client(port)?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        eventually("API server", LIMIT, async || {
            api_server.check()?;
            namespaces
                .get("default")
                .await
                .with_context(|| api_server.tail())
        })
        .await?;
        let keys = Keys::generate()?;
        furnish(&client, &keys).await?;
        let (gateway_process, gateway) = start_gateway(&bin, path, port).await?;
        Ok(Self {
            keys,
            client,
            gateway,
            gateway_process,
            api_server,
            _etcd: etcd,
            folder,
        })
    }

    /// Folder for logs and files, removed at the end.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Name in the gateway's certificate.
    pub fn server_name(&self) -> String {
        gateway_server_name(DOMAIN)
    }

    /// # Errors
    /// When a process has ended.
    pub fn check(&mut self) -> Result<()> {
        self.gateway_process.check()?;
        self.api_server.check()
    }

    /// Objects of the organization.
    pub fn org<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &organization_namespace(ORG))
    }
}

fn start_etcd(bin: &Path, path: &Path) -> Result<(Running, u16)> {
    let (store, peer) = (free_port()?, free_port()?);
    let arguments = [
        "--data-dir=data".to_owned(),
        format!("--listen-client-urls=http://127.0.0.1:{store}"),
        format!("--advertise-client-urls=http://127.0.0.1:{store}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
        "--heartbeat-interval=20".to_owned(),
        "--election-timeout=100".to_owned(),
    ];
    Ok((
        Running::start(&bin.join("etcd"), "etcd", path, &arguments, &[])?,
        store,
    ))
}

fn start_api_server(bin: &Path, path: &Path, store: u16) -> Result<(Running, u16)> {
    let port = free_port()?;
    let key = rcgen::KeyPair::generate().context("make a key")?;
    let write = |name: &str, text: &str| {
        std::fs::write(path.join(name), text).with_context(|| format!("write {name}"))
    };
    write("sa.key", &key.serialize_pem())?;
    write("sa.pub", &key.public_key_pem())?;
    write("tokens.csv", "admin,admin,1,\"system:masters\"\n")?;
    let arguments = [
        format!("--etcd-servers=http://127.0.0.1:{store}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        "--cert-dir=certs".to_owned(),
        "--token-auth-file=tokens.csv".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        "--service-account-issuer=https://bench".to_owned(),
        "--service-account-key-file=sa.pub".to_owned(),
        "--service-account-signing-key-file=sa.key".to_owned(),
        "--disable-admission-plugins=ServiceAccount".to_owned(),
    ];
    let name = "kube-apiserver";
    Ok((
        Running::start(&bin.join(name), name, path, &arguments, &[])?,
        port,
    ))
}

fn client(port: u16) -> Result<Client> {
    let uri = format!("https://127.0.0.1:{port}")
        .parse()
        .context("make the API server's address")?;
    let mut config = kube::Config::new(uri);
    // Its certificate is its own; nothing but this run's objects is asked for.
    config.accept_invalid_certs = true;
    config.auth_info.token = Some("admin".to_owned().into());
    Client::try_from(config).context("make a client")
}

async fn start_gateway(bin: &Path, path: &Path, api_port: u16) -> Result<(Running, SocketAddr)> {
    let kubeconfig = path.join("kubeconfig");
    let text = json!({ "apiVersion": "v1", "kind": "Config", "current-context": "hub",
        "clusters": [{ "name": "hub", "cluster": { "server": format!("https://127.0.0.1:{api_port}"), "insecure-skip-tls-verify": true } }],
        "users": [{ "name": "admin", "user": { "token": "admin" } }],
        "contexts": [{ "name": "hub", "context": { "cluster": "hub", "user": "admin" } }] });
    std::fs::write(&kubeconfig, text.to_string()).context("write the gateway's kubeconfig")?;
    let address: SocketAddr = ([127, 0, 0, 1], free_port()?).into();
    let inner: SocketAddr = ([127, 0, 0, 1], free_port()?).into();
    let arguments = [
        "gateway".to_owned(),
        format!("--hub-domain={DOMAIN}"),
        "--artifacts-url=http://127.0.0.1:1".to_owned(),
        "--registry-url=http://127.0.0.1:1".to_owned(),
        "--pod-name=g1".to_owned(),
        "--pod-ip=127.0.0.1".to_owned(),
        format!("--listen={address}"),
        format!("--metrics-listen={inner}"),
    ];
    let environment = [
        ("KUBECONFIG", kubeconfig.display().to_string()),
        ("RUST_LOG", "warn".to_owned()),
    ];
    let program: PathBuf = bin.join("farplane-hub");
    let mut process = Running::start(&program, "gateway", path, &arguments, &environment)?;
    eventually("gateway to be ready", LIMIT, async || {
        process.check()?;
        let answer = get(inner, "/readyz").await?;
        ensure!(
            answer.starts_with("HTTP/1.1 200"),
            "{answer}; {}",
            process.tail()
        );
        Ok(())
    })
    .await?;
    Ok((process, address))
}

/// Answer to a plain HTTP request.
///
/// # Errors
/// When nobody answers.
pub async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connect to {address}"))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.context("ask")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .context("read the answer")?;
    Ok(answer)
}

/// Makes an object, as soon as its kind is served.
///
/// # Errors
/// When the API refuses it for a minute.
pub async fn create<K>(api: &Api<K>, object: &K) -> Result<K>
where
    K: Resource + DeserializeOwned + Serialize + Clone + Debug,
{
    eventually("object to be made", LIMIT, async || {
        Ok(api.create(&PostParams::default(), object).await?)
    })
    .await
}

fn read<K: DeserializeOwned>(object: Value) -> Result<K> {
    serde_json::from_value(object).context("make an object")
}

async fn furnish(client: &Client, keys: &Keys) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in farplane_types::all_crds() {
        create(&definitions, &definition)
            .await
            .with_context(|| definition.name_any())?;
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in [SYSTEM_NAMESPACE, &organization_namespace(ORG)] {
        create(&namespaces, &read(json!({ "metadata": { "name": name } }))?).await?;
    }
    let name = gateway_server_name(DOMAIN);
    let gateway = leaf(
        &keys.hub,
        &name,
        &Identity::Gateway,
        Usages::ServerAndClient,
    )?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    for (name, certificate, key) in [
        (
            "gateway-tls",
            gateway.certificate_pem.as_str(),
            gateway.key_pem.clone(),
        ),
        ("host-ca", keys.host.certificate_pem(), keys.host.key_pem()),
        ("plane-ca", keys.plane.certificate_pem(), String::new()),
    ] {
        let data = json!({ "tls.crt": certificate, "tls.key": key });
        create(
            &secrets,
            &read(json!({ "metadata": { "name": name }, "stringData": data }))?,
        )
        .await?;
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let map = json!({ "metadata": { "name": "hub-ca" }, "data": { "ca.crt": keys.hub_ca() } });
    create(&maps, &read(map)?).await?;
    let organizations: Api<Organization> = Api::all(client.clone());
    create(
        &organizations,
        &Organization::new(ORG, OrganizationSpec::default()),
    )
    .await?;
    Ok(())
}

/// An address of this machine that is not loopback: what a plane may never reach is not
/// reachable in benchmarks either.
///
/// # Errors
/// When the machine has no network.
pub fn own_address() -> Result<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").context("make a socket")?;
    // Sends nothing; the kernel chooses the address for this way.
    socket
        .connect("192.0.2.1:9")
        .context("find a way out of this machine")?;
    let address = socket.local_addr().context("read the own address")?.ip();
    if address.is_loopback() || address.is_unspecified() {
        bail!("this machine has no address but loopback");
    }
    Ok(address)
}
