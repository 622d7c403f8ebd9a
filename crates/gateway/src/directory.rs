//! What the API says of the tunnels held here: this gateway's entry in
//! `Host.status.connections`.
//!
//! Level-triggered: a host is marked whenever its sessions change, and one worker makes the
//! entry what the sessions are at that moment. Failed writes are tried again for as long as
//! the worker runs; entries of gateways that died are pruned by the controllers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farplane_types::{Host, HostConnection};
use futures::StreamExt as _;
use kube::Api;
use serde_json::json;
use tokio::sync::Notify;

use crate::gateway::Gateway;
use crate::status;
use crate::world::Key;

/// Writes under way at a time.
const CONCURRENCY: usize = 16;
/// Pause before failed writes are tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Hosts whose entry may be out of date.
#[derive(Default)]
pub struct Directory {
    marked: Mutex<HashMap<String, Key>>,
    changed: Notify,
}

impl Directory {
    /// Asks for the entry of this host to be looked at.
    pub fn mark(&self, uid: &str, key: &Key) {
        let mut marked = self.marked.lock().unwrap_or_else(PoisonError::into_inner);
        marked.insert(uid.to_owned(), key.clone());
        self.changed.notify_one();
    }

    fn take(&self) -> HashMap<String, Key> {
        std::mem::take(&mut self.marked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes everything marked now, once. Answers whether every write succeeded.
    pub async fn flush(gateway: &Arc<Gateway>) -> bool {
        let writes = gateway.directory.take().into_iter().map(|(uid, key)| {
            let gateway = Arc::clone(gateway);
            async move {
                let result = publish(&gateway, &uid, &key).await;
                if let Err(error) = &result {
                    let reason = std::error::Error::source(error).map(ToString::to_string);
                    tracing::warn!(host = key.name, %error, reason, "will be repeated");
                    gateway.directory.mark(&uid, &key);
                }
                result.is_ok()
            }
        });
        futures::stream::iter(writes)
            .buffer_unordered(CONCURRENCY)
            .fold(true, |all, one| async move { all && one })
            .await
    }

    /// Keeps entries in step, for ever. Begins with what an earlier process of this name left.
    pub async fn run(gateway: Arc<Gateway>) {
        let own = &gateway.settings.pod_name;
        for (uid, key) in gateway.world.read(|world| world.hosts_claimed_by(own)) {
            gateway.directory.mark(&uid, &key);
        }
        loop {
            gateway.directory.changed.notified().await;
            if !Self::flush(&gateway).await {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn publish(gateway: &Gateway, uid: &str, key: &Key) -> Result<(), status::StatusError> {
    let settings = &gateway.settings;
    let entries: Vec<HostConnection> = gateway
        .sessions
        .newest(uid)
        .map(|(epoch, since)| HostConnection {
            gateway: settings.pod_name.clone(),
            address: format!(
                "{}",
                std::net::SocketAddr::new(settings.pod_ip, settings.listen.port())
            ),
            epoch,
            since,
        })
        .into_iter()
        .collect();
    let api: Api<Host> = Api::namespaced(gateway.client.clone(), &key.namespace);
    let manager = format!("gateway-{}", settings.pod_name);
    let body = json!({ "connections": entries });
    status::apply(&api, &key.name, uid, &manager, body).await
}
