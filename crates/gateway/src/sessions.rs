//! Tunnels that this gateway holds: per host one session of each class.
//!
//! The newest session of a class wins. Newer means a certificate that ends later, then a
//! higher epoch: a machine that was set up anew counts its epochs from the start again, and
//! its certificate shows that it is the newer one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use farplane_tunnel::{Class, Session};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// Age of a session; the greater one is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// End of validity of the certificate, in seconds since 1970.
    pub not_after: i64,
    /// The agent's count of its starts and dials.
    pub epoch: u64,
}

struct Held {
    id: u64,
    rank: Rank,
    since: Time,
    session: Session,
}

#[derive(Default)]
struct OfHost {
    interactive: Option<Held>,
    bulk: Option<Held>,
}

impl OfHost {
    fn slot(&mut self, class: Class) -> &mut Option<Held> {
        match class {
            Class::Interactive => &mut self.interactive,
            Class::Bulk => &mut self.bulk,
        }
    }

    fn held(&self) -> impl Iterator<Item = &Held> {
        self.interactive.iter().chain(&self.bulk)
    }
}

/// A newer session of the same host and class is there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a newer session of this host is open (epoch {newer})")]
pub struct Stale {
    /// Epoch of the newer one.
    pub newer: u64,
}

/// Every tunnel held here, by host UID.
#[derive(Default)]
pub struct Sessions {
    hosts: Mutex<HashMap<String, OfHost>>,
    next: AtomicU64,
}

impl Sessions {
    fn with<T>(&self, action: impl FnOnce(&mut HashMap<String, OfHost>) -> T) -> T {
        action(&mut self.hosts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a session. Answers its number and the session that it replaced, for closing.
    ///
    /// # Errors
    /// When a newer one of the class is open.
    pub fn register(
        &self,
        uid: &str,
        class: Class,
        rank: Rank,
        session: Session,
    ) -> Result<(u64, Option<Session>), Stale> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.with(|hosts| {
            let slot = hosts.entry(uid.to_owned()).or_default().slot(class);
            if let Some(old) = slot
                && old.rank > rank
                && !old.session.is_closed()
            {
                return Err(Stale {
                    newer: old.rank.epoch,
                });
            }
            let held = Held {
                id,
                rank,
                since: Time(Timestamp::now()),
                session,
            };
            Ok((id, slot.replace(held).map(|old| old.session)))
        })
    }

    /// Takes a session out, if it was not replaced already.
    pub fn release(&self, uid: &str, class: Class, id: u64) {
        self.with(|hosts| {
            let Some(host) = hosts.get_mut(uid) else {
                return;
            };
            host.slot(class).take_if(|held| held.id == id);
            if host.held().next().is_none() {
                hosts.remove(uid);
            }
        });
    }

    /// A live session of the host: of this class, else of the other.
    pub fn pick(&self, uid: &str, class: Class) -> Option<Session> {
        let usable = |held: &&Held| !held.session.is_closed() && !*held.session.draining().borrow();
        self.with(|hosts| {
            let host = hosts.get(uid)?;
            let (first, second) = match class {
                Class::Interactive => (&host.interactive, &host.bulk),
                Class::Bulk => (&host.bulk, &host.interactive),
            };
            let mut both = first.iter().chain(second).filter(usable);
            both.next().map(|held| held.session.clone())
        })
    }

    /// The live session of this class of the host; none while it drains.
    pub fn of(&self, uid: &str, class: Class) -> Option<Session> {
        let session = self.pick(uid, class)?;
        Some(session).filter(|it| it.peer().class == class)
    }

    /// Whether a tunnel of this host is here.
    pub fn holds(&self, uid: &str) -> bool {
        self.with(|hosts| hosts.contains_key(uid))
    }

    /// Epoch and start of the newest session of a host.
    pub fn newest(&self, uid: &str) -> Option<(u64, Time)> {
        self.with(|hosts| {
            let newest = hosts.get(uid)?.held().max_by_key(|held| held.rank)?;
            Some((newest.rank.epoch, newest.since.clone()))
        })
    }

    /// Every session.
    pub fn all(&self) -> Vec<Session> {
        self.with(|hosts| {
            let sessions = hosts.values().flat_map(OfHost::held);
            sessions.map(|held| held.session.clone()).collect()
        })
    }

    /// Hosts with at least one session.
    pub fn hosts(&self) -> usize {
        self.with(|hosts| hosts.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farplane_tunnel::{Config, Hello, Incoming};

    async fn session() -> (Session, Vec<(Session, Incoming)>) {
        let (near, far) = tokio::io::duplex(4096);
        let hello = || Hello::new("test", 1, Class::Interactive);
        let (near, far) = tokio::join!(
            Session::accept(near, hello(), Config::default()),
            Session::connect(far, hello(), Config::default())
        );
        let near = near.unwrap();
        (near.0.clone(), vec![near, far.unwrap()])
    }

    fn rank(not_after: i64, epoch: u64) -> Rank {
        Rank { not_after, epoch }
    }

    #[tokio::test]
    async fn the_newest_epoch_wins_and_the_old_one_is_handed_back() {
        let sessions = Sessions::default();
        let (old, _keep_old) = session().await;
        let (new, _keep_new) = session().await;
        let class = Class::Interactive;
        let (first, replaced) = sessions.register("u", class, rank(9, 5), old).unwrap();
        assert!(replaced.is_none());
        assert_eq!(
            sessions
                .register("u", class, rank(9, 4), new.clone())
                .unwrap_err(),
            Stale { newer: 5 }
        );
        let (_, replaced) = sessions.register("u", class, rank(9, 6), new).unwrap();
        assert!(replaced.is_some());
        sessions.release("u", class, first);
        assert!(
            sessions.holds("u"),
            "the replaced one does not take the new one along"
        );
        assert_eq!(sessions.newest("u").unwrap().0, 6);
    }

    #[tokio::test]
    async fn a_machine_set_up_anew_replaces_its_former_self() {
        let sessions = Sessions::default();
        let (old, _keep_old) = session().await;
        let (new, _keep_new) = session().await;
        let class = Class::Bulk;
        sessions.register("u", class, rank(100, 50), old).unwrap();
        assert!(sessions.register("u", class, rank(200, 1), new).is_ok());
    }

    #[tokio::test]
    async fn a_closed_session_is_not_picked() {
        let sessions = Sessions::default();
        let (bulk, _keep) = session().await;
        let id = sessions
            .register("u", Class::Bulk, rank(1, 1), bulk.clone())
            .unwrap()
            .0;
        assert!(sessions.pick("u", Class::Interactive).is_some());
        bulk.close("test");
        assert!(sessions.pick("u", Class::Interactive).is_none());
        sessions.release("u", Class::Bulk, id);
        assert!(!sessions.holds("u"));
    }
}
