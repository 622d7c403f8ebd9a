//! Connections to the API servers of planes, and what makes their controller look.
//!
//! One [`Plane`] per cluster: a client made from its admin kubeconfig, and a task that
//! watches Nodes and signing requests there and asks for a reconciliation on each change.
//! A renewed kubeconfig makes a new one; a deleted cluster drops it, which ends the task.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farplane_types::KubernetesCluster;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Config};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Waiting requests for reconciliations; a full queue means that they are coming anyway.
const QUEUE: usize = 256;

/// A connection to one plane.
pub(crate) struct Plane {
    pub client: Client,
    kubeconfig: [u8; 32],
    watching: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Plane {
    fn drop(&mut self) {
        let watching = self
            .watching
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = watching.take() {
            task.abort();
        }
    }
}

/// All connections, by UID of the cluster.
pub(crate) struct Planes {
    planes: Mutex<HashMap<String, Arc<Plane>>>,
    sender: mpsc::Sender<ObjectRef<KubernetesCluster>>,
    receiver: Mutex<Option<mpsc::Receiver<ObjectRef<KubernetesCluster>>>>,
}

impl Default for Planes {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Self {
            planes: Mutex::default(),
            sender,
            receiver: Mutex::new(Some(receiver)),
        }
    }
}

impl Planes {
    /// Clusters in whose API something changed. There is one such stream.
    pub fn changes(&self) -> impl Stream<Item = ObjectRef<KubernetesCluster>> + Send + use<> {
        let receiver = self
            .receiver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        futures::stream::unfold(receiver, |receiver| async move {
            let mut receiver = receiver?;
            receiver
                .recv()
                .await
                .map(|changed| (changed, Some(receiver)))
        })
    }

    /// The connection of a plane, made from this kubeconfig.
    pub async fn connect(&self, uid: &str, kubeconfig: &str) -> Result<Arc<Plane>, Error> {
        let digest: [u8; 32] = Sha256::digest(kubeconfig.as_bytes()).into();
        {
            let planes = self.planes.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(plane) = planes.get(uid).filter(|plane| plane.kubeconfig == digest) {
                return Ok(plane.clone());
            }
        }
        let plane = Arc::new(Plane {
            client: client(uid, kubeconfig).await?,
            kubeconfig: digest,
            watching: Mutex::default(),
        });
        let mut planes = self.planes.lock().unwrap_or_else(PoisonError::into_inner);
        planes.insert(uid.to_owned(), plane.clone());
        Ok(plane)
    }

    /// Watches the plane from now on. Called once its API answers: before, the watches
    /// would only fail and back off.
    pub fn watch(&self, plane: &Plane, cluster: ObjectRef<KubernetesCluster>) {
        let mut watching = plane
            .watching
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if watching.is_none() {
            let task = watch(plane.client.clone(), cluster, self.sender.clone());
            *watching = Some(tokio::spawn(task));
        }
    }

    /// Forgets a plane.
    pub fn drop(&self, uid: &str) {
        self.planes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
    }
}

async fn client(uid: &str, kubeconfig: &str) -> Result<Client, Error> {
    let failed = |source: kube::Error| Error::PlaneClient {
        plane: uid.to_owned(),
        source: Box::new(source),
    };
    let damaged = |source| failed(kube::Error::InferKubeconfig(source));
    let parsed = Kubeconfig::from_yaml(kubeconfig).map_err(damaged)?;
    let mut config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
        .await
        .map_err(damaged)?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // A plane that starts answers "not ready" for a while; the caller looks again soon.
    config.default_retry = false;
    Client::try_from(config).map_err(failed)
}

async fn watch(
    client: Client,
    cluster: ObjectRef<KubernetesCluster>,
    sender: mpsc::Sender<ObjectRef<KubernetesCluster>>,
) {
    let any = watcher::Config::default;
    let nodes = watcher(Api::<PartialObjectMeta<Node>>::all(client.clone()), any())
        .default_backoff()
        .map(|event| event.is_ok());
    let requests = Api::<PartialObjectMeta<CertificateSigningRequest>>::all(client);
    let requests = watcher(requests, any())
        .default_backoff()
        .map(|event| event.is_ok());
    let mut changes = futures::stream::select(nodes.boxed(), requests.boxed());
    while let Some(changed) = changes.next().await {
        if changed {
            // Full: a reconciliation is about to come and will see this change too.
            let _ = sender.try_send(cluster.clone());
        }
    }
}
