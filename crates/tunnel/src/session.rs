//! The session as its users see it.

use std::{
    fmt, io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::BytesMut;
use futures::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};

use crate::{
    config::Config,
    driver::{Driver, refuse},
    error::{CloseReason, OpenError, SessionError},
    liveness::{Liveness, exchange_hello},
    shared::{Direction, Handle, OpenRequest, Say, Shared, Slot},
    stream::{RawStream, TunnelStream},
    wire::{Class, Hello, OpenHeader, OpenReply, RefusalCode},
};

/// A handle on one live session; a clone is the same session.
///
/// The session closes when the last handle, [`Incoming`] and stream of it are gone.
#[derive(Clone)]
pub struct Session {
    handle: Arc<Handle>,
    peer: Arc<Hello>,
}

/// Counts of one session at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Open streams, both directions.
    pub open_streams: usize,
    /// Opens by the peer that wait for this side's reply.
    pub pending_in: usize,
    /// Opens by this side that wait for the peer's reply.
    pub pending_out: usize,
    /// Bytes received that no consumer has read.
    pub buffered: u64,
    /// Round trip of the last echo; `None` before the first reply.
    pub echo_rtt: Option<Duration>,
}

impl Session {
    /// Dialling half. `io` is an established carrier (TLS done). Ends with the peer's hello
    /// or an error within `config.open_timeout`.
    pub async fn connect<IO>(
        io: IO,
        hello: Hello,
        config: Config,
    ) -> Result<(Self, Incoming), SessionError>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let start = Start::new(io, config, yamux::Mode::Client);
        start.finish(hello).await
    }

    /// Accepting half of [`Session::connect`].
    pub async fn accept<IO>(
        io: IO,
        hello: Hello,
        config: Config,
    ) -> Result<(Self, Incoming), SessionError>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let start = Start::new(io, config, yamux::Mode::Server);
        start.finish(hello).await
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// What the peer said of itself.
    pub fn peer(&self) -> &Hello {
        &self.peer
    }

    /// Opens a stream and waits for the peer's reply, at most `header.deadline_ms` and
    /// `open_timeout`. Dropping the future takes the open back at the peer too.
    pub async fn open(&self, header: OpenHeader) -> Result<TunnelStream, OpenError> {
        let shared = self.shared();
        let limit = shared.config.open_timeout;
        let deadline = match header.deadline_ms {
            0 => limit,
            millis => Duration::from_millis(u64::from(millis)).min(limit),
        };
        let block = header
            .encode()
            .map_err(|source| OpenError::Header { source })?;
        if let Some(reason) = shared.close_reason() {
            return Err(OpenError::Closed { reason });
        }
        if *shared.peer_draining.borrow() {
            return Err(OpenError::Draining);
        }
        let slot = shared.reserve(Direction::Out).ok_or(OpenError::Busy)?;
        match timeout(deadline, self.open_within(&block, slot)).await {
            Ok(result) => result,
            Err(_) => Err(OpenError::Timeout { deadline }),
        }
    }

    async fn open_within(&self, block: &[u8], slot: Slot) -> Result<TunnelStream, OpenError> {
        let shared = self.shared();
        let (request, granted) = oneshot::channel();
        if shared.opens.send(request).await.is_err() {
            return Err(self.closed_error());
        }
        let Ok(raw) = granted.await else {
            return Err(match shared.close_reason() {
                Some(reason) => OpenError::Closed { reason },
                None => OpenError::Busy,
            });
        };
        let mut stream = TunnelStream::new(raw, slot, self.handle.clone());
        if let Err(source) = stream.write_all(block).await {
            return Err(self.stream_error(source));
        }
        match read_reply(&mut stream).await {
            Ok(Ok(OpenReply::Ok)) => {
                stream.promote();
                Ok(stream)
            }
            Ok(Ok(OpenReply::Refused { code, message })) => {
                shared.metrics().refused_by_peer(code);
                stream.raw_mut().forget_quietly();
                Err(OpenError::Refused { code, message })
            }
            Ok(Err(source)) => Err(OpenError::Reply { source }),
            Err(source) => Err(self.stream_error(source)),
        }
    }

    fn closed_error(&self) -> OpenError {
        let reason = self.shared().close_reason();
        OpenError::Closed {
            reason: reason.unwrap_or_else(|| CloseReason::Carrier("driver stopped".to_owned())),
        }
    }

    fn stream_error(&self, source: io::Error) -> OpenError {
        match self.shared().close_reason() {
            Some(reason) => OpenError::Closed { reason },
            None => OpenError::Stream { source },
        }
    }

    /// Tells the peer to open no new streams here, and refuses those that come anyway with
    /// [`RefusalCode::Draining`]. Open streams go on. Returns when the message is on its way.
    pub async fn drain(&self) {
        self.shared().draining.store(true, Ordering::Release);
        let (done, said) = oneshot::channel();
        if self.shared().say.send(Say::Drain(done)).await.is_ok() {
            _ = said.await;
        }
    }

    /// True when the peer asked for no new streams.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.shared().peer_draining.subscribe()
    }

    /// Ends the session: every stream fails at once, the peer is told why if it can be reached.
    pub fn close(&self, reason: &str) {
        self.shared().finish(CloseReason::Local(reason.to_owned()));
    }

    /// Waits for the end of the session.
    pub async fn closed(&self) -> CloseReason {
        self.shared().closed().await
    }

    /// True when the session is over.
    pub fn is_closed(&self) -> bool {
        self.shared().close_reason().is_some()
    }

    /// Counts right now.
    pub fn stats(&self) -> Stats {
        let (open_streams, pending_in, pending_out) = self.shared().counts();
        Stats {
            open_streams,
            pending_in,
            pending_out,
            buffered: self.shared().wire.buffered(),
            echo_rtt: self.shared().rtt(),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Session")
            .field("peer", &self.peer)
            .field("closed", &self.shared().close_reason())
            .finish_non_exhaustive()
    }
}

