//! One of several processes works: whoever holds a Lease.
//!
//! Flow: acquire -> hold (renew) -> release or lost. A holder that cannot renew within
//! [`DEADLINE`] counts itself as lost and ends; others take over only after they have
//! watched the same record for [`DURATION`], which is longer. Only durations measured by
//! one process are compared, never clocks of two machines.
//! Every write carries the resource version that was read, so of two takers one wins.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio_util::sync::CancellationToken;

use crate::objects::is_code;

/// How long a record must be seen unchanged before another process takes the lease.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for so long gives up; less than [`DURATION`].
const DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two renewals, and between two looks of those that wait.
const INTERVAL: Duration = Duration::from_secs(2);
/// An orderly end does not wait longer for an API server that is away.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// The lease went to somebody else or could not be renewed in time.
#[derive(Debug, thiserror::Error)]
#[error("lost the lease {lease}: {reason}")]
pub struct Lost {
    /// Name of the lease.
    pub lease: String,
    /// What happened.
    pub reason: String,
}

/// What to do about the lease as it was read.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Create,
    /// It is ours, or free.
    Take,
    Wait,
}

/// Decides from the record and from how long it has been seen unchanged.
fn decide(lease: Option<&Lease>, identity: &str, unchanged: Duration) -> Step {
    let Some(lease) = lease else {
        return Step::Create;
    };
    let holder = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.as_deref());
    match holder {
        None | Some("") => Step::Take,
        Some(holder) if holder == identity => Step::Take,
        Some(_) if unchanged >= DURATION => Step::Take,
        Some(_) => Step::Wait,
    }
}

/// A process that wants a lease.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    renew: Duration,
    look: Duration,
    seen: Option<(String, Instant)>,
}

impl Election {
    /// Wants the lease of this name, as this process.
    pub fn new(api: Api<Lease>, name: &str, identity: &str) -> Self {
        Self {
            api,
            name: name.to_owned(),
            identity: identity.to_owned(),
            renew: INTERVAL,
            look: INTERVAL,
            seen: None,
        }
    }

    /// Pause between two looks while another process leads: what a hand-over takes at most.
    #[must_use]
    pub fn looking_every(mut self, pause: Duration) -> Self {
        self.look = pause;
        self
    }

    /// Pause between two renewals.
    #[must_use]
    pub fn renewing_every(mut self, pause: Duration) -> Self {
        self.renew = pause;
        self
    }

    /// Does the work once the lease is ours. The lease is given back after work that ended well;
    /// after a failure its process should end, and the next one waits until the lease is old.
    ///
    /// # Errors
    /// That of the work, or that the lease was lost.
    pub async fn lead<E: From<Lost>>(
        mut self,
        shutdown: &CancellationToken,
        work: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        tokio::select! {
            () = self.acquire() => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        let outcome = tokio::select! {
            lost = self.hold() => Err(lost.into()),
            outcome = work => outcome,
        };
        if outcome.is_ok() {
            self.release().await;
        }
        outcome
    }

    /// Returns once the lease is ours. Failures of the API are waited out.
    pub async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => {
                    tracing::info!(lease = self.name, identity = self.identity, "leading");
                    return;
                }
                Ok(false) => tracing::debug!(lease = self.name, "another process leads"),
                Err(error) => tracing::warn!(lease = self.name, %error, "cannot reach the lease"),
            }
            tokio::time::sleep(self.look).await;
        }
    }

    /// Renews until that fails for too long.
    pub async fn hold(&mut self) -> Lost {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.renew).await;
            let left = DEADLINE.saturating_sub(renewed.elapsed());
            let reason = match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(true)) => {
                    renewed = Instant::now();
                    continue;
                }
                Ok(Ok(false)) => return self.lost("another process holds it"),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the API server does not answer".to_owned(),
            };
            tracing::warn!(lease = self.name, reason, "could not renew the lease");
            if renewed.elapsed() >= DEADLINE {
                return self.lost(&reason);
            }
        }
    }

    /// Gives the lease back, so that the next process need not wait; for a few seconds at most.
    pub async fn release(&mut self) {
        let released = tokio::time::timeout(RELEASE_TIMEOUT, self.give_back()).await;
        if released.is_err() {
            tracing::warn!("the API server did not answer in time, the lease was not released");
        }
    }

    async fn give_back(&self) {
        let Ok(Some(mut lease)) = self.api.get_opt(&self.name).await else {
            return;
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return;
        }
        spec.holder_identity = None;
        let written = self
            .api
            .replace(&self.name, &PostParams::default(), &lease)
            .await;
        if let Err(error) = written {
            tracing::debug!(lease = self.name, %error, "could not release the lease");
        }
    }

    fn lost(&self, reason: &str) -> Lost {
        Lost {
            lease: self.name.clone(),
            reason: reason.to_owned(),
        }
    }

    /// One look and, where allowed, one write. True when the lease is ours now.
    ///
    /// # Errors
    /// When the API server does not answer, or refuses.
    pub async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let lease = self.api.get_opt(&self.name).await?;
        let unchanged = self.observe(lease.as_ref());
        let written = match (decide(lease.as_ref(), &self.identity, unchanged), lease) {
            (Step::Wait, _) => return Ok(false),
            (Step::Take, Some(mut lease)) => {
                lease.spec = Some(self.record(lease.spec.as_ref()));
                self.api
                    .replace(&self.name, &PostParams::default(), &lease)
                    .await
            }
            (Step::Take | Step::Create, _) => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(self.record(None)),
                };
                self.api.create(&PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            Err(error) if is_code(&error, 409) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How long this version of the record has been seen.
    fn observe(&mut self, lease: Option<&Lease>) -> Duration {
        let version = lease.and_then(|lease| lease.metadata.resource_version.clone());
        let version = version.unwrap_or_default();
        match &self.seen {
            Some((last, since)) if *last == version => since.elapsed(),
            _ => {
                self.seen = Some((version, Instant::now()));
                Duration::ZERO
            }
        }
    }

    fn record(&self, old: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = old.filter(|old| old.holder_identity.as_deref() == Some(&self.identity));
        let transitions = old.and_then(|old| old.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: ours
                .and_then(|old| old.acquire_time.clone())
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions + i32::from(ours.is_none())),
            ..LeaseSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(identity: &str) -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(identity.into()),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    #[test]
    fn a_lease_is_taken_only_when_free_ours_or_long_unchanged() {
        let lease = held_by("a");
        assert_eq!(decide(None, "b", Duration::ZERO), Step::Create);
        assert_eq!(decide(Some(&lease), "a", Duration::ZERO), Step::Take);
        assert_eq!(decide(Some(&lease), "b", DEADLINE), Step::Wait);
        assert_eq!(decide(Some(&lease), "b", DURATION), Step::Take);
        assert_eq!(decide(Some(&held_by("")), "b", Duration::ZERO), Step::Take);
    }
}
