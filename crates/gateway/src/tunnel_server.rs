//! Tunnels of agents: admission, sessions, and the services that an agent may open.
//!
//! States of a session: admitted -> serving -> revoked or drained -> closed.
//! - A host that is known serves every service. When its object is deleted it is revoked:
//!   every stream but `plan` is reset, `plan` says `Removed`, and the session ends with the
//!   agent's `Clean` or after [`REMOVAL_GRACE`].
//! - A host whose object is gone gets only that `plan` stream from the start, so that a
//!   machine that was away is cleaned when it returns. Before it is told so, the API itself
//!   is asked: watches may lag behind a host that has just joined.
//! - At the end of its certificate a session is drained, then closed.

use std::sync::Arc;
use std::time::Duration;

use farplane_tunnel::{
    Class, Incoming, IncomingStream, MOVE, OpenHeader, RefusalCode, Session, splice_tcp,
};
use farplane_types::wire::service;
use farplane_types::{Host, names};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dial;
use crate::gateway::Gateway;
use crate::plan::{self, End};
use crate::renew;
use crate::route::HostIdentity;
use crate::sessions::Rank;
use crate::world::Key;
use crate::world::lookup::PlanState;

/// How long a removed host may take to clean itself while its session is kept.
pub const REMOVAL_GRACE: Duration = Duration::from_secs(60);
/// How long streams may go on after a drain.
pub const DRAIN_GRACE: Duration = Duration::from_secs(20);
/// How long a host that the API knows may stay unknown to the watches.
const WORLD_LAG: Duration = Duration::from_secs(10);

/// What the hub thinks of a host that presents a valid certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Its object exists.
    Known,
    /// Its object is gone or being deleted.
    Removed,
    /// The API could not be asked; neither yes nor no.
    Unclear,
}

/// One session and what belongs to it.
struct Connection {
    gateway: Arc<Gateway>,
    host: HostIdentity,
    key: Key,
    session: Session,
    states: watch::Receiver<PlanState>,
    /// Cancelled on revocation: ends every stream but `plan`.
    revoked: CancellationToken,
    /// Cancelled when a removed host is clean.
    clean: CancellationToken,
    /// Cancels the plan stream that is there when a newer one comes.
    plan: std::sync::Mutex<CancellationToken>,
    tasks: TaskTracker,
}

/// Serves one tunnel until it ends.
pub async fn serve(
    gateway: Arc<Gateway>,
    host: HostIdentity,
    not_after: i64,
    session: Session,
    incoming: Incoming,
) {
    let key = Key {
        namespace: names::organization_namespace(&host.organization),
        name: host.host.clone(),
    };
    let standing = standing(&gateway, &host, &key).await;
    if standing == Standing::Unclear {
        gateway.metrics.count("tunnel", "unclear");
        session.close("the hub cannot tell yet whether this host is known; try again");
        return;
    }
    let states = if standing == Standing::Known {
        gateway.world.plan_of(&host.uid)
    } else {
        // No later event can bring back an object with this UID.
        watch::channel(PlanState::Removed).1
    };
    let (class, epoch) = (session.peer().class, session.peer().epoch);
    let rank = Rank { not_after, epoch };
    let registered = gateway
        .sessions
        .register(&host.uid, class, rank, session.clone());
    let id = match registered {
        Ok((id, replaced)) => {
            if let Some(old) = replaced {
                old.close("replaced by a newer session");
            }
            id
        }
        Err(stale) => {
            gateway.metrics.count("tunnel", "stale");
            session.close(&stale.to_string());
            return;
        }
    };
    gateway.metrics.count("tunnel", "ok");
    gateway.metrics.hosts.set(gateway.sessions.hosts() as i64);
    gateway.directory.mark(&host.uid, &key);
    tracing::info!(
        host = host.host,
        organization = host.organization,
        uid = host.uid,
        ?class,
        epoch,
        agent = session.peer().agent_version,
        ?standing,
        "tunnel open"
    );
    let connection = Arc::new(Connection {
        gateway: Arc::clone(&gateway),
        host,
        key,
        session,
        states,
        revoked: CancellationToken::new(),
        clean: CancellationToken::new(),
        plan: std::sync::Mutex::default(),
        tasks: TaskTracker::new(),
    });
    let reason = connection.clone().run(incoming, not_after).await;
    connection.revoked.cancel();
    let (host, key) = (&connection.host, &connection.key);
    gateway.sessions.release(&host.uid, class, id);
    gateway.metrics.hosts.set(gateway.sessions.hosts() as i64);
    gateway.directory.mark(&host.uid, key);
    tracing::info!(
        host = host.host,
        organization = host.organization,
        ?class,
        epoch,
        reason,
        "tunnel closed"
    );
}