async fn read_reply(
    stream: &mut TunnelStream,
) -> io::Result<Result<OpenReply, crate::wire::DecodeError>> {
    let mut buffer = BytesMut::new();
    loop {
        let filled = buffer.len();
        buffer.resize(filled + OpenReply::missing(&buffer), 0);
        stream.read_exact(&mut buffer[filled..]).await?;
        match OpenReply::decode(&mut buffer) {
            Ok(Some(reply)) => return Ok(Ok(reply)),
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
}

/// The control stream, what was read behind the peer's hello, and the hello.
type Exchanged = Result<(RawStream, BytesMut, Hello), SessionError>;

/// A session before its hello.
struct Start {
    handle: Arc<Handle>,
    control: oneshot::Receiver<RawStream>,
    control_done: oneshot::Sender<()>,
    say: mpsc::Receiver<Say>,
    incoming: Incoming,
    driver: BoxFuture<'static, ()>,
    mode: yamux::Mode,
}

impl Start {
    /// Makes the driver and asks for the control stream.
    fn new<IO>(io: IO, config: Config, mode: yamux::Mode) -> Self
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let capacity = config.max_pending_opens.max(1);
        let (open_sender, opens) = mpsc::channel::<OpenRequest>(capacity);
        let (say_sender, say) = mpsc::channel(4);
        let (incoming, streams) = mpsc::channel(capacity);
        let (control_sender, control) = oneshot::channel();
        let (control_done, done) = oneshot::channel();
        let shared = Shared::new(config, open_sender, say_sender);
        let accepting = match mode {
            yamux::Mode::Client => {
                // The first request in an empty queue; it cannot fail.
                _ = shared.opens.try_send(control_sender);
                None
            }
            yamux::Mode::Server => Some(control_sender),
        };
        let handle = Arc::new(Handle {
            shared: shared.clone(),
        });
        let driver = Driver {
            shared,
            handle: Arc::downgrade(&handle),
            opens,
            incoming,
            control: accepting,
            control_done: done,
        };
        Self {
            driver: Box::pin(driver.run(io, mode)),
            mode,
            incoming: Incoming {
                streams,
                _handle: handle.clone(),
            },
            handle,
            control,
            control_done,
            say,
        }
    }

    /// Exchanges hellos and starts driver and liveness task. On failure everything else is
    /// dropped, which ends the driver once it has said its last words.
    async fn finish(mut self, hello: Hello) -> Result<(Session, Incoming), SessionError> {
        let (exchanged, driver) = self.exchange(&hello).await;
        let class = match (&exchanged, self.mode) {
            (Ok((_, _, peer)), yamux::Mode::Server) => peer.class,
            _ => hello.class,
        };
        let runtime = self.handle.shared.config.bulk.clone();
        match runtime.filter(|_| class == Class::Bulk) {
            Some(bulk) => bulk.spawn(driver),
            None => tokio::spawn(driver),
        };
        let (control, inbox, peer) = exchanged?;
        let liveness = Liveness::new(self.handle.shared.clone(), control, inbox);
        let say = self.say;
        let done = self.control_done;
        tokio::spawn(async move {
            liveness.run(say).await;
            drop(done);
        });
        let session = Session {
            handle: self.handle,
            peer: Arc::new(peer),
        };
        Ok((session, self.incoming))
    }

    /// The hellos; the driver runs meanwhile, and is given back.
    async fn exchange(&mut self, hello: &Hello) -> (Exchanged, BoxFuture<'static, ()>) {
        let mut driver = std::mem::replace(&mut self.driver, Box::pin(std::future::pending()));
        let mut over = false;
        let hellos = self.hellos(hello);
        tokio::pin!(hellos);
        let exchanged = loop {
            tokio::select! {
                exchanged = &mut hellos => break exchanged,
                () = &mut driver, if !over => over = true,
            }
        };
        if over {
            driver = Box::pin(std::future::ready(()));
        }
        (exchanged, driver)
    }

    async fn hellos(&mut self, hello: &Hello) -> Exchanged {
        let shared = self.handle.shared.clone();
        let limit = shared.config.open_timeout;
        let mut inbox = BytesMut::new();
        let control = &mut self.control;
        let exchange = async {
            let Ok(mut control) = control.await else {
                let reason = shared.closed().await;
                return Err(SessionError::OpenControl { reason });
            };
            control.outlive_session();
            let peer = exchange_hello(&mut control, &mut inbox, hello).await;
            Ok((control, peer))
        };
        let (mut control, peer) = match timeout(limit, exchange).await {
            Ok(done) => done?,
            Err(_) => return Err(SessionError::HelloTimeout { timeout: limit }),
        };
        let peer = match peer {
            Ok(peer) => peer,
            Err(error) => {
                // The peer shall read our hello, to say the same of the versions.
                control.forget_quietly();
                shared.finish(CloseReason::Local(error.to_string()));
                return Err(error);
            }
        };
        Ok((control, inbox, peer))
    }
}

/// Streams that the peer opens.
pub struct Incoming {
    streams: mpsc::Receiver<IncomingStream>,
    _handle: Arc<Handle>,
}

impl Incoming {
    /// The next stream whose header arrived; `None` when the session is over. Cancel-safe.
    ///
    /// While nobody asks, up to `max_pending_opens` wait; more are refused as busy.
    pub async fn next(&mut self) -> Option<IncomingStream> {
        self.streams.recv().await
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Incoming").finish_non_exhaustive()
    }
}

/// A stream that the peer wants open. Dropping it resets the stream.
pub struct IncomingStream {
    header: OpenHeader,
    stream: TunnelStream,
    shared: Arc<Shared>,
    deadline: Instant,
}

impl IncomingStream {
    pub(crate) fn new(
        header: OpenHeader,
        stream: TunnelStream,
        shared: Arc<Shared>,
        deadline: Instant,
    ) -> Self {
        Self {
            header,
            stream,
            shared,
            deadline,
        }
    }

    /// What the peer asks for. Authorise by it.
    pub fn header(&self) -> &OpenHeader {
        &self.header
    }

    /// When the peer stops waiting; dials for this stream should end by then.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Says yes. Fails with `TimedOut` after the deadline and with `ConnectionReset` when the
    /// peer took the open back.
    pub async fn accept(mut self) -> Result<TunnelStream, io::Error> {
        let reply = OpenReply::Ok.encode();
        if Instant::now() >= self.deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.write_all(&reply).await?;
        self.stream.promote();
        Ok(self.stream)
    }

    /// Says no, with a text for people (cut to [`crate::MAX_REFUSAL_BYTES`]).
    pub async fn refuse(mut self, code: RefusalCode, message: &str) {
        refuse(self.stream.raw_mut(), &self.shared, code, message).await;
    }
}

impl fmt::Debug for IncomingStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("IncomingStream")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}
