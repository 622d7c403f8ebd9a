//! The hub's own authorities and certificates, as files that its processes read.
//!
//! Three authorities: `ca` (API server, kubelet and every client), `etcd-ca` and
//! `front-proxy-ca`. What exists is kept; a certificate past half of its life, or made
//! for other addresses, is made anew by the same authority at the next start.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngCore as _;
use serde_json::{Value, json};

use crate::error::Error;
use crate::files::{Files, write};
use crate::processes::apiserver_addresses;
use crate::record::Record;

/// One certificate.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub file: &'static str,
    pub authority: &'static str,
    pub common_name: String,
    pub organization: Option<&'static str>,
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

impl Leaf {
    fn client(file: &'static str, authority: &'static str, common_name: &str) -> Self {
        Self {
            file,
            authority,
            common_name: common_name.to_owned(),
            organization: None,
            dns: Vec::new(),
            addresses: Vec::new(),
        }
    }

    fn of(mut self, organization: &'static str) -> Self {
        self.organization = Some(organization);
        self
    }

    fn at(mut self, dns: &[&str], addresses: &[IpAddr]) -> Self {
        self.dns = dns.iter().map(|&name| name.to_owned()).collect();
        self.addresses = addresses.to_vec();
        self
    }
}

pub(crate) const AUTHORITIES: &[&str] = &["ca", "etcd-ca", "front-proxy-ca"];

/// Client certificates that are used through a kubeconfig; `admin` is put at the top of
/// the state directory.
const KUBECONFIGS: &[&str] = &[
    "admin",
    "controller-manager",
    "scheduler",
    "kubelet",
    "kube-proxy",
];

fn leaves(record: &Record) -> Vec<Leaf> {
    let hub = IpAddr::V4(record.hub_address());
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let api = apiserver_addresses(record);
    let api_names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let node = record.name.as_str();
    vec![
        Leaf::client("etcd", "etcd-ca", "hub").at(&["localhost"], &[loopback]),
        Leaf::client("apiserver-etcd-client", "etcd-ca", "kube-apiserver"),
        Leaf::client("apiserver", "ca", "kube-apiserver").at(&api_names, &api),
        Leaf::client(
            "apiserver-kubelet-client",
            "ca",
            "kube-apiserver-kubelet-client",
        )
        .of("system:masters"),
        Leaf::client("front-proxy-client", "front-proxy-ca", "front-proxy-client"),
        Leaf::client("loopback", "ca", "hub-loopback").at(&["localhost"], &[loopback]),
        Leaf::client("kubelet-server", "ca", &format!("system:node:{node}"))
            .of("system:nodes")
            .at(&[node], &[hub]),
        Leaf::client("admin", "ca", "farplane-admin").of("system:masters"),
        Leaf::client("controller-manager", "ca", "system:kube-controller-manager"),
        Leaf::client("scheduler", "ca", "system:kube-scheduler"),
        Leaf::client("kubelet", "ca", &format!("system:node:{node}")).of("system:nodes"),
        Leaf::client("kube-proxy", "ca", "system:kube-proxy"),
    ]
}

/// Makes what is missing or due.
pub(crate) fn ensure(record: &Record, files: &Files) -> Result<(), Error> {
    crate::issue::ensure(&leaves(record), files)?;
    encryption_key(files)?;
    let server = format!("https://{}:6443", record.hub_address());
    for name in KUBECONFIGS {
        let path = match *name {
            "admin" => files.kubeconfig(),
            other => files.pki().join(format!("{other}.kubeconfig")),
        };
        let text = kubeconfig(record, files, &server, name)?.to_string();
        write(&path, text.as_bytes(), 0o600)?;
    }
    Ok(())
}

/// A kubeconfig that holds its keys itself, as JSON, which every reader of YAML reads.
fn kubeconfig(record: &Record, files: &Files, server: &str, user: &str) -> Result<Value, Error> {
    let encoded = |file: String| {
        let path = files.pki().join(file);
        let content = std::fs::read(&path).map_err(Error::file("read", &path))?;
        Ok::<_, Error>(STANDARD.encode(content))
    };
    let hub = record.name.as_str();
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": hub,
            "cluster": {
                "server": server,
                "certificate-authority-data": encoded("ca.crt".to_owned())?,
            },
        }],
        "users": [{
            "name": user,
            "user": {
                "client-certificate-data": encoded(format!("{user}.crt"))?,
                "client-key-data": encoded(format!("{user}.key"))?,
            },
        }],
        "contexts": [{ "name": hub, "context": { "cluster": hub, "user": user } }],
        "current-context": hub,
    }))
}

/// Secrets hold the keys of every plane; in the store they are encrypted.
fn encryption_key(files: &Files) -> Result<(), Error> {
    let path = files.pki().join("encryption.yaml");
    if path.exists() {
        return Ok(());
    }
    let mut key = [0; 32];
    rand::rng().fill_bytes(&mut key);
    let config = json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{
            "resources": ["secrets"],
            "providers": [
                { "secretbox": { "keys": [{ "name": "first", "secret": STANDARD.encode(key) }] } },
                { "identity": {} },
            ],
        }],
    });
    write(&path, config.to_string().as_bytes(), 0o600).map(|_| ())
}
