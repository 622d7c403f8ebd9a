//! The task that owns the yamux connection.
//!
//! States: running -> (closing | broken) -> over.
//! - running: polls the connection, hands out inbound and outbound streams. It never waits for a
//!   consumer: inbound streams go to short tasks of their own.
//! - closing: this side closed the session. Streams have failed already; the close frame gets a
//!   second to leave, then yamux says go-away.
//! - broken: the carrier or the peer ended. The liveness task gets a second to read what the peer
//!   said last, which gives the better reason.
//!
//! The session is over for everybody when this task ends, however it ends.

use std::{
    future::poll_fn,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use crate::{
    carrier::Carrier,
    error::CloseReason,
    session::IncomingStream,
    shared::{Direction, Handle, OpenRequest, Shared},
    stream::{RawStream, TunnelStream},
    wire::{MAX_HEADER_BYTES, OpenHeader, OpenReply, RefusalCode, peek_length},
};

/// How long a closing or broken session may take for its last words.
const LAST_WORDS: Duration = Duration::from_secs(1);

type Connection<IO> = yamux::Connection<Carrier<IO>>;

/// What the driver needs beside the connection.
pub(crate) struct Driver {
    pub(crate) shared: Arc<Shared>,
    /// Weak: the driver must not keep alive what it serves.
    pub(crate) handle: Weak<Handle>,
    pub(crate) opens: mpsc::Receiver<OpenRequest>,
    pub(crate) incoming: mpsc::Sender<IncomingStream>,
    /// Where the first inbound stream goes on the accepting side.
    pub(crate) control: Option<oneshot::Sender<RawStream>>,
    /// Resolves when the liveness task is gone.
    pub(crate) control_done: oneshot::Receiver<()>,
}

/// Ends the session even when the driver's task is aborted.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0
            .finish(CloseReason::Carrier("driver stopped".to_owned()));
    }
}

impl Driver {
    /// Runs the session to its end.
    pub(crate) async fn run<IO>(self, io: IO, mode: yamux::Mode)
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let shared = self.shared.clone();
        let _ending = Ending(shared.clone());
        let carrier = Carrier::new(io, shared.wire.clone());
        let mut connection = yamux::Connection::new(carrier, shared.config.yamux(), mode);
        let mut work = Work {
            shared: shared.clone(),
            handle: self.handle,
            opens: self.opens,
            waiting: None,
            incoming: self.incoming,
            control: self.control,
            refusing: Arc::default(),
        };
        let mut closed = shared.watch_closed();
        let mut control_done = self.control_done;
        let broken = tokio::select! {
            biased;
            _ = closed.wait_for(Option::is_some) => None,
            reason = poll_fn(|cx| work.poll(&mut connection, cx)) => Some(reason),
        };
        if let Some(reason) = broken {
            shared.wire.end();
            // Without a control stream nobody has anything to read.
            if work.control.take().is_none() {
                _ = timeout(LAST_WORDS, control_done).await;
            }
            shared.finish(reason);
        } else if let Some(CloseReason::Local(_)) = shared.close_reason() {
            _ = timeout(LAST_WORDS, async {
                tokio::select! {
                    _ = &mut control_done => {}
                    _ = poll_fn(|cx| work.poll(&mut connection, cx)) => {}
                }
            })
            .await;
            _ = timeout(LAST_WORDS, poll_fn(|cx| connection.poll_close(cx))).await;
        }
    }
}

struct Work {
    shared: Arc<Shared>,
    handle: Weak<Handle>,
    opens: mpsc::Receiver<OpenRequest>,
    waiting: Option<OpenRequest>,
    incoming: mpsc::Sender<IncomingStream>,
    control: Option<oneshot::Sender<RawStream>>,
    refusing: Arc<AtomicUsize>,
}

