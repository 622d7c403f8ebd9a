//! What all parts share, and how they write statuses.

use std::sync::Arc;
use std::time::Duration;

use farplane_functions_types::Function;
use kube::ResourceExt as _;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::caller::Caller;
use crate::objects::{self, Kind, Watched};
use crate::settings::Settings;
use crate::target::Target;

/// Changes that arrive together cause one look.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// After a status could not be written.
const RETRY: Duration = Duration::from_secs(3);
/// Calls that still run when the process is told to end may go on for so long.
const DRAIN: Duration = Duration::from_secs(20);

/// What all parts share.
#[derive(Clone)]
pub(crate) struct Context {
    pub client: kube::Client,
    pub settings: Arc<Settings>,
    pub caller: Caller,
    pub functions: Watched<Function>,
    /// Asks for an orderly end.
    pub stop: CancellationToken,
}

impl Context {
    /// How long a call of this function may take in all.
    pub fn deadline(&self, target: &Target) -> Duration {
        let function = self.functions.get(&target.namespace, &target.name);
        crate::target::deadline(function.as_deref())
    }
}

/// Keeps the statuses of a kind as `decide` says, until `stop`.
///
/// `decide` answers none when the status is right as it is. It may depend on functions, and
/// on whatever `other` tells of.
pub(crate) async fn keep_statuses<K, S, Decide>(
    context: &Context,
    mut objects: Watched<K>,
    decide: Decide,
    mut other: watch::Receiver<u64>,
) where
    K: Kind + kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    S: Serialize,
    Decide: Fn(&K) -> Option<S>,
{
    let mut functions = context.functions.clone();
    loop {
        let mut failed = false;
        for object in objects.all() {
            if object.meta().deletion_timestamp.is_some() {
                continue;
            }
            let Some(status) = decide(&object) else {
                continue;
            };
            if let Err(error) =
                objects::apply_status(&context.client, object.as_ref(), &status).await
            {
                let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
                let kind = K::kind(&());
                tracing::warn!(%kind, namespace, name, %error, "could not write a status");
                failed = true;
            }
        }
        let retry = async {
            if !failed {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(RETRY).await;
        };
        tokio::select! {
            () = objects.changed() => {}
            () = functions.changed() => {}
            () = changed(&mut other) => {}
            () = retry => {}
            () = context.stop.cancelled() => return,
        }
        tokio::time::sleep(DEBOUNCE).await;
    }
}

/// Returns after the next change; never once nobody can tell of one.
async fn changed(receiver: &mut watch::Receiver<u64>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A teller of no changes.
pub(crate) fn nothing_else() -> watch::Receiver<u64> {
    watch::channel(0).1
}

/// Waits for calls that still run; those that take too long are cut.
pub(crate) async fn drain(what: &str, mut calls: JoinSet<()>) {
    let all = async { while calls.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        tracing::warn!(what, "calls that still ran were cut");
    }
}
