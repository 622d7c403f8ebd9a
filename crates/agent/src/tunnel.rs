//! Keeps one session of each class to the hub.
//!
//! ```text
//!   dial ──▶ connected ──▶ closed ──▶ pause ──▶ dial
//!               │ the hub drains ─────────────▶ dial, the old one ends by itself
//!               │ new certificate: drain, streams end or time is up ──▶ dial, old one closed
//! ```
//!
//! Only the [`Keeper`] of a class dials it, so two sessions of a class never fight for their
//! place at a gateway, which keeps the newest only. Classes change to a new certificate one after
//! the other: meanwhile new streams use the other class, in both directions.

use std::sync::Arc;
use std::time::Duration;

use farplane_tunnel::dial::{Dial, DialError};
use farplane_tunnel::proxy::ProxyError;
use farplane_tunnel::{
    Class, CloseReason, Config, Hello, Incoming, OpenHeader, Session, SessionError,
};
use jiff::Timestamp;
use rustls_pki_types::ServerName;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::address::{self, HubAddress};
use crate::identity::{Identity, IdentityError};
use crate::serve::{self, World};
use crate::sessions::Tunnels;
use crate::state::Epoch;
use crate::status::{Board, TunnelStatus};

/// Longest time for a dial, everything included.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);
/// Pause before the first retry; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause: a hub that is back has its hosts back soon after.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Pause after a proxy that wants other credentials: it may lock those who keep on asking.
const PROXY_PAUSE: Duration = Duration::from_secs(60);
/// A session that lived longer was a good one.
const GOOD_LIFE: Duration = Duration::from_secs(10);
/// How long streams may go on before a session with an old certificate is given up.
const SWITCH_GRACE: Duration = Duration::from_secs(600);
/// How long streams may go on when the agent stops.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Between two looks at a session that empties.
const LOOK: Duration = Duration::from_millis(100);
/// A service that no gateway has.
const PROBE: &str = "probe";
/// What a gateway says when another session of this host and class took the place.
const REPLACED: &str = "replaced by a newer session";