async fn standing(gateway: &Gateway, host: &HostIdentity, key: &Key) -> Standing {
    // A live object with this UID is this host wherever its certificate says it lives.
    let in_world = |deleting: bool, at: &Key| {
        if deleting || at != key {
            Standing::Removed
        } else {
            Standing::Known
        }
    };
    let view = |uid: &str| {
        let known = |world: &crate::world::World| {
            let host = world.host(uid)?;
            Some(in_world(host.deleting, &host.key))
        };
        gateway.world.read(known)
    };
    if let Some(standing) = view(&host.uid) {
        return standing;
    }
    let api: Api<Host> = Api::namespaced(gateway.client.clone(), &key.namespace);
    match api.get_opt(&key.name).await {
        Err(error) => {
            tracing::warn!(host = host.host, %error, "failed to read the host");
            Standing::Unclear
        }
        Ok(Some(object))
            if object.metadata.uid.as_deref() == Some(&host.uid)
                && object.metadata.deletion_timestamp.is_none() =>
        {
            let mut states = gateway.world.plan_of(&host.uid);
            let seen = timeout(
                WORLD_LAG,
                states.wait_for(|state| *state != PlanState::Removed),
            );
            match seen.await {
                Ok(Ok(_)) => Standing::Known,
                _ => Standing::Unclear,
            }
        }
        Ok(_) => Standing::Removed,
    }
}

impl Connection {
    /// Accepts streams until the session ends; answers why it did.
    async fn run(self: Arc<Self>, mut incoming: Incoming, not_after: i64) -> String {
        let left = not_after.saturating_sub(Timestamp::now().as_second());
        let expiry = Instant::now() + Duration::from_secs(u64::try_from(left).unwrap_or(0));
        let mut states = self.states.clone();
        let removed = async move {
            if states
                .wait_for(|state| *state == PlanState::Removed)
                .await
                .is_err()
            {
                std::future::pending::<()>().await;
            }
        };
        tokio::pin!(removed);
        let mut draining = false;
        let mut end_at = Instant::now() + Duration::from_secs(365 * 86400);
        loop {
            tokio::select! {
                stream = incoming.next() => match stream {
                    Some(stream) => {
                        let task = Arc::clone(&self).stream(stream);
                        self.tasks.spawn(task);
                    }
                    None => return self.session.closed().await.to_string(),
                },
                () = &mut removed, if !self.revoked.is_cancelled() => {
                    tracing::info!(host = self.host.host, uid = self.host.uid, "host removed, tunnel revoked");
                    self.revoked.cancel();
                    end_at = end_at.min(Instant::now() + REMOVAL_GRACE);
                }
                () = self.clean.cancelled() => {
                    // The agent has read the end of its stream, or had its time for that.
                    self.session.close("host removed");
                    return "host removed and clean".to_owned();
                }
                () = self.gateway.shutdown.cancelled(), if !draining => {
                    draining = true;
                    end_at = end_at.min(Instant::now() + DRAIN_GRACE);
                    self.session.drain().await;
                }
                () = sleep_until(expiry), if !draining => {
                    draining = true;
                    end_at = end_at.min(Instant::now() + DRAIN_GRACE);
                    tracing::info!(host = self.host.host, "certificate ended, draining");
                    self.session.drain().await;
                }
                () = sleep_until(end_at) => {
                    self.session.close("time is up");
                    return "time is up".to_owned();
                }
            }
        }
    }

    async fn stream(self: Arc<Self>, stream: IncomingStream) {
        let name = stream.header().service.clone();
        if name == service::PLAN {
            return self.plan(stream).await;
        }
        if name == MOVE {
            return self.gateway.moves.hand_over(&self.host.uid, stream).await;
        }
        let revoked = self.revoked.clone();
        // Dropping a stream resets it at the agent.
        tokio::select! {
            () = self.other(&name, stream) => {}
            () = revoked.cancelled() => {}
        }
    }

