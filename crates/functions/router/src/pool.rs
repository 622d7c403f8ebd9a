//! Connections to one instance, kept while calls need them.
//!
//! A [`Link`] has no task of its own: the call that uses it drives it, and so does the body of the
//! answer. A warm call wakes nobody but its client's connection. Idle ones are driven by nobody;
//! what the instance did meanwhile is seen when the next call takes one.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::body::Sent;
use crate::state::lock;
use crate::workers;

/// Dialling an instance in the same cluster takes longer only when it is not there.
const DIAL: Duration = Duration::from_secs(2);
/// An instance whose node does not take what was sent to it is lost after this time. One that only
/// takes long to answer has a kernel that acknowledges.
const LOST: Duration = Duration::from_secs(10);
/// How often a node is asked whether it is there while an answer is waited for.
const ASK: Duration = Duration::from_secs(5);
/// Idle connections per instance and thread.
const MAX_IDLE: usize = 256;
/// How long a connection is kept without a call. Runtimes close theirs after 2 s and more; one
/// that closes while a request is on its way leaves it unknown whether the function ran.
const KEEP: Duration = Duration::from_millis(1500);

/// One connection; it serves one request at a time.
pub struct Link {
    sender: SendRequest<Sent>,
    /// None when a task drives it, or it has ended.
    driven: Option<Connection<TokioIo<TcpStream>, Sent>>,
    used: Instant,
}

impl Link {
    /// Moves bytes as far as they go.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.driven
            && let Poll::Ready(ended) = Pin::new(connection).poll(cx)
        {
            self.driven = None;
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to an instance ended");
            }
        }
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// Holds the request when nothing of it was sent.
    pub async fn send(
        &mut self,
        request: Request<Sent>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Sent>>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let driven = &mut self.driven;
        std::future::poll_fn(|cx| {
            if let Some(connection) = driven
                && Pin::new(connection).poll(cx).is_ready()
            {
                *driven = None;
            }
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// True when the last exchange is over on both ways and another may begin.
    fn is_free(&mut self) -> bool {
        if !self.sender.is_ready() {
            // Nothing is waited for.
            self.drive(&mut Context::from_waker(Waker::noop()));
        }
        self.driven.is_some() && self.sender.is_ready()
    }
}

/// An instance, as far as connections go.
pub struct Peer {
    address: String,
    /// Of each thread; the one used last is on top.
    idle: [Mutex<Vec<Link>>; workers::MOST],
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nothing listens there, or it does not answer.
    #[error("failed to connect to {address}: {reason}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
}

/// Sends small writes at once, and notices a node that vanished.
fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(ASK).with_interval(ASK))?;
    // It counts for what was sent and for what is asked.
    socket.set_tcp_user_timeout(Some(LOST))
}

impl Peer {
    /// Without connections.
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            idle: Default::default(),
        }
    }

    /// One that is open already.
    pub fn idle(&self) -> Option<Link> {
        let link = lock(&self.idle[workers::lane()]).pop()?;
        // Those below are older.
        (link.used.elapsed() < KEEP).then_some(link)
    }

    /// A new one. With `upgrade` a task drives it, so that it may become something else.
    ///
    /// # Errors
    /// When the instance cannot be reached.
    pub async fn dial(&self, upgrade: bool) -> Result<Link, DialError> {
        let fail = |reason: String| DialError::Connect {
            address: self.address.clone(),
            reason,
        };
        let socket = timeout(DIAL, TcpStream::connect(&self.address))
            .await
            .map_err(|_| fail(format!("no answer within {} s", DIAL.as_secs())))?
            .map_err(|error| fail(error.to_string()))?;
        tune(&socket).map_err(|error| fail(error.to_string()))?;
        let (sender, connection) = http1::Builder::new()
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|error| fail(error.to_string()))?;
        let driven = if upgrade {
            tokio::spawn(async move {
                if let Err(error) = connection.with_upgrades().await {
                    tracing::debug!(%error, "a connection to an instance ended");
                }
            });
            None
        } else {
            Some(connection)
        };
        Ok(Link {
            sender,
            driven,
            used: Instant::now(),
        })
    }

    /// Takes back a connection whose answer has been read; one that is still busy is closed.
    pub fn put(&self, mut link: Link) {
        if !link.is_free() {
            return;
        }
        let now = Instant::now();
        link.used = now;
        let mut idle = lock(&self.idle[workers::lane()]);
        let old = idle.partition_point(|other| now.duration_since(other.used) >= KEEP);
        idle.drain(..old);
        if idle.len() < MAX_IDLE {
            idle.push(link);
        }
    }

    /// Closes connections that no call needed for a while.
    pub fn sweep(&self) {
        for idle in &self.idle {
            lock(idle).retain(|link| link.used.elapsed() < KEEP);
        }
    }
}
