//! `farplane up --demo`: from a hub to a cluster that a person can try.
//!
//! Makes what is missing: organization `demo`, endpoint `lab`, lab hosts `one` and
//! `two`, cluster `first` on both. Repeating it changes nothing.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use farplane_embedded::HubInfo;
use farplane_types::{
    Endpoint, EndpointSpec, HostSelection, KubernetesCluster, KubernetesClusterSpec, Organization,
    OrganizationSpec,
};
use kube::{Client, ResourceExt as _};

use crate::App;
use crate::cluster;
use crate::failure::Failure;
use crate::hub::{self, DEFAULT_HUB};
use crate::lab;
use crate::objects::{self, Kind};

const ORG: &str = "demo";
const ENDPOINT: &str = "lab";
const HOSTS: [&str; 2] = ["one", "two"];
const CLUSTER: &str = "first";
const TIMEOUT: Duration = Duration::from_secs(600);

/// Makes what is missing, waits for the cluster and prints how to use it.
pub(crate) async fn run(app: &App, info: &HubInfo, dist: &Path) -> Result<()> {
    let client = hub::from_file(&info.kubeconfig).await?;
    let organization = Organization::new(ORG, OrganizationSpec::default());
    ensure(app, &client, None, organization).await?;
    let endpoint = Endpoint::new(ENDPOINT, EndpointSpec::default());
    ensure(app, &client, Some(ORG), endpoint).await?;
    for host in HOSTS {
        ensure(app, &client, Some(ORG), lab::object(host, ENDPOINT)).await?;
    }
    let spec = KubernetesClusterSpec {
        hosts: HostSelection::Names(HOSTS.map(str::to_owned).to_vec()),
        version: version(dist)?,
        ..defaults()?
    };
    ensure(
        app,
        &client,
        Some(ORG),
        KubernetesCluster::new(CLUSTER, spec),
    )
    .await?;
    cluster::wait_ready(app, client.clone(), ORG, CLUSTER, TIMEOUT).await?;
    let text = cluster::fetch(&client, ORG, CLUSTER).await?;
    let path = info
        .kubeconfig
        .with_file_name(format!("{CLUSTER}.kubeconfig"));
    cluster::write_private(&path, &text)?;
    app.out.data(&how_to_use(info.name.as_str(), dist, &path))
}

/// The Kubernetes that was built, which need not be the one that the resource defaults to.
fn version(dist: &Path) -> Result<String> {
    let path = dist.join("artifacts/index.json");
    let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    offered(&text).with_context(|| format!("find kubernetes-node in {}", path.display()))
}

fn offered(index: &[u8]) -> Option<String> {
    let index: Vec<serde_json::Value> = serde_json::from_slice(index).ok()?;
    let node = index.iter().find(|it| it["name"] == "kubernetes-node")?;
    Some(node["version"].as_str()?.to_owned())
}

/// The spec that the resource itself defaults to.
fn defaults() -> Result<KubernetesClusterSpec> {
    serde_json::from_str("{}").context("make the cluster's specification")
}

/// Makes an object unless it exists.
async fn ensure<K: Kind>(
    app: &App,
    client: &Client,
    organization: Option<&str>,
    object: K,
) -> Result<()> {
    let name = object.name_any();
    let about = objects::about::<K>("create", organization, &name);
    match objects::find::<K>(client, organization, &name).await? {
        Some(found) if found.meta().deletion_timestamp.is_some() => {
            Err(Failure::NotReady(format!(
                "{} is being deleted: repeat the command in a moment",
                about.what()
            ))
            .into())
        }
        Some(_) => Ok(()),
        None => {
            objects::create(client, organization, &object).await?;
            app.out.say(format_args!("{} is made", about.what()));
            Ok(())
        }
    }
}

/// What a person may type next.
fn how_to_use(hub: &str, dist: &Path, kubeconfig: &Path) -> String {
    let bin = dist.join("bin");
    let bin = bin.display();
    let kubeconfig = kubeconfig.display();
    let (hub, name) = match hub {
        DEFAULT_HUB => (String::new(), String::new()),
        other => (format!(" --hub {other}"), format!(" --name {other}")),
    };
    format!(
        "\
Cluster {CLUSTER} of organization {ORG} is ready. Its nodes are two lab hosts.

  {bin}/kubectl --kubeconfig {kubeconfig} get nodes

  {bin}/farplane{hub} cluster describe {CLUSTER} --org {ORG}
  {bin}/farplane{hub} host join-command --org {ORG} --endpoint site
  {bin}/farplane down{name}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_was_built() {
        let index =
            br#"[{"name":"cni","version":"1.9.1"},{"name":"kubernetes-node","version":"1.36.3"}]"#;
        assert_eq!(offered(index).as_deref(), Some("1.36.3"));
        assert_eq!(offered(b"[]"), None);
        assert_eq!(offered(b"no"), None);
    }

    #[test]
    fn the_lines_to_paste_name_their_hub() {
        let text = |hub| how_to_use(hub, Path::new("/d"), Path::new("/s/first.kubeconfig"));
        assert!(
            text("default")
                .contains("\n  /d/bin/kubectl --kubeconfig /s/first.kubeconfig get nodes\n")
        );
        assert!(!text("default").contains("--hub"));
        assert!(
            text("x").contains("farplane --hub x cluster") && text("x").contains("down --name x")
        );
    }
}
