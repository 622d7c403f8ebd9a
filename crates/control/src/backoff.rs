//! When a watch that failed is started again.

use std::time::Duration;

use backon::ExponentialBuilder;
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::watcher::ExponentialBackoff;

/// The first pause. An API server whose cache of a kind is young ends the first watch of it with
/// «too old resource version», though nothing is wrong: what happens until the next one is seen
/// late, so that must be soon.
const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(30);
/// After so long without a failure, pauses are short again.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// Pauses of a watch: short at first, long when it goes on failing.
pub fn watch() -> impl Backoff {
    let pauses = ExponentialBuilder::default()
        .with_min_delay(FIRST)
        .with_max_delay(LONGEST)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times();
    ResetTimerBackoff::new(ExponentialBackoff::from(pauses), FORGOTTEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_short_at_first_and_long_in_the_end() {
        let pauses: Vec<Duration> = watch().take(20).collect();
        assert!(pauses[0] <= FIRST * 2, "{pauses:?}");
        assert!(pauses[19] >= LONGEST / 2, "{pauses:?}");
    }
}
