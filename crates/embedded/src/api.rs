//! Clients of the hub's API and of the health pages that need its keys.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::error::Error;

/// A client with the rights of a kubeconfig. `server` replaces the server's address,
/// for another program that trusts the same authority.
pub(crate) async fn client(kubeconfig: &Path, server: Option<&str>) -> Result<Client, Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Kubeconfig {
        path: kubeconfig.to_owned(),
        source,
    };
    let mut text = Kubeconfig::read_from(kubeconfig).map_err(|e| failed(Box::new(e)))?;
    for cluster in &mut text.clusters {
        if let (Some(cluster), Some(server)) = (cluster.cluster.as_mut(), server) {
            cluster.server = Some(server.to_owned());
        }
    }
    let mut config = Config::from_custom_kubeconfig(text, &KubeConfigOptions::default())
        .await
        .map_err(|e| failed(Box::new(e)))?;
    config.connect_timeout = Some(Duration::from_secs(2));
    config.read_timeout = Some(Duration::from_secs(30));
    config.proxy_url = None;
    Client::try_from(config).map_err(|e| failed(Box::new(e)))
}

/// True when a page that needs TLS answers with success.
pub(crate) async fn healthy(kubeconfig: &Path, server: Option<&str>, page: &str) -> bool {
    let Ok(client) = client(kubeconfig, server).await else {
        return false;
    };
    let Ok(request) = hyper::Request::get(page).body(Vec::new()) else {
        return false;
    };
    let answer = tokio::time::timeout(Duration::from_secs(3), client.request_text(request)).await;
    matches!(answer, Ok(Ok(_)))
}
