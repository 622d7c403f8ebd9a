//! Takes stock before the first answer: every Pod that runs is known for what it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::engine::Engine;

/// Pods whose fetchers do not answer are not waited for longer.
const DEADLINE: Duration = Duration::from_secs(3);
/// Between two looks at the state; nothing tells when the last probe has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Returns once the Pods are listed and those that can say what they are have said it.
pub(crate) async fn adopt(engine: Arc<Engine>, listings: Vec<watch::Receiver<bool>>) {
    for mut listing in listings {
        // Fails only when the watch has ended, which is noticed elsewhere.
        if listing.wait_for(|listed| *listed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
    let asked = async {
        while engine.state().probing() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(DEADLINE, asked).await.is_err() {
        let silent = engine.state().probing();
        tracing::info!(silent, "some Pods do not answer yet");
    }
    let summary = engine.state().summary();
    tracing::info!(?summary, "took stock");
}
