//! What all controllers share, and how each is run.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, ResourceExt as _};

use crate::error::{Class, Error};
use crate::metrics::Metrics;
use crate::object::Kind;
use crate::settings::Settings;

/// Everything is looked at again after this time, whatever happened.
pub(crate) const RESYNC: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Reconciliations of one kind at the same time.
const CONCURRENCY: u16 = 8;
/// Changes that arrive together cause one reconciliation.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// What all controllers share.
pub(crate) struct Context {
    pub client: Client,
    pub settings: Settings,
    pub metrics: Metrics,
    pub recorder: Recorder,
    pub planes: crate::cluster::Planes,
    pub memory: crate::cluster::Memory,
    pub artifacts: crate::cluster::Index,
    failures: Mutex<HashMap<String, u32>>,
}

impl Context {
    pub fn new(client: Client, settings: Settings) -> Self {
        let reporter = Reporter {
            controller: "farplane-controllers".to_owned(),
            instance: Some(settings.identity.clone()),
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            settings,
            metrics: Metrics::new(),
            planes: crate::cluster::Planes::default(),
            memory: crate::cluster::Memory::default(),
            artifacts: crate::cluster::Index::default(),
            failures: Mutex::default(),
        }
    }

    /// Pause after a failure: doubles with each one in a row.
    fn pause(&self, key: String) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key).or_default();
        *count += 1;
        let factor = 1_u32 << (*count - 1).min(10);
        let jitter = rand::random_range(0.8..1.2);
        (FIRST_PAUSE * factor).min(LONGEST_PAUSE).mul_f64(jitter)
    }

    fn succeeded(&self, key: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(key);
    }
}

fn key<K: Kind>(kind: &str, object: &K) -> String {
    format!("{kind}/{}", object.uid().unwrap_or_default())
}

/// The usual configuration of a controller.
pub(crate) fn tuned<K: Kind>(controller: Controller<K>) -> Controller<K> {
    let config = kube::runtime::controller::Config::default()
        .debounce(DEBOUNCE)
        .concurrency(CONCURRENCY);
    controller.with_config(config)
}

/// Runs one controller for as long as its watches live.
pub(crate) async fn drive<K, F, Work>(
    kind: &'static str,
    controller: Controller<K>,
    context: Arc<Context>,
    reconcile: F,
) -> Error
where
    K: Kind,
    F: Fn(Arc<K>, Arc<Context>) -> Work + Clone + Send + Sync + 'static,
    Work: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let measured = move |object: Arc<K>, context: Arc<Context>| {
        let reconcile = reconcile.clone();
        async move {
            let started = Instant::now();
            let key = key(kind, object.as_ref());
            let outcome = reconcile(object, context.clone()).await;
            context.metrics.reconciled(kind, started.elapsed());
            if outcome.is_ok() {
                context.succeeded(&key);
            }
            outcome
        }
    };
    let policy = move |object: Arc<K>, error: &Error, context: Arc<Context>| {
        let class = error.class();
        context.metrics.failed(kind, class);
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        tracing::warn!(
            kind,
            namespace,
            name,
            ?class,
            error = error.chain(),
            "failed"
        );
        match class {
            Class::Wait => Action::requeue(RESYNC),
            Class::Retry | Class::Fatal => {
                Action::requeue(context.pause(key(kind, object.as_ref())))
            }
        }
    };
    tuned(controller)
        .run(measured, policy, context)
        .for_each(|outcome| async move {
            if let Err(kube::runtime::controller::Error::QueueError(error)) = outcome {
                tracing::warn!(kind, %error, "a watch failed, it is started again");
            }
        })
        .await;
    Error::ControllerEnded { kind }
}
