//! Which cluster, and which of its namespaces, a command about functions works in.
//!
//! Order: `--cluster` and `--org` (the hub knows its kubeconfig), `--kubeconfig`,
//! `$KUBECONFIG` or the usual kubeconfig.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::App;
use crate::arguments::name;
use crate::failure::Failure;
use crate::{cluster, hub};

/// Namespace of functions when none is named.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Which cluster.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct InCluster {
    /// Cluster that the hub hosts
    #[arg(long, value_name = "CLUSTER", value_parser = name, requires = "org", help_heading = "Cluster")]
    pub cluster: Option<String>,
    /// Organization of that cluster
    #[arg(long, value_name = "ORG", value_parser = name, requires = "cluster", help_heading = "Cluster")]
    pub org: Option<String>,
    /// Kubeconfig of any other cluster; $KUBECONFIG or the usual one when left out
    #[arg(
        long,
        value_name = "PATH",
        conflicts_with = "cluster",
        help_heading = "Cluster"
    )]
    pub kubeconfig: Option<PathBuf>,
}

/// Which namespace of which cluster.
#[derive(Args, Debug, Clone)]
pub(crate) struct InNamespace {
    /// Namespace
    #[arg(
        short,
        long,
        value_name = "NAMESPACE",
        default_value = DEFAULT_NAMESPACE,
        value_parser = label,
        help_heading = "Cluster"
    )]
    pub namespace: String,
    #[command(flatten)]
    pub at: InCluster,
}

/// Which namespace a list is of.
#[derive(Args, Debug, Clone)]
pub(crate) struct OfNamespace {
    #[command(flatten)]
    pub at: InNamespace,
    /// Every namespace
    #[arg(
        short = 'A',
        long,
        conflicts_with = "namespace",
        help_heading = "Cluster"
    )]
    pub all_namespaces: bool,
}

impl OfNamespace {
    /// The namespace, or none for all.
    pub fn place(&self) -> Option<&str> {
        (!self.all_namespaces).then_some(self.at.namespace.as_str())
    }
}

/// A named object of a namespace.
#[derive(Args, Debug, Clone)]
pub(crate) struct Named {
    /// Name
    #[arg(value_parser = label)]
    pub name: String,
    #[command(flatten)]
    pub at: InNamespace,
}

/// Checks a name before the cluster is asked.
pub(crate) fn label(text: &str) -> Result<String, String> {
    let inner = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let fits = (1..=63).contains(&text.len())
        && text.chars().all(|letter| inner(letter) || letter == '-')
        && text.starts_with(inner)
        && text.ends_with(inner);
    match fits {
        true => Ok(text.to_owned()),
        false => Err(
            "a name has up to 63 lower-case letters, digits and dashes, and neither starts nor ends with a dash"
                .to_owned(),
        ),
    }
}

impl InCluster {
    /// Connects to the cluster.
    pub async fn connect(&self, app: &App) -> Result<Client> {
        let config = match (&self.cluster, &self.org, &self.kubeconfig) {
            (Some(cluster), Some(org), _) => self.hosted(app, cluster, org).await?,
            (_, _, Some(path)) => from_file(path).await?,
            _ => Config::infer().await.map_err(|error| {
                Failure::NotFound(format!(
                    "there is no cluster to work in ({error}): name one by --cluster and --org, by --kubeconfig or by $KUBECONFIG"
                ))
            })?,
        };
        connect(config)
    }

    async fn hosted(&self, app: &App, cluster: &str, org: &str) -> Result<Config> {
        let hub = hub::connect(app).await?;
        let text = cluster::fetch(&hub, org, cluster).await?;
        let words = || format!("use the kubeconfig of cluster {cluster}");
        let kubeconfig = Kubeconfig::from_yaml(&text).with_context(words)?;
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .with_context(words)
    }

    /// The same options again, for a command that is suggested.
    fn repeat(&self) -> String {
        match (&self.cluster, &self.org, &self.kubeconfig) {
            (Some(cluster), Some(org), _) => format!(" --cluster {cluster} --org {org}"),
            (_, _, Some(path)) => format!(" --kubeconfig {}", path.display()),
            _ => String::new(),
        }
    }

    /// A command that works in the same cluster.
    pub fn command(&self, words: &str) -> String {
        format!("farplane {words}{}", self.repeat())
    }
}

impl InNamespace {
    /// Connects to the cluster.
    pub async fn connect(&self, app: &App) -> Result<Client> {
        self.at.connect(app).await
    }

    /// A command that works in the same place.
    pub fn command(&self, words: &str) -> String {
        match self.namespace.as_str() {
            DEFAULT_NAMESPACE => self.at.command(words),
            namespace => self.at.command(&format!("{words} -n {namespace}")),
        }
    }
}

async fn from_file(path: &Path) -> Result<Config> {
    let words = || format!("read the kubeconfig {}", path.display());
    if !path.exists() {
        let text = format!("there is no kubeconfig {}", path.display());
        return Err(Failure::NotFound(text).into());
    }
    let kubeconfig = Kubeconfig::read_from(path).with_context(words)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(words)
}

fn connect(mut config: Config) -> Result<Client> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Client::try_from(config).context("set up the connection to the cluster")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_functions_are_labels() {
        for good in ["a", "hello", "2fast", "a-b-1"] {
            assert_eq!(label(good).unwrap(), good);
        }
        let long = "x".repeat(64);
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &long] {
            assert!(label(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_suggested_command_works_in_the_same_place() {
        let mut at = InNamespace {
            namespace: "default".into(),
            at: InCluster::default(),
        };
        assert_eq!(at.command("fn list"), "farplane fn list");
        at.namespace = "shop".into();
        at.at.cluster = Some("first".into());
        at.at.org = Some("demo".into());
        assert_eq!(
            at.command("fn list"),
            "farplane fn list -n shop --cluster first --org demo"
        );
    }
}