/// Why a dial came to nothing.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the proxy cannot be used: {0}")]
    Proxy(#[from] ProxyError),
    #[error("{name:?} is not a server name")]
    Name { name: String },
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Pause after so many failures in a row; `spread` from 0 to 1 keeps hosts from dialling
/// together.
fn pause(failures: u32, spread: f64) -> Duration {
    let factor = 1u32
        .checked_shl(failures.saturating_sub(1))
        .unwrap_or(u32::MAX);
    let longest = FIRST_PAUSE.saturating_mul(factor.max(1)).min(MAX_PAUSE);
    longest.mul_f64(0.5 + spread.clamp(0.0, 1.0) / 2.0)
}

/// Whether a proxy wants credentials, or other ones (some answer 401).
fn wants_credentials(error: &ConnectError) -> bool {
    let ConnectError::Dial(DialError::ProxyRefused { status, .. }) = error else {
        return false;
    };
    crate::enrol::PROXY_CREDENTIALS.contains(status)
}

/// Bounds of a session: a host has few streams and little memory to spare.
fn session_config() -> Config {
    Config {
        connection_window: 8 * 1024 * 1024,
        max_buffered: 16 * 1024 * 1024,
        ..Config::default()
    }
}

/// What keepers share.
#[derive(Clone)]
pub struct Common {
    /// The hub.
    pub hub: HubAddress,
    /// Proxy of the configuration.
    pub proxy: Option<String>,
    /// Who we are; a new certificate is a change.
    pub identity: watch::Receiver<Arc<Identity>>,
    /// Count of dials.
    pub epoch: Arc<Epoch>,
    /// What incoming streams are checked against.
    pub world: World,
    /// Where to say how it goes.
    pub board: Arc<Board>,
    /// The sessions.
    pub tunnels: Arc<Tunnels>,
    /// Held by the class that changes to a new certificate.
    pub turn: Arc<Mutex<()>>,
    /// The agent stops.
    pub shutdown: CancellationToken,
}

/// Keeps the session of one class.
pub struct Keeper {
    class: Class,
    common: Common,
    failures: u32,
    /// The last dial ended at a proxy that asked for credentials.
    proxy_refused: bool,
    /// Kept from the old session's end until the new one has its place: without it the other
    /// class would begin to change while this one has no session.
    turn: Option<OwnedMutexGuard<()>>,
}

enum End {
    Closed(CloseReason),
    Draining,
    /// A new certificate is there, and it is this class's turn.
    Renewed(OwnedMutexGuard<()>),
    Shutdown,
}

impl Keeper {
    /// A keeper that is not running yet.
    pub fn new(class: Class, common: Common) -> Self {
        Self {
            class,
            common,
            failures: 0,
            proxy_refused: false,
            turn: None,
        }
    }

    fn name(&self) -> &'static str {
        match self.class {
            Class::Interactive => "interactive",
            Class::Bulk => "bulk",
        }
    }

    /// Runs until shutdown; then the session is drained and closed.
    pub async fn run(mut self) {
        let shutdown = self.common.shutdown.clone();
        loop {
            let identity = self.common.identity.borrow_and_update().clone();
            let connected = tokio::select! {
                connected = self.connect(&identity) => connected,
                () = shutdown.cancelled() => return,
            };
            self.proxy_refused = matches!(&connected, Err(error) if wants_credentials(error));
            match connected {
                Ok((session, incoming)) => {
                    self.connected(&session, incoming);
                    if !self.attend(session).await {
                        return;
                    }
                }
                Err(error) => {
                    self.failures = self.failures.saturating_add(1);
                    self.failed(&identity, &error);
                }
            }
            if self.failures > 0 {
                let least = if self.proxy_refused {
                    PROXY_PAUSE
                } else {
                    Duration::ZERO
                };
                tokio::select! {
                    () = sleep(pause(self.failures, rand::random()).max(least)) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        }
    }

    async fn connect(&self, identity: &Identity) -> Result<(Session, Incoming), ConnectError> {
        let name = identity.server_name.clone();
        let dial = Dial {
            host: self.common.hub.host.clone(),
            port: self.common.hub.port,
            proxy: address::proxy(&self.common.hub, self.common.proxy.as_deref())?,
            tls: identity.tls(farplane_tunnel::ALPN)?,
            server_name: ServerName::try_from(name.clone())
                .map_err(|_| ConnectError::Name { name })?,
            deadline: DIAL_DEADLINE,
        };
        let stream = dial.run().await?;
        let hello = Hello::new(crate::VERSION, self.common.epoch.next(), self.class);
        let (session, incoming) = Session::connect(stream, hello, session_config()).await?;
        if self.turn.is_some() {
            // A gateway answers streams once it has given the session its place. The old
            // session and the other class have to stay until then. Any answer will do.
            _ = session.open(OpenHeader::new(self.class, PROBE)).await;
        }
        Ok((session, incoming))
    }

    fn connected(&mut self, session: &Session, incoming: Incoming) {
        tokio::spawn(serve::run(incoming, self.common.world.clone()));
        let old = self.common.tunnels.put(self.class, session.clone());
        if self.turn.is_some()
            && let Some(old) = old
        {
            old.close("replaced by a session with a newer certificate");
        }
        self.turn = None;
        tracing::info!(
            class = self.name(),
            gateway = session.peer().agent_version,
            "connected"
        );
        self.tell("connected", String::new());
        self.common.board.problem("certificate", None);
    }

    fn failed(&self, identity: &Identity, error: &ConnectError) {
        let reason = crate::causes(error);
        let ended = identity
            .times()
            .ok()
            .filter(|it| it.not_after < Timestamp::now());
        if let Some(times) = ended {
            let text = format!(
                "the certificate ended at {} while this machine was off or away; get a new \
                 command with `farplane host join-command --host` for this host and run it here",
                times.not_after
            );
            self.common.board.problem("certificate", Some(text));
        }
        tracing::warn!(
            class = self.name(),
            failures = self.failures,
            certificate_ended = ended.is_some(),
            reason,
            "not connected"
        );
        self.tell("connecting", reason);
    }

    fn tell(&self, state: &str, message: String) {
        let name = self.name().to_owned();
        self.common.board.change(|status| {
            let before = status.tunnels.get(&name);
            let since = before.filter(|it| it.state == state).map(|it| it.since);
            let tunnel = TunnelStatus {
                state: state.to_owned(),
                since: since.unwrap_or_else(Timestamp::now),
                message,
            };
            status.tunnels.insert(name, tunnel);
        });
    }

    /// Waits for what ends the session, and ends it. False at shutdown.
    async fn attend(&mut self, session: Session) -> bool {
        let since = Instant::now();
        let end = self.end_of(&session).await;
        let good = since.elapsed() >= GOOD_LIFE;
        match end {
            End::Closed(reason) => {
                self.common.tunnels.clear(self.class);
                self.failures = if good {
                    0
                } else {
                    self.failures.saturating_add(1)
                };
                if matches!(&reason, CloseReason::Peer(text) if text == REPLACED) {
                    // Somebody else has this identity; two that fight help nobody.
                    self.failures = self.failures.max(8);
                    let text = "another agent connects as this host; was the machine cloned?";
                    self.common.board.problem("identity", Some(text.to_owned()));
                }
                tracing::info!(class = self.name(), %reason, "disconnected");
                self.tell("connecting", reason.to_string());
            }
            End::Draining => {
                self.failures = 0;
                self.common.tunnels.retire(self.class);
                tracing::info!(
                    class = self.name(),
                    "the hub drains this session, dialling anew"
                );
            }
            End::Renewed(turn) => {
                self.failures = 0;
                self.turn = Some(turn);
                self.common.tunnels.retire(self.class);
                session.drain().await;
                let shutdown = self.common.shutdown.clone();
                let stopping = tokio::select! {
                    () = emptied(&session, self.class, SWITCH_GRACE) => false,
                    () = shutdown.cancelled() => true,
                };
                if stopping {
                    stop(&session, self.class).await;
                    return false;
                }
            }
            End::Shutdown => {
                stop(&session, self.class).await;
                return false;
            }
        }
        true
    }

    async fn end_of(&mut self, session: &Session) -> End {
        let mut draining = session.draining();
        let renewed = async {
            if self.common.identity.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            Arc::clone(&self.common.turn).lock_owned().await
        };
        tokio::select! {
            reason = session.closed() => End::Closed(reason),
            Ok(_) = draining.wait_for(|it| *it) => End::Draining,
            turn = renewed => End::Renewed(turn),
            () = self.common.shutdown.cancelled() => End::Shutdown,
        }
    }
}

/// Waits until the streams of a session ended, the plan stream apart; not for ever.
async fn emptied(session: &Session, class: Class, grace: Duration) {
    let lasting = match class {
        Class::Interactive => 1,
        Class::Bulk => 0,
    };
    let empty = async {
        while session.stats().open_streams > lasting && !session.is_closed() {
            sleep(LOOK).await;
        }
    };
    // What is left after the grace is cut; it would be so without it.
    _ = timeout(grace, empty).await;
}

async fn stop(session: &Session, class: Class) {
    session.drain().await;
    emptied(session, class, STOP_GRACE).await;
    session.close("the agent stops");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refused_credentials_make_the_agent_patient() {
        let refused = |status| {
            let (proxy, target) = ("p:3128".to_owned(), "h:8443".to_owned());
            let refused = DialError::ProxyRefused {
                proxy,
                target,
                status,
            };
            wants_credentials(&ConnectError::Dial(refused))
        };
        assert!(refused(401) && refused(407));
        assert!(!refused(403) && !refused(502));
    }

    #[test]
    fn pauses_begin_short_grow_and_are_capped() {
        assert!(pause(1, 0.0) >= FIRST_PAUSE / 2 && pause(1, 1.0) <= FIRST_PAUSE);
        assert!(pause(2, 1.0) > pause(1, 1.0));
        for failures in [8, 31, 32, 33, u32::MAX] {
            assert_eq!(pause(failures, 1.0), MAX_PAUSE);
            assert_eq!(pause(failures, 0.0), MAX_PAUSE / 2);
        }
    }
}
