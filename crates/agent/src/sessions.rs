//! The sessions to the hub right now, and the one for a stream.
//!
//! A stream goes to the session of its class. While there is none, or that one is to empty
//! itself, it goes to the other class: slow is better than not at all.

use std::time::Duration;

use farplane_tunnel::{Class, OpenError, OpenHeader, RefusalCode, Session, TunnelStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Between two looks at the sessions when none was told to be new.
const LOOK: Duration = Duration::from_millis(100);

/// Why no stream was opened.
#[derive(Debug, thiserror::Error)]
pub enum NoStream {
    /// No session in time.
    #[error("no connection to the hub")]
    NotConnected,
    /// The hub refused, or the session broke.
    #[error(transparent)]
    Open(#[from] OpenError),
}

#[derive(Clone, Default)]
struct Slot {
    /// Which of the sessions of its class; grows.
    number: u64,
    session: Option<Session>,
    /// It shall empty itself: prefer the other class.
    retiring: bool,
}

/// The sessions right now.
#[derive(Default)]
pub struct Tunnels {
    interactive: watch::Sender<Slot>,
    bulk: watch::Sender<Slot>,
}

impl Tunnels {
    fn slot(&self, class: Class) -> &watch::Sender<Slot> {
        match class {
            Class::Interactive => &self.interactive,
            Class::Bulk => &self.bulk,
        }
    }

    /// A live session: of this class, else of the other one, else one that is on its way out.
    pub fn pick(&self, class: Class) -> Option<Session> {
        let other = match class {
            Class::Interactive => Class::Bulk,
            Class::Bulk => Class::Interactive,
        };
        let slots = [class, other].map(|class| self.slot(class).borrow().clone());
        let live = |slot: &&Slot| slot.session.as_ref().is_some_and(|it| !it.is_closed());
        let fresh = |slot: &&Slot| {
            let draining = slot
                .session
                .as_ref()
                .is_some_and(|it| *it.draining().borrow());
            !slot.retiring && !draining
        };
        let live: Vec<&Slot> = slots.iter().filter(live).collect();
        let best = live.iter().find(|slot| fresh(slot)).or(live.first());
        best.and_then(|slot| slot.session.clone())
    }

    /// The live session of this class; none while it is to empty itself.
    pub fn of(&self, class: Class) -> Option<Session> {
        let Slot {
            session, retiring, ..
        } = self.slot(class).borrow().clone();
        session.filter(|it| !retiring && !it.is_closed() && !*it.draining().borrow())
    }

    /// Waits for a session of this class; answers its number too.
    pub async fn session(&self, class: Class) -> (u64, Session) {
        let mut slot = self.slot(class).subscribe();
        loop {
            let Slot {
                number, session, ..
            } = slot.borrow_and_update().clone();
            if let Some(session) = session.filter(|it| !it.is_closed()) {
                return (number, session);
            }
            if slot.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the session of this number is not that of its class any more.
    pub async fn replaced(&self, class: Class, number: u64) {
        let mut slot = self.slot(class).subscribe();
        loop {
            if slot.borrow_and_update().number != number {
                return;
            }
            if slot.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Opens a stream on a session of the header's class if there is one. Waits for a session
    /// for at most `patience`, and tries another one when one breaks within that time.
    ///
    /// # Errors
    /// When there was no session in time, or the hub refused.
    pub async fn open(
        &self,
        header: OpenHeader,
        patience: Duration,
    ) -> Result<TunnelStream, NoStream> {
        let end = Instant::now() + patience;
        let mut last = NoStream::NotConnected;
        let (mut one, mut other) = (self.interactive.subscribe(), self.bulk.subscribe());
        loop {
            _ = (one.borrow_and_update(), other.borrow_and_update());
            if let Some(session) = self.pick(header.class) {
                match session.open(header.clone()).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) if is_final(&error) => return Err(error.into()),
                    Err(error) => last = error.into(),
                }
            }
            let next = async {
                tokio::select! {
                    _ = one.changed() => {}
                    _ = other.changed() => {}
                    () = sleep(LOOK) => {}
                }
            };
            if Instant::now() >= end || tokio::time::timeout_at(end, next).await.is_err() {
                return Err(last);
            }
        }
    }

    /// A new session of this class; answers the one before.
    pub(crate) fn put(&self, class: Class, session: Session) -> Option<Session> {
        let mut old = None;
        self.slot(class).send_modify(|slot| {
            slot.number += 1;
            slot.retiring = false;
            old = slot.session.replace(session);
        });
        old
    }

    /// Prefers the other class from now on.
    pub(crate) fn retire(&self, class: Class) {
        self.slot(class).send_modify(|slot| slot.retiring = true);
    }

    /// There is no session of this class.
    pub(crate) fn clear(&self, class: Class) {
        self.slot(class).send_modify(|slot| {
            slot.number += 1;
            slot.session = None;
        });
    }
}

/// Whether another session would say the same.
fn is_final(error: &OpenError) -> bool {
    match error {
        OpenError::Refused { code, .. } => {
            !matches!(code, RefusalCode::Draining | RefusalCode::Busy)
        }
        OpenError::Header { .. } | OpenError::Reply { .. } | OpenError::Timeout { .. } => true,
        OpenError::Closed { .. }
        | OpenError::Draining
        | OpenError::Busy
        | OpenError::Stream { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farplane_tunnel::{Config, Hello, Incoming};
    use std::sync::Arc;

    async fn pair(class: Class) -> ((Session, Incoming), (Session, Incoming)) {
        let (near, far) = tokio::io::duplex(4096);
        let hello = || Hello::new("test", 1, class);
        let (near, far) = tokio::join!(
            Session::connect(near, hello(), Config::default()),
            Session::accept(far, hello(), Config::default())
        );
        (near.unwrap(), far.unwrap())
    }

    /// Class of the session that is picked; the far end says it too.
    fn picked(tunnels: &Tunnels, class: Class) -> Option<Class> {
        tunnels.pick(class).map(|session| session.peer().class)
    }

    #[tokio::test]
    async fn streams_use_their_class_then_the_other_then_what_is_left() {
        let tunnels = Tunnels::default();
        assert!(tunnels.pick(Class::Bulk).is_none());
        let ((one, _a), _b) = pair(Class::Interactive).await;
        let ((two, _c), _d) = pair(Class::Bulk).await;
        tunnels.put(Class::Interactive, one.clone());
        assert!(picked(&tunnels, Class::Bulk) == Some(Class::Interactive));
        tunnels.put(Class::Bulk, two.clone());
        assert!(picked(&tunnels, Class::Bulk) == Some(Class::Bulk));
        tunnels.retire(Class::Bulk);
        assert!(picked(&tunnels, Class::Bulk) == Some(Class::Interactive));
        one.close("test");
        assert!(picked(&tunnels, Class::Interactive) == Some(Class::Bulk));
        two.close("test");
        assert!(tunnels.pick(Class::Interactive).is_none());
    }

    #[tokio::test]
    async fn an_open_waits_for_a_session_but_not_for_ever() {
        let tunnels = Arc::new(Tunnels::default());
        let header = OpenHeader::new(Class::Interactive, "api");
        let none = tunnels.open(header.clone(), Duration::ZERO).await;
        assert!(matches!(none, Err(NoStream::NotConnected)));
        let waiting = tokio::spawn({
            let tunnels = Arc::clone(&tunnels);
            async move { tunnels.open(header, Duration::from_secs(60)).await }
        });
        let ((session, _a), (_far, mut incoming)) = pair(Class::Bulk).await;
        tunnels.put(Class::Bulk, session);
        let _accepted = incoming.next().await.unwrap().accept().await.unwrap();
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_refusal_is_final_and_comes_at_once() {
        let tunnels = Tunnels::default();
        let ((session, _a), (_far, mut incoming)) = pair(Class::Interactive).await;
        tunnels.put(Class::Interactive, session);
        let header = OpenHeader::new(Class::Interactive, "api");
        let (opened, ()) = tokio::join!(tunnels.open(header, Duration::from_secs(600)), async {
            let stream = incoming.next().await.unwrap();
            stream.refuse(RefusalCode::Forbidden, "no").await;
        });
        assert!(matches!(
            opened,
            Err(NoStream::Open(OpenError::Refused { .. }))
        ));
    }
}