    async fn plan(&self, stream: IncomingStream) {
        let Ok(stream) = stream.accept().await else {
            return;
        };
        let newest = CancellationToken::new();
        let older = {
            let mut place = self
                .plan
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            std::mem::replace(&mut *place, newest.clone())
        };
        older.cancel();
        let states = self.states.clone();
        let serving = plan::serve(&self.gateway, &self.host.uid, &self.key, stream, states);
        tokio::select! {
            // A clean host leaves with its session: that it is clean counts first.
            biased;
            end = serving => {
                if end == End::Clean {
                    tracing::info!(host = self.host.host, uid = self.host.uid, "removed host is clean");
                    self.clean.cancel();
                }
            }
            () = newest.cancelled() => {}
            _ = self.session.closed() => {}
        }
    }

    async fn other(&self, name: &str, stream: IncomingStream) {
        let gateway = &self.gateway;
        let host = &self.host;
        let _share = match gateway.limits.stream(&host.organization) {
            Ok(share) => share,
            Err(error) => {
                return self
                    .refuse(stream, RefusalCode::Busy, &error.to_string())
                    .await;
            }
        };
        match name {
            service::RENEW => {
                if let Ok(stream) = stream.accept().await
                    && let Err(error) = renew::serve(gateway, host, stream).await
                {
                    tracing::info!(host = host.host, %error, "renewal broke off");
                }
            }
            service::REPO => {
                let dialled = dial::tcp(gateway.artifacts.as_str()).await;
                self.join(stream, dialled).await;
            }
            // An address of its own, so that whatever a local program says there is about
            // images, and no request has to be looked into here.
            service::REGISTRY => {
                let plane = stream.header().plane.as_deref();
                let offered = gateway
                    .world
                    .read(|world| world.offered_to_programs(&host.uid, plane, name));
                match offered {
                    Ok(()) => {
                        let dialled = dial::tcp(gateway.registry.as_str()).await;
                        self.join(stream, dialled).await;
                    }
                    Err(denied) => {
                        let reason = denied.to_string();
                        self.refuse(stream, RefusalCode::Forbidden, &reason).await;
                    }
                }
            }
            service::API => {
                let OpenHeader { plane, .. } = stream.header();
                let way = gateway
                    .world
                    .read(|world| world.api_for_host(&host.uid, plane.as_deref()));
                match way {
                    Ok(servers) => self.join(stream, dial::first(&servers).await).await,
                    Err(denied) => {
                        let reason = denied.to_string();
                        self.refuse(stream, RefusalCode::Forbidden, &reason).await;
                    }
                }
            }
            other => {
                let reason = format!("the hub has no service {other}");
                self.refuse(stream, RefusalCode::UnknownService, &reason)
                    .await;
            }
        }
    }

    async fn join(&self, stream: IncomingStream, dialled: std::io::Result<tokio::net::TcpStream>) {
        match dialled {
            Ok(socket) => {
                self.gateway.metrics.count("stream", "ok");
                let key = stream.header().moves.clone();
                if let Ok(stream) = stream.accept().await {
                    let moves = &self.gateway.moves;
                    let stream = moves.accepted(&self.host.uid, key.as_deref(), stream);
                    // A cut is passed on as a reset; there is nobody else to tell.
                    _ = splice_tcp(socket, stream, &self.gateway.bulk).await;
                }
            }
            Err(error) => {
                let code = match error.kind() {
                    std::io::ErrorKind::TimedOut => RefusalCode::Timeout,
                    _ => RefusalCode::Unreachable,
                };
                self.refuse(stream, code, &error.to_string()).await;
            }
        }
    }

    async fn refuse(&self, stream: IncomingStream, code: RefusalCode, reason: &str) {
        let header = stream.header();
        self.gateway.metrics.count("stream", code.as_str());
        tracing::info!(
            host = self.host.host,
            organization = self.host.organization,
            service = header.service,
            plane = header.plane,
            code = code.as_str(),
            reason,
            "stream refused"
        );
        stream.refuse(code, reason).await;
    }
}

/// Drains every session and waits until they ended, at most [`DRAIN_GRACE`].
pub async fn drain_all(gateway: &Gateway) {
    let all_closed = async {
        for session in gateway.sessions.all() {
            session.closed().await;
        }
    };
    if timeout(DRAIN_GRACE, all_closed).await.is_err() {
        for session in gateway.sessions.all() {
            session.close("gateway stops");
        }
    }
    // Their tasks take them out of the list; the directory is written after that.
    let emptied = async {
        while gateway.sessions.hosts() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    _ = timeout(Duration::from_secs(1), emptied).await;
}

/// Class of streams towards hosts at their start: calls to kubelets, webhooks and aggregated
/// APIs.
pub const TO_HOST: Class = Class::Interactive;
