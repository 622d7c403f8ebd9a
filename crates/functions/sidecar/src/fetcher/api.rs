//! Reads objects of the Pod's own namespace with the Pod's token.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use super::Error;

/// How long the API server may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// A package may be named before the API server that we ask has it.
const MISSING_PAUSES: [u64; 3] = [50, 200, 500];
/// What passes: an API server that restarts.
const BROKEN_PAUSES: [u64; 4] = [50, 200, 800, 2000];

/// The API server, connected to when it is needed first.
#[derive(Debug)]
pub struct Api {
    namespace: String,
    client: OnceCell<ClientHandle>,
}

struct ClientHandle(Client);

impl Debug for ClientHandle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Client")
    }
}

impl Api {
    /// For a Pod of this namespace; with the Pod's token when no client is given.
    pub fn new(namespace: &str, client: Option<Client>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            client: OnceCell::new_with(client.map(ClientHandle)),
        }
    }

    async fn client(&self) -> Result<Client, kube::Error> {
        let connect = || async { Client::try_default().await.map(ClientHandle) };
        Ok(self.client.get_or_try_init(connect).await?.0.clone())
    }

    /// Reads an object. An empty namespace is the Pod's.
    ///
    /// # Errors
    /// When it is of another namespace, missing, or the API server does not answer.
    pub async fn get<K>(&self, what: &'static str, namespace: &str, name: &str) -> Result<K, Error>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        if !namespace.is_empty() && namespace != self.namespace {
            return Err(Error::OtherNamespace {
                what,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                own: self.namespace.clone(),
            });
        }
        let (mut missing, mut broken) = (MISSING_PAUSES.iter(), BROKEN_PAUSES.iter());
        loop {
            let (error, pause) = match timeout(DEADLINE, self.try_get(name)).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) if is_missing(&error) => (error.to_string(), missing.next()),
                Ok(Err(kube::Error::Api(status))) if status.code < 500 => {
                    (kube::Error::Api(status).to_string(), None)
                }
                Ok(Err(error)) => (error.to_string(), broken.next()),
                Err(_) => (format!("no answer within {} s", DEADLINE.as_secs()), None),
            };
            let Some(pause) = pause else {
                return Err(Error::Api {
                    what,
                    name: name.to_owned(),
                    reason: error,
                    missing: missing.len() == 0,
                });
            };
            sleep(Duration::from_millis(*pause)).await;
        }
    }

    async fn try_get<K>(&self, name: &str) -> Result<K, kube::Error>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let client = self.client().await?;
        let api: kube::Api<K> = kube::Api::namespaced(client, &self.namespace);
        api.get(name).await
    }

    /// Writes an Event about the Pod.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub async fn event(&self, pod: &str, reason: &str, message: &str) -> Result<(), Error> {
        let event = Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{pod}.")),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.to_owned()),
                namespace: Some(self.namespace.clone()),
                ..ObjectReference::default()
            },
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            type_: Some("Normal".to_owned()),
            ..Event::default()
        };
        let write = async {
            let client = self.client().await?;
            let api: kube::Api<Event> = kube::Api::namespaced(client, &self.namespace);
            api.create(&kube::api::PostParams::default(), &event).await
        };
        let failed = |reason| Error::Api {
            what: "event",
            name: pod.to_owned(),
            reason,
            missing: false,
        };
        match timeout(DEADLINE, write).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("no answer".to_owned())),
        }
    }
}

fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
