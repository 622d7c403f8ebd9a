//! Upper bounds, so that no organization or address starves the others.
//!
//! A stream holds at most [`STREAM_BYTES`] on its way through a gateway, so the bound on
//! streams is also the bound on bytes in flight: the smaller of the two settings counts.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most bytes that one stream holds in a gateway: its receive window and one buffer.
pub const STREAM_BYTES: usize = 320 * 1024;
/// Failed joins that one address may make at once.
const JOIN_BURST: f64 = 20.0;
/// Seconds until one more failed join is allowed.
const JOIN_REFILL_SECONDS: f64 = 3.0;
/// Addresses remembered; beyond it the full ones are forgotten first.
const MAX_ADDRESSES: usize = 65_536;

/// Streams per organization.
pub struct Limits {
    streams: usize,
    organizations: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// An organization has too many streams.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("organization {organization} has {streams} streams open, which is its limit")]
pub struct TooManyStreams {
    /// Organization.
    pub organization: String,
    /// The limit.
    pub streams: usize,
}

impl Limits {
    /// Bounds per organization: number of streams, and bytes in flight.
    pub fn new(streams: usize, bytes_in_flight: usize) -> Self {
        Self {
            streams: streams.min(bytes_in_flight / STREAM_BYTES).max(1),
            organizations: Mutex::default(),
        }
    }

    /// Takes one stream of the organization's share until the permit is dropped.
    ///
    /// # Errors
    /// When the share is used up.
    pub fn stream(&self, organization: &str) -> Result<OwnedSemaphorePermit, TooManyStreams> {
        let mut map = self
            .organizations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let share = match map.get(organization) {
            Some(share) => Arc::clone(share),
            None => {
                let share = Arc::new(Semaphore::new(self.streams));
                map.insert(organization.to_owned(), Arc::clone(&share));
                share
            }
        };
        share.try_acquire_owned().map_err(|_| TooManyStreams {
            organization: organization.to_owned(),
            streams: self.streams,
        })
    }
}

/// Failed joins per address: a leaking bucket each.
#[derive(Default)]
pub struct FailedJoins {
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed / JOIN_REFILL_SECONDS).min(JOIN_BURST);
        self.at = now;
    }
}

impl FailedJoins {
    /// How long this address must wait before it may try; `None` when it may now.
    pub fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.get_mut(&address)?;
        bucket.refill(now);
        let lacking = 1.0 - bucket.left;
        (lacking > 0.0).then(|| Duration::from_secs_f64(lacking * JOIN_REFILL_SECONDS))
    }

    /// Counts a failure.
    pub fn failed(&self, address: IpAddr, now: Instant) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_ADDRESSES {
            buckets.retain(|_, bucket| {
                bucket.refill(now);
                bucket.left < JOIN_BURST
            });
        }
        if buckets.len() >= MAX_ADDRESSES {
            buckets.clear();
        }
        let bucket = buckets.entry(address).or_insert(Bucket {
            left: JOIN_BURST,
            at: now,
        });
        bucket.refill(now);
        bucket.left = (bucket.left - 1.0).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_organization_does_not_use_up_the_share_of_another() {
        let limits = Limits::new(2, usize::MAX);
        let first = limits.stream("a").unwrap();
        let _second = limits.stream("a").unwrap();
        assert!(limits.stream("a").is_err());
        assert!(limits.stream("b").is_ok());
        drop(first);
        assert!(limits.stream("a").is_ok());
    }

    #[test]
    fn bytes_in_flight_bound_the_streams() {
        let limits = Limits::new(1000, STREAM_BYTES);
        let _only = limits.stream("a").unwrap();
        assert_eq!(limits.stream("a").unwrap_err().streams, 1);
    }

    #[test]
    fn an_address_that_guesses_must_wait_and_others_need_not() {
        let joins = FailedJoins::default();
        let (bad, good) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let start = Instant::now();
        for _ in 0..20 {
            assert_eq!(joins.wait(bad, start), None);
            joins.failed(bad, start);
        }
        assert!(joins.wait(bad, start).is_some());
        assert_eq!(joins.wait(good, start), None);
        assert_eq!(joins.wait(bad, start + Duration::from_secs(4)), None);
    }
}
