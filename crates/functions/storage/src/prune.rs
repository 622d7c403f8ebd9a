//! Removes archives that no package names.
//!
//! Archives are listed before packages, so one that is named meanwhile is seen as named. One is
//! removed when two looks in a row found it unused, and it is older than the grace period: the
//! package of a new one may be on its way. When packages cannot be listed, nothing is removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::id::ArchiveId;
use crate::settings::Prune;
use crate::store::{Entry, Store};

/// Tells the URLs of archives that are in use; in words, why it cannot.
pub type LiveUrls = Arc<dyn Fn() -> BoxFuture<'static, Result<Vec<String>, String>> + Send + Sync>;

/// How long telling may take.
const LIST_DEADLINE: Duration = Duration::from_secs(60);

/// Removes what is not used.
pub struct Pruner {
    store: Arc<Store>,
    live: LiveUrls,
    settings: Prune,
    /// Unused at the last look.
    suspects: BTreeSet<ArchiveId>,
}

impl Pruner {
    /// With nothing suspected yet.
    pub fn new(store: Arc<Store>, live: LiveUrls, settings: Prune) -> Self {
        Self {
            store,
            live,
            settings,
            suspects: BTreeSet::new(),
        }
    }

    /// Looks again and again, until the shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.settings.interval) => {}
                () = shutdown.cancelled() => return,
            }
            match self.look().await {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "removed archives that no package names"),
                Err(error) => tracing::warn!(error, "failed to look for unused archives"),
            }
        }
    }

    /// Looks once; returns how many were removed.
    ///
    /// # Errors
    /// In words, when it cannot be told what is used.
    pub async fn look(&mut self) -> Result<usize, String> {
        let stored = self.store.list().await.map_err(|error| error.to_string())?;
        let live = tokio::time::timeout(LIST_DEADLINE, (self.live)());
        let live = live
            .await
            .map_err(|_| "the list of packages did not come".to_owned())??;
        let oldest = SystemTime::now() - self.settings.grace;
        let unused = unused(stored, &live, oldest);
        let removable: Vec<_> = unused.intersection(&self.suspects).cloned().collect();
        self.suspects = unused;
        let mut removed = 0;
        for id in removable {
            match self.store.delete(&id).await {
                Ok(()) => removed += 1,
                Err(error) => tracing::warn!(%id, %error, "failed to remove an unused archive"),
            }
            self.suspects.remove(&id);
        }
        Ok(removed)
    }
}

/// Archives that are old enough and not named.
pub fn unused(stored: Vec<Entry>, live: &[String], oldest: SystemTime) -> BTreeSet<ArchiveId> {
    let live: BTreeSet<ArchiveId> = live
        .iter()
        .filter_map(|url| ArchiveId::of_url(url))
        .collect();
    stored
        .into_iter()
        .filter(|entry| entry.stored < oldest && !live.contains(&entry.id))
        .map(|entry| entry.id)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_archives_that_no_url_names_are_unused() {
        let now = SystemTime::now();
        let old = now - Duration::from_secs(10);
        let entry = |stored| Entry {
            id: ArchiveId::new(Some("demo")),
            stored,
        };
        let (used, lost, young) = (entry(old), entry(old), entry(now));
        let live = [format!("http://storagesvc/v1/archive?id={}", used.id)];
        let found = unused(
            vec![used, lost.clone(), young],
            &live,
            now - Duration::from_secs(5),
        );
        assert_eq!(found, BTreeSet::from([lost.id]));
    }
}
