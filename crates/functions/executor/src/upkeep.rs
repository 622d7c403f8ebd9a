//! What is done beside requests: idle instances end, outdated ones are replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::Engine;

/// Between two looks for what is idle.
const TICK: Duration = Duration::from_secs(1);
/// Changes that arrive together cause one look.
const DEBOUNCE: Duration = Duration::from_millis(10);

/// Runs until it is dropped.
pub(crate) async fn run(engine: Arc<Engine>) {
    let mut environments = engine.world.environments.clone();
    let mut functions = engine.world.functions.clone();
    let mut versions = engine.world.versions.clone();
    let mut packages = engine.world.packages.clone();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let changed = tokio::select! {
            () = environments.changed() => true,
            () = functions.changed() => true,
            () = versions.changed() => true,
            () = packages.changed() => true,
            _ = tick.tick() => false,
        };
        if changed {
            tokio::time::sleep(DEBOUNCE).await;
            refresh(&engine);
        }
        let effects = engine.state().reap(Instant::now());
        engine.run(effects);
    }
}

/// Compares every instance's code with what its function is now.
fn refresh(engine: &Arc<Engine>) {
    engine.world.tidy();
    let revisions = engine.state().revisions();
    for (id, key) in revisions {
        let current = engine.world.current(&key).ok();
        let current = current.filter(|current| current.id() == id);
        let effects = engine
            .state()
            .refresh(&id, current.as_ref(), Instant::now());
        engine.run(effects);
    }
}
