//! How many Pods are kept ready beside a pool after a burst. Pure.
//!
//! Where many called cold functions at once, many do so again: timers, queues, people at nine.
//! So as many Pods as the largest burst of late needed beyond the pool are made once nobody waits,
//! and kept for [`KEEP`] after it. Promises: never more than [`MOST_TIMES`] as many as the pool
//! has, so that `poolsize` still says what an environment costs; few at a time, so that calls do
//! not feel their start.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Phase, State};

/// How long such Pods are kept after the last burst that needed as many.
pub(super) const KEEP: Duration = Duration::from_secs(600);
/// Of the pool's size.
const MOST_TIMES: usize = 3;
/// Cold calls within this time are one burst.
const TOGETHER: Duration = Duration::from_secs(2);
/// Pods that start at the same time.
const AT_ONCE: usize = 2;
/// Cold calls that are remembered.
const MOST_ASKED: usize = 1000;

/// Bursts of one environment.
#[derive(Debug, Default)]
pub(super) struct Reserve {
    asked: VecDeque<Instant>,
    /// Cold calls of the largest burst, and until when it counts.
    largest: Option<(usize, Instant)>,
}

impl Reserve {
    /// Somebody needs an instance that is not there.
    pub fn asked(&mut self, now: Instant) {
        let is_old = |at: &Instant| now.saturating_duration_since(*at) > TOGETHER;
        while self.asked.front().is_some_and(is_old) || self.asked.len() >= MOST_ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back(now);
        let burst = self.asked.len();
        if self
            .largest
            .is_none_or(|(most, until)| burst >= most || now >= until)
        {
            self.largest = Some((burst, now + KEEP));
        }
    }

    fn size(&self, pool: usize, now: Instant) -> usize {
        match self.largest {
            Some((most, until)) if now < until => most.saturating_sub(pool).min(pool * MOST_TIMES),
            _ => 0,
        }
    }
}

impl State {
    /// Pods that are kept ready beside a pool of `size` Pods.
    pub fn reserve(&self, environment: &str, size: usize, now: Instant) -> usize {
        let pool = self.pools.get(environment);
        pool.map_or(0, |pool| pool.reserve.size(size, now))
    }

    /// Pods of the reserve that are to be made now.
    pub fn reserve_missing(&self, environment: &str, size: usize, now: Instant) -> usize {
        let wanted = self.reserve(environment, size, now);
        if wanted == 0 || self.waiting(environment) > 0 {
            return 0;
        }
        let (mut coming, mut ready) = (0_usize, 0);
        for entry in self.pods.values() {
            if !entry.view.is_extra(environment) {
                continue;
            }
            match entry.phase {
                // There is no room for more.
                Phase::Coming if entry.view.trouble.is_some() => return 0,
                Phase::Coming => coming += 1,
                Phase::Ready => ready += 1,
                _ => {}
            }
        }
        let missing = wanted.saturating_sub(coming + ready);
        missing.min(AT_ONCE.saturating_sub(coming))
    }

    /// Nothing is kept until the next burst: the cluster does not take more.
    pub fn forget_reserve(&mut self, environment: &str) {
        if let Some(pool) = self.pools.get_mut(environment) {
            pool.reserve = Reserve::default();
        }
    }
}
