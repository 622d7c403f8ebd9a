//! For tests: a real API server, and a cluster that runs Pods of which fetcher and runtime are
//! scripted.

pub(crate) mod api;
pub(crate) mod cluster;

use std::time::Duration;

pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let limit = Duration::from_secs(60);
    let answer = tokio::time::timeout(limit, asking).await;
    answer.unwrap_or_else(|_| panic!("waited in vain for: {what}"))
}
