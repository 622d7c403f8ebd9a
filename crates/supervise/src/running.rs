//! A process that runs, started here or by an earlier supervisor.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::process::ProcessId;
use crate::record::Record;
use crate::status::Exit;
use crate::{Places, mark, record};

/// What a killed process may take to be gone; longer only when the kernel holds it.
const KILLED: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// A process, and how its end is heard of.
pub(crate) enum Running {
    /// A child of this process.
    Own(ProcessId, Box<tokio::process::Child>),
    /// A child of another.
    Adopted(ProcessId),
}

impl Running {
    pub fn id(&self) -> ProcessId {
        match self {
            Self::Own(id, _) | Self::Adopted(id) => *id,
        }
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> Exit {
        match self {
            Self::Own(_, child) => match child.wait().await {
                Ok(status) => status.into(),
                // Nobody else waits for it, so this does not happen.
                Err(_) => Exit::Unseen,
            },
            Self::Adopted(id) => {
                while id.is_alive() {
                    tokio::time::sleep(POLL).await;
                }
                Exit::Unseen
            }
        }
    }

    /// Asks it to end, and kills it when it does not. Says whether it is gone.
    ///
    /// The process only: what it started is left alone.
    pub async fn end(&mut self, grace: Duration) -> bool {
        for (signal, patience) in [(Signal::SIGTERM, grace), (Signal::SIGKILL, KILLED)] {
            self.id().signal(signal);
            if tokio::time::timeout(patience, self.wait()).await.is_ok() {
                return true;
            }
        }
        tracing::error!(pid = self.id().pid, "does not end even when killed");
        false
    }
}

/// Processes that were started under this name and are alive, with the digests of their
/// commands: the recorded one, or those that are not.
pub(crate) fn former(places: &Places, name: &str) -> Vec<(ProcessId, String)> {
    if let Some(record) = Record::live(&places.records, name) {
        return vec![(record.process, record.digest)];
    }
    mark::survivors(&places.records)
        .into_iter()
        .filter(|survivor| survivor.name == name)
        .map(|survivor| (survivor.process, survivor.digest))
        .collect()
}

/// Ends what was started under this name and removes its record.
pub(crate) async fn end_former(places: &Places, name: &str, grace: Duration) {
    let former = former(places, name);
    let ends = former.into_iter().map(|(id, _)| async move {
        let gone = Running::Adopted(id).end(grace).await;
        tracing::info!(process = name, pid = id.pid, gone, "ended");
        gone
    });
    let ends = futures::future::join_all(ends).await;
    if ends.into_iter().all(|gone| gone) {
        record::remove(&places.records, name);
    }
}
