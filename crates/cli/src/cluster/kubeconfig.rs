//! `farplane cluster kubeconfig`

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use farplane_types::KubernetesCluster;
use farplane_types::names::organization_namespace;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use crate::App;
use crate::arguments::{Format, Named};
use crate::failure::{About, Failure, Scope};
use crate::{hub, objects};

const KEY: &str = "kubeconfig";

/// Whose kubeconfig, and where to.
#[derive(Args, Debug)]
pub(crate) struct KubeconfigArgs {
    #[command(flatten)]
    named: Named,
    /// Write it to this file, readable by its owner only, instead of stdout
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
}

/// Prints it.
pub(crate) async fn run(app: &App, args: KubeconfigArgs) -> Result<()> {
    let (name, org) = (args.named.name.as_str(), args.named.of.org.as_str());
    let client = hub::connect(app).await?;
    let text = fetch(&client, org, name).await?;
    if let Some(path) = &args.file {
        write_private(path, &text)?;
        app.out.say(format_args!(
            "kubectl --kubeconfig {} get nodes",
            path.display()
        ));
        return Ok(());
    }
    match app.out.format {
        Format::Json => {
            let value: serde_json::Value =
                serde_yaml_ng::from_str(&text).context("read the kubeconfig")?;
            app.out.value(&value, |_| String::new())
        }
        _ => app.out.data(&text),
    }
}

/// The admin kubeconfig of a cluster.
pub(crate) async fn fetch(client: &Client, org: &str, name: &str) -> Result<String> {
    let cluster: KubernetesCluster = objects::get(client, Some(org), name).await?;
    let secret = cluster
        .status
        .and_then(|status| status.kubeconfig_secret)
        .unwrap_or_else(|| format!("{name}-kubeconfig"));
    let api = Api::<Secret>::namespaced(client.clone(), &organization_namespace(org));
    let found = api.get_opt(&secret).await.map_err(|error| {
        let about = About {
            noun: "kubeconfig of cluster",
            command: "cluster",
            name,
            scope: Scope::Organization(org),
            verb: "read",
        };
        about.explain(error)
    })?;
    let bytes = found
        .and_then(|secret| secret.data)
        .and_then(|mut data| data.remove(KEY));
    let Some(bytes) = bytes else {
        return Err(Failure::NotReady(format!(
            "cluster {name} in organization {org} has no kubeconfig yet; `farplane cluster describe {name} --org {org}` tells how it is"
        ))
        .into());
    };
    String::from_utf8(bytes.0).context("read the kubeconfig")
}

/// Replaces a file at once by one that only its owner may read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    let words = || format!("write {}", path.display());
    let mut name = path.file_name().with_context(words)?.to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // A leftover of an interrupted command may be readable by others.
    let _ = std::fs::remove_file(&new);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .with_context(words)?;
    file.write_all(text.as_bytes()).with_context(words)?;
    std::fs::rename(&new, path).with_context(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_kubeconfig_is_for_its_owner_only_even_over_an_open_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        write_private(&path, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
