//! Calls that nobody waits for: taken once they are durable, delivered at least once.
//!
//! ```text
//! router ─▶ POST /farplane/v1/invocations ─▶ store (one file, one commit for many) ─▶ 202
//! store ─▶ due ─▶ call ─┬▶ 2xx ─▶ onSuccess (a new call, in the same commit) ─▶ gone
//!                       ├▶ no room, router away ─▶ later, as long as its age allows
//!                       ├▶ failed ─▶ later, up to maxAttempts
//!                       └▶ last failure, 4xx, too old ─▶ onFailure ─▶ dead letters
//! ```
//! [`policy`] decides and is pure; [`store`] is the only one that writes. Promises: what was
//! answered with 202 is delivered or among the dead letters, whatever is killed; a chain of
//! destinations ends after three; one function that is slow takes only its share of calls.

mod endpoint;
mod envelope;
mod policy;
mod queue;
mod record;
mod schedule;
mod store;

use std::time::Duration;

use farplane_functions_types::FunctionAlias;
use tokio::sync::mpsc;

pub(crate) use endpoint::{Listener, bind};

use crate::context::Context;
use crate::objects::Watched;
use endpoint::Open;
use store::Store;

/// For the process that led before to let go of the store.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes and delivers calls until told to stop.
pub(crate) async fn run(
    context: Context,
    store: Store,
    listener: Listener,
    aliases: Watched<FunctionAlias>,
) {
    tokio::select! {
        () = aliases.ready() => {}
        () = context.stop.cancelled() => return,
    }
    let (news, receiver) = mpsc::unbounded_channel();
    listener.open(Open {
        context: context.clone(),
        store: store.clone(),
        aliases,
        news,
    });
    let outcome = queue::deliver_all(context, store, receiver).await;
    listener.close();
    if let Err(error) = outcome {
        tracing::error!(%error, "asynchronous calls are not delivered");
    }
}

/// Opens the store; it belongs to the process that leads.
pub(crate) async fn open(directory: &std::path::Path) -> Result<Store, crate::Error> {
    let opened = Store::open_patiently(directory, PATIENCE).await;
    opened.map_err(|error| crate::Error::Store(error.to_string()))
}