impl Work {
    /// Ready when the connection is over, with the reason.
    fn poll<IO: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        connection: &mut Connection<IO>,
        cx: &mut Context<'_>,
    ) -> Poll<CloseReason> {
        loop {
            match connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => {
                    self.inbound(stream);
                    continue;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(reason(&error)),
                Poll::Ready(None) => {
                    return Poll::Ready(CloseReason::Peer("connection ended".to_owned()));
                }
                Poll::Pending => {}
            }
            match self.poll_outbound(connection, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(reason)) => return Poll::Ready(reason),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Serves one open request; pending when there is none or the connection cannot.
    fn poll_outbound<IO: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        connection: &mut Connection<IO>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        if self.waiting.is_none() {
            match self.opens.poll_recv(cx) {
                Poll::Ready(Some(request)) => self.waiting = Some(request),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
        let gone = match &mut self.waiting {
            Some(request) => request.poll_closed(cx).is_ready(),
            None => true,
        };
        if gone {
            self.waiting = None;
            return Poll::Ready(Ok(()));
        }
        // yamux ends the connection when its own bound is met.
        if self.shared.wire.streams() + self.shared.config.max_pending_opens
            >= self.shared.config.yamux_streams()
        {
            self.waiting = None;
            return Poll::Ready(Ok(()));
        }
        match connection.poll_new_outbound(cx) {
            Poll::Ready(Ok(stream)) => {
                let stream = RawStream::new(stream, self.shared.wire.clone());
                if let Some(request) = self.waiting.take() {
                    _ = request.send(stream);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(reason(&error))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn inbound(&mut self, stream: yamux::Stream) {
        let mut raw = RawStream::new(stream, self.shared.wire.clone());
        if let Some(control) = self.control.take() {
            _ = control.send(raw);
            return;
        }
        let refusal = if self.shared.draining.load(Ordering::Acquire) {
            Some((RefusalCode::Draining, "no new streams here"))
        } else {
            None
        };
        let slot = match refusal {
            Some(_) => None,
            None => self.shared.reserve(Direction::In),
        };
        let (Some(slot), Some(handle)) = (slot, self.handle.upgrade()) else {
            let (code, text) =
                refusal.unwrap_or((RefusalCode::Busy, "too many streams or pending opens"));
            let count = self.refusing.fetch_add(1, Ordering::AcqRel);
            let done = Refusing(self.refusing.clone());
            // Beyond the cap the stream is only reset.
            if count < self.shared.config.max_pending_opens {
                let shared = self.shared.clone();
                tokio::spawn(async move {
                    refuse(&mut raw, &shared, code, text).await;
                    drop(done);
                });
            }
            return;
        };
        let incoming = self.incoming.clone();
        let shared = self.shared.clone();
        let stream = TunnelStream::new(raw, slot, handle);
        tokio::spawn(async move { receive(stream, shared, incoming).await });
    }
}

struct Refusing(Arc<AtomicUsize>);

impl Drop for Refusing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Reads the header of an inbound stream and hands the stream over.
async fn receive(
    mut stream: TunnelStream,
    shared: Arc<Shared>,
    incoming: mpsc::Sender<IncomingStream>,
) {
    let arrived = Instant::now();
    let limit = shared.config.open_timeout;
    let header = match timeout(limit, read_header(&mut stream)).await {
        Ok(Ok(header)) => header,
        Ok(Err(reason)) => {
            tracing::debug!(
                stream = stream.id(),
                reason,
                "reset a stream without a header"
            );
            return;
        }
        Err(_) => {
            tracing::debug!(stream = stream.id(), "reset a stream whose header is late");
            return;
        }
    };
    let asked = match header.deadline_ms {
        0 => limit,
        millis => Duration::from_millis(u64::from(millis)),
    };
    let accepted = IncomingStream::new(header, stream, shared.clone(), arrived + asked.min(limit));
    // Never full: its capacity is the cap on pending opens.
    if let Err(mpsc::error::TrySendError::Closed(stream)) = incoming.try_send(accepted) {
        stream
            .refuse(RefusalCode::Draining, "nobody takes streams here")
            .await;
    }
}

async fn read_header(stream: &mut TunnelStream) -> Result<OpenHeader, &'static str> {
    let mut block = bytes::BytesMut::zeroed(2);
    stream
        .read_exact(&mut block)
        .await
        .map_err(|_| "stream ended")?;
    let length = peek_length(&block, MAX_HEADER_BYTES)
        .ok()
        .flatten()
        .ok_or("header is too long")?;
    block.resize(2 + length, 0);
    stream
        .read_exact(&mut block[2..])
        .await
        .map_err(|_| "stream ended within the header")?;
    OpenHeader::decode(&mut block)
        .ok()
        .flatten()
        .ok_or("header is malformed")
}

/// Says no. The stream ends after it; the peer's half needs no reset, as nothing of it counts.
pub(crate) async fn refuse(raw: &mut RawStream, shared: &Shared, code: RefusalCode, text: &str) {
    shared.metrics().refused_here(code);
    let reply = OpenReply::Refused {
        code,
        message: text.to_owned(),
    }
    .encode();
    let said = timeout(shared.config.open_timeout, async {
        raw.write_all(&reply).await?;
        raw.shutdown().await
    });
    if let Ok(Ok(())) = said.await {
        raw.forget_quietly();
    }
}

fn reason(error: &yamux::ConnectionError) -> CloseReason {
    match error {
        yamux::ConnectionError::Io(error) => CloseReason::Carrier(error.to_string()),
        yamux::ConnectionError::Closed => CloseReason::Peer("connection ended".to_owned()),
        other => CloseReason::Protocol(other.to_string()),
    }
}
