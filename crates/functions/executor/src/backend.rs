//! Ways to make instances behind one trait; which one a function has is its executor type's.

use std::sync::Arc;
use std::time::Instant;

use farplane_functions_types::ExecutorType;
use farplane_functions_types::wire::{FunctionKey, Instance, Usage};
use futures::future::BoxFuture;

use crate::deploy::Deployments;
use crate::engine::Engine;
use crate::failed::Failed;
use crate::revision::Revision;
use crate::state::Summary;

/// A way to make instances.
///
/// Callers may ask for the same revision many times at once; each gets an instance that accepts
/// connections and has its code, or why there is none.
pub(crate) trait Backend: Send + Sync {
    /// An instance beside those that the caller knows.
    fn instance<'a>(
        &'a self,
        revision: &'a Arc<Revision>,
        known: &'a [String],
    ) -> BoxFuture<'a, Result<Instance, Failed>>;

    /// What a router used. Addresses of other backends are among them.
    fn usage(&self, usage: &Usage, now: Instant);
}

/// Instances are Pods of pools.
pub(crate) struct Pooled(pub Arc<Engine>);

impl Backend for Pooled {
    fn instance<'a>(
        &'a self,
        revision: &'a Arc<Revision>,
        known: &'a [String],
    ) -> BoxFuture<'a, Result<Instance, Failed>> {
        Box::pin(self.0.instance(revision, known))
    }

    fn usage(&self, usage: &Usage, now: Instant) {
        let effects = self.0.state().usage(usage, now);
        self.0.run(effects);
    }
}

/// All ways to make instances.
pub(crate) struct Backends {
    pub engine: Arc<Engine>,
    pub pooled: Pooled,
    pub deployments: Arc<Deployments>,
}

impl Backends {
    fn of(&self, executor: ExecutorType) -> &dyn Backend {
        match executor {
            ExecutorType::Poolmgr => &self.pooled,
            ExecutorType::Newdeploy | ExecutorType::Container => self.deployments.as_ref(),
        }
    }

    /// An instance of a function beside those that the caller knows.
    pub async fn instance(&self, key: &FunctionKey, known: &[String]) -> Result<Instance, Failed> {
        let revision = match self.engine.world.find(key).await {
            Ok(revision) => revision,
            Err(failed) => {
                self.engine.report(key.clone(), Some(failed.clone()));
                return Err(failed);
            }
        };
        let outcome = self.of(revision.executor).instance(&revision, known).await;
        if let Err(failed) = &outcome
            && failed.is_worth_telling()
        {
            self.engine
                .report(revision.key.clone(), Some(failed.clone()));
        }
        outcome
    }

    /// What a router used.
    pub fn usage(&self, usage: &Usage, now: Instant) {
        self.pooled.usage(usage, now);
        self.deployments.usage(usage, now);
    }

    /// An instance was used, by somebody who does not count calls.
    pub fn tap(&self, address: &str, now: Instant) {
        self.engine.state().tap(address, now);
    }

    /// Addresses of a function's instances.
    pub fn addresses(&self, key: &FunctionKey) -> Vec<String> {
        self.engine.state().addresses(&key.uid)
    }

    /// Numbers for people.
    pub fn summary(&self) -> Summary {
        self.engine.state().summary()
    }
}
