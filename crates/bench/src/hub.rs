//! The embedded hub that some benchmarks run on: a hub of its own name, driven as a person
//! would, and purged at the end whatever happened.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use farplane_types::names::organization_namespace;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::DeleteParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::process::eventually;

/// Organization of the benchmarks.
pub const ORG: &str = "bench";

/// Longest run of one command; `up` on a slow machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(900);

/// A hub of this name.
pub struct Hub {
    farplane: PathBuf,
    name: String,
}

impl Hub {
    /// A hub that does not run yet. One of that name must not exist: it would be purged.
    ///
    /// # Errors
    /// When the programs are not built or there is such a hub.
    pub fn new(dist: &Path, name: &str) -> Result<Self> {
        let farplane = dist.join("bin/farplane");
        ensure!(
            farplane.is_file(),
            "{} is missing; run `make build` first",
            farplane.display()
        );
        let state = Path::new("/var/lib/farplane-hub").join(name);
        ensure!(
            !state.exists(),
            "there is a hub {name} already ({}); choose another name with --hub, or remove it with: {} down --purge --name {name}",
            state.display(),
            farplane.display()
        );
        Ok(Self {
            farplane,
            name: name.to_owned(),
        })
    }

    /// Command `farplane` with these arguments, for this hub.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.farplane);
        command
            .args(["--hub", &self.name])
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs `farplane`, which must succeed; answers its standard output.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub async fn farplane(&self, arguments: &[&str]) -> Result<String> {
        let what = format!("farplane {}", arguments.join(" "));
        let output = timeout(COMMAND_LIMIT, self.command(arguments).output()).await;
        let output = output
            .with_context(|| format!("{what}: still running after {COMMAND_LIMIT:?}"))?
            .with_context(|| format!("start {what}"))?;
        if !output.status.success() {
            bail!(
                "{what}: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        String::from_utf8(output.stdout).with_context(|| format!("read the answer of {what}"))
    }

    /// Starts the hub, or brings it up to date.
    ///
    /// # Errors
    /// What `farplane up` says.
    pub async fn up(&self) -> Result<()> {
        self.farplane(&["up"]).await.map(drop)
    }

    /// Ends the hub and removes every trace.
    ///
    /// # Errors
    /// What `farplane down` says.
    pub async fn purge(&self) -> Result<()> {
        self.farplane(&["down", "--purge"]).await.map(drop)
    }

    /// A hub with nothing on it but an empty organization [`ORG`].
    ///
    /// # Errors
    /// What the commands say.
    pub async fn fresh(&self) -> Result<Client> {
        self.purge().await?;
        self.up().await?;
        self.farplane(&["org", "create", ORG]).await?;
        let client = self.client().await?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        eventually(
            "namespace of the organization",
            Duration::from_secs(60),
            async || Ok(namespaces.get(&organization_namespace(ORG)).await?),
        )
        .await?;
        Ok(client)
    }

    /// Client of the hub's API.
    ///
    /// # Errors
    /// When the hub does not run.
    pub async fn client(&self) -> Result<Client> {
        let path = format!("/var/lib/farplane-hub/{}/admin.kubeconfig", self.name);
        let config = Kubeconfig::read_from(&path).with_context(|| format!("read {path}"))?;
        client_of(config).await
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let purged = std::process::Command::new(&self.farplane)
            .args(["--hub", &self.name, "down", "--purge", "--quiet"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        if !purged.is_ok_and(|status| status.success()) {
            eprintln!(
                "bench: hub {} is not purged; see `farplane down --purge --name {0}`",
                self.name
            );
        }
    }
}

async fn client_of(config: Kubeconfig) -> Result<Client> {
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .context("read a kubeconfig")?;
    Client::try_from(config).context("make a client")
}

/// How people reach a cluster.
pub struct Access {
    /// `host:port` of the gateway.
    pub address: String,
    /// Name to send and to verify.
    pub server_name: String,
    /// The cluster's CA, PEM.
    pub ca: Vec<u8>,
    kubeconfig: Kubeconfig,
}

impl Access {
    /// Reads the kubeconfig of a cluster at the hub.
    ///
    /// # Errors
    /// While there is none.
    pub async fn read(hub: &Client, cluster: &str) -> Result<Self> {
        let secrets: Api<Secret> = Api::namespaced(hub.clone(), &organization_namespace(ORG));
        let secret = secrets.get(&format!("{cluster}-kubeconfig")).await?;
        let text = secret
            .data
            .and_then(|mut data| data.remove("kubeconfig"))
            .context("the Secret has no kubeconfig")?;
        Self::parse(std::str::from_utf8(&text.0).context("the kubeconfig is no text")?)
    }

    fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_yaml_ng::from_str(text).context("parse the kubeconfig")?;
        let cluster = &value["clusters"][0]["cluster"];
        let field = |name: &str| {
            cluster[name]
                .as_str()
                .with_context(|| format!("the kubeconfig has no {name}"))
        };
        let address = field("server")?
            .trim_start_matches("https://")
            .trim_end_matches('/')
            .to_owned();
        let ca = base64::engine::general_purpose::STANDARD
            .decode(field("certificate-authority-data")?)
            .context("decode the CA of the kubeconfig")?;
        Ok(Self {
            address,
            server_name: field("tls-server-name")?.to_owned(),
            ca,
            kubeconfig: Kubeconfig::from_yaml(text).context("parse the kubeconfig")?,
        })
    }

    /// Client of the cluster's API.
    ///
    /// # Errors
    /// When the kubeconfig is wrong.
    pub async fn client(&self) -> Result<Client> {
        client_of(self.kubeconfig.clone()).await
    }
}

/// Deletes a cluster and waits until it and its namespace are gone.
///
/// # Errors
/// When they are still there after two minutes.
pub async fn delete_cluster(hub: &Client, name: &str) -> Result<()> {
    let clusters: Api<farplane_types::KubernetesCluster> =
        Api::namespaced(hub.clone(), &organization_namespace(ORG));
    let cluster = clusters.get(name).await?;
    let uid = cluster.metadata.uid.context("the cluster has no UID")?;
    clusters.delete(name, &DeleteParams::default()).await?;
    let namespaces: Api<Namespace> = Api::all(hub.clone());
    eventually(
        "cluster and namespace to be gone",
        Duration::from_secs(120),
        async || {
            ensure!(
                clusters.get_opt(name).await?.is_none(),
                "cluster {name} is still there"
            );
            let namespace = farplane_types::names::plane_namespace(&uid);
            ensure!(
                namespaces.get_opt(&namespace).await?.is_none(),
                "namespace {namespace} is still there"
            );
            Ok(())
        },
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_is_read_from_a_kubeconfig() {
        let text = "apiVersion: v1\nkind: Config\nclusters:\n- name: a\n  cluster:\n    server: https://100.100.0.2:8443\n    tls-server-name: a.b.k8s.x\n    certificate-authority-data: YWI=\n";
        let access = Access::parse(text).unwrap();
        assert_eq!(access.address, "100.100.0.2:8443");
        assert_eq!(access.server_name, "a.b.k8s.x");
        assert_eq!(access.ca, b"ab");
        assert!(Access::parse("clusters: []").is_err());
    }

    #[test]
    fn a_hub_that_somebody_has_is_not_touched() {
        let error = Hub::new(Path::new("/nonexistent"), "x").err().unwrap();
        assert!(error.to_string().contains("make build"), "{error}");
    }
}
