//! Finds the hub that a command is for.
//!
//! Order: `--hub-kubeconfig`, `--hub`, `$FARPLANE_KUBECONFIG`, the hub `default` of this
//! machine, the usual kubeconfig.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use crate::App;
use crate::arguments::Global;
use crate::engine;
use crate::failure::{About, Failure, Scope};

/// Hub of this machine when none is named.
pub(crate) const DEFAULT_HUB: &str = "default";
const ENVIRONMENT: &str = "FARPLANE_KUBECONFIG";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the hub is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A kubeconfig that was named.
    File(PathBuf),
    /// A hub of this machine.
    Embedded(String),
    /// The usual kubeconfig.
    Usual,
}

/// Decides where the hub is.
pub(crate) fn source(
    global: &Global,
    environment: Option<PathBuf>,
    default_exists: impl FnOnce() -> bool,
) -> Source {
    match (&global.hub_kubeconfig, &global.hub, environment) {
        (Some(path), ..) => Source::File(path.clone()),
        (None, Some(name), _) => Source::Embedded(name.clone()),
        (None, None, Some(path)) => Source::File(path),
        (None, None, None) if default_exists() => Source::Embedded(DEFAULT_HUB.to_owned()),
        (None, None, None) => Source::Usual,
    }
}

/// Decides where the hub is, from options and environment.
pub(crate) fn source_of(app: &App) -> Source {
    let environment = std::env::var_os(ENVIRONMENT)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    source(&app.global, environment, || {
        engine::list().iter().any(|name| name == DEFAULT_HUB)
    })
}

/// Connects to the hub that the options name.
pub(crate) async fn connect(app: &App) -> Result<Client> {
    match source_of(app) {
        Source::File(path) => from_file(&path).await,
        Source::Embedded(name) => {
            let status = engine::status(&name).await?;
            if !status.exists {
                return Err(engine::no_such_hub(&name).into());
            }
            if !status.running {
                return Err(Failure::Refused(format!(
                    "the hub {name} is stopped; `farplane up --name {name}` starts it"
                ))
                .into());
            }
            from_file(&status.kubeconfig).await
        }
        Source::Usual => {
            let config = Config::infer().await.map_err(|_| {
                Failure::NotFound(
                    "there is no hub: `farplane up` makes one on this machine, --hub-kubeconfig names another".to_owned(),
                )
            })?;
            client(config)
        }
    }
}

/// Connects to the hub of a kubeconfig.
pub(crate) async fn from_file(path: &Path) -> Result<Client> {
    let words = || format!("read the kubeconfig {}", path.display());
    // Tells a missing right from a damaged file before the parser does not.
    match std::fs::File::open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(Failure::Refused(format!(
                "only root may read the kubeconfig {}: run the same command with sudo",
                path.display()
            ))
            .into());
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(
                Failure::NotFound(format!("there is no kubeconfig {}", path.display())).into(),
            );
        }
        Err(error) => return Err(error).with_context(words),
    }
    let kubeconfig = Kubeconfig::read_from(path).with_context(words)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(words)?;
    client(config)
}

fn client(mut config: Config) -> Result<Client> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Client::try_from(config).context("set up the connection to the hub")
}

/// A public ConfigMap of the hub's own namespace; `None` when there is none.
pub(crate) async fn published(client: &Client, name: &str) -> Result<Option<ConfigMap>> {
    let namespace = farplane_types::names::SYSTEM_NAMESPACE;
    let found = Api::<ConfigMap>::namespaced(client.clone(), namespace)
        .get_opt(name)
        .await;
    found.map_err(|error| {
        let about = About {
            noun: "ConfigMap",
            command: "status",
            name,
            scope: Scope::Hub,
            verb: "read",
        };
        about.explain(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(hub: Option<&str>, file: Option<&str>) -> Global {
        Global {
            hub: hub.map(str::to_owned),
            hub_kubeconfig: file.map(PathBuf::from),
            ..Global::default()
        }
    }

    #[test]
    fn what_is_said_goes_before_what_is_set_and_what_exists() {
        let set = || Some(PathBuf::from("/env"));
        assert_eq!(
            source(&global(None, Some("/flag")), set(), || true),
            Source::File("/flag".into())
        );
        assert_eq!(
            source(&global(Some("x"), None), set(), || true),
            Source::Embedded("x".into())
        );
        assert_eq!(
            source(&global(None, None), set(), || true),
            Source::File("/env".into())
        );
        assert_eq!(
            source(&global(None, None), None, || true),
            Source::Embedded("default".into())
        );
        assert_eq!(source(&global(None, None), None, || false), Source::Usual);
    }
}
