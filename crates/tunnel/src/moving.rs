//! A stream that moves to another session while bytes flow.
//!
//! Nobody knows at its opening whether a stream will carry a key press or a gigabyte, and one
//! TCP connection serves both badly: the key press waits behind the gigabyte. So streams
//! start on the interactive session, and one that turns out bulky goes on at the bulk one.
//!
//! ```text
//!  opener                                              acceptor
//!  open(service, key) ──── interactive ──────────────▶ accept, remembered by key
//!  bytes ◀═══════════════════════════════════════════▶ bytes
//!  bulky: open("move", key) ──── bulk ───────────────▶ found by key, accepted
//!  end of old, then bytes on new ═══════════════════▶ old to its end, then new
//!  old to its end, then new ◀═══════════════════════ end of old, then bytes on new
//! ```
//!
//! Each direction ends on the old stream and goes on at the new one, so that bytes stay in
//! order without numbers or copies. While a move is under way an end of the old stream may be
//! either kind; it is held back until the move is decided. A move that is refused changes
//! nothing; of one whose outcome cannot be known the stream is reset, never cut short.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

use crate::{
    error::OpenError,
    session::{IncomingStream, Session},
    stream::TunnelStream,
    wire::{Class, OpenHeader, RefusalCode},
};

/// Service of the stream that goes on for another one; its target is that one's key.
pub const MOVE: &str = "move";

/// Bytes of both directions within [`BULKY_TIME`] that make a stream bulky.
const BULKY_BYTES: u64 = 1024 * 1024;
/// See [`BULKY_BYTES`].
const BULKY_TIME: Duration = Duration::from_secs(1);

/// Whose streams they are, and the key of one.
type Place = (String, String);
type Waiting = HashMap<Place, oneshot::Sender<IncomingStream>>;

/// Accepted streams that may move; a clone is the same set.
#[derive(Clone, Default)]
pub struct Moves {
    waiting: Arc<Mutex<Waiting>>,
}

impl Moves {
    /// An accepted stream of `owner` (a name of the peer: it can move its own streams only) that
    /// moves when the peer says so; one without a key stays for ever.
    pub fn accepted(&self, owner: &str, key: Option<&str>, stream: TunnelStream) -> MovingStream {
        let Some(key) = key else {
            return MovingStream::staying(stream);
        };
        let place = (owner.to_owned(), key.to_owned());
        let (sender, receiver) = oneshot::channel();
        // A key used twice is the later stream's.
        self.lock().insert(place.clone(), sender);
        let remembered = Remembered {
            moves: self.clone(),
            place,
            receiver,
        };
        MovingStream::new(stream, Next::Asked(remembered))
    }

    /// Hands a stream of service [`MOVE`] to the one that it goes on for, or refuses it.
    pub async fn hand_over(&self, owner: &str, stream: IncomingStream) {
        let key = stream.header().target.clone().unwrap_or_default();
        let waiting = self.lock().remove(&(owner.to_owned(), key));
        let left = match waiting {
            Some(waiting) => waiting.send(stream).err(),
            None => Some(stream),
        };
        if let Some(stream) = left {
            stream
                .refuse(RefusalCode::UnknownService, "no such stream, or it ends")
                .await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one accepted stream, given up with it.
struct Remembered {
    moves: Moves,
    place: Place,
    receiver: oneshot::Receiver<IncomingStream>,
}

impl Drop for Remembered {
    fn drop(&mut self) {
        self.receiver.close();
        let mut waiting = self.moves.lock();
        // Not that of a later stream with the same key.
        if waiting
            .get(&self.place)
            .is_some_and(oneshot::Sender::is_closed)
        {
            waiting.remove(&self.place);
        }
    }
}

/// Gives the session to move to, if there is one now.
type Target = Box<dyn FnOnce() -> Option<Session> + Send>;

/// What may come.
enum Next {
    /// This side opened the stream, and moves it once it is bulky.
    Bulky { target: Target, key: String },
    /// The peer opened it, and may move it.
    Asked(Remembered),
    /// A move is under way.
    Moving(BoxFuture<'static, Outcome>),
    /// Nothing.
    Stays,
}

enum Outcome {
    Moved(TunnelStream),
    Refused,
    /// The peer may have moved or not.
    Lost(String),
}

/// Counts until a stream is bulky.
struct Meter {
    since: Instant,
    bytes: u64,
    bulky: bool,
}

impl Meter {
    fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        // The clock is read once per so many bytes.
        if self.bytes < BULKY_BYTES || self.bulky {
            return;
        }
        let now = Instant::now();
        self.bulky = now.duration_since(self.since) <= BULKY_TIME;
        (self.since, self.bytes) = (now, 0);
    }
}

/// A stream that may move; it is used like a [`TunnelStream`], in one task.
pub struct MovingStream {
    /// None once both of its directions ended.
    old: Option<TunnelStream>,
    old_read: bool,
    old_shut: bool,
    /// Where it goes on.
    new: Option<TunnelStream>,
    next: Next,
    meter: Meter,
    /// The end was given to the reader.
    read_ended: bool,
    write_ended: bool,
}

impl MovingStream {
    /// A stream that this side opened with `key` in its header's `moves`. Once it is bulky it
    /// moves to the session that `target` gives then.
    pub fn opened(
        stream: TunnelStream,
        key: String,
        target: impl FnOnce() -> Option<Session> + Send + 'static,
    ) -> Self {
        let target = Box::new(target);
        Self::new(stream, Next::Bulky { target, key })
    }

    /// A stream that stays where it is.
    pub fn staying(stream: TunnelStream) -> Self {
        Self::new(stream, Next::Stays)
    }

    fn new(old: TunnelStream, next: Next) -> Self {
        Self {
            old: Some(old),
            old_read: false,
            old_shut: false,
            new: None,
            next,
            meter: Meter {
                since: Instant::now(),
                bytes: 0,
                bulky: false,
            },
            read_ended: false,
            write_ended: false,
        }
    }

    /// A key for the header of a stream that is to be opened.
    pub fn key() -> String {
        uuid::Uuid::new_v4().to_string()
    }

    /// Whether it has moved.
    pub fn has_moved(&self) -> bool {
        self.new.is_some()
    }

    /// Goes on with a move. Ready unless one is under way; fails when the stream is lost.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.next {
                Next::Stays => return Poll::Ready(Ok(())),
                Next::Bulky { .. } => {
                    let idle = self.read_ended || self.write_ended;
                    if !self.meter.bulky || idle {
                        return Poll::Ready(Ok(()));
                    }
                    self.begin();
                }
                Next::Asked(place) => match Pin::new(&mut place.receiver).poll(cx) {
                    Poll::Pending => return Poll::Ready(Ok(())),
                    Poll::Ready(Err(_)) => self.next = Next::Stays,
                    Poll::Ready(Ok(stream)) => {
                        let ended = self.read_ended || self.write_ended;
                        self.next = Next::Moving(Box::pin(answer(stream, ended)));
                    }
                },
                Next::Moving(moving) => {
                    let outcome = ready!(moving.as_mut().poll(cx));
                    self.next = Next::Stays;
                    match outcome {
                        Outcome::Moved(stream) => self.new = Some(stream),
                        Outcome::Refused => {}
                        Outcome::Lost(reason) => {
                            tracing::info!(reason, "a stream was lost while it moved");
                            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                        }
                    }
                }
            }
        }
    }

    fn begin(&mut self) {
        let Next::Bulky { target, key } = std::mem::replace(&mut self.next, Next::Stays) else {
            return;
        };
        if let Some(session) = target() {
            self.next = Next::Moving(Box::pin(ask(session, key)));
        }
    }

    /// Ends the old stream's direction to the peer.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(old) = self.old.as_mut().filter(|_| !self.old_shut) {
            ready!(Pin::new(old).poll_shutdown(cx))?;
            self.old_shut = true;
            self.let_go();
        }
        Poll::Ready(Ok(()))
    }

    /// Reads from the old stream until its end, which is remembered.
    fn poll_old(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(old) = self.old.as_mut().filter(|_| !self.old_read) {
            let before = buffer.filled().len();
            ready!(Pin::new(old).poll_read(cx, buffer))?;
            self.old_read = buffer.filled().len() == before;
            self.let_go();
        }
        Poll::Ready(Ok(()))
    }

    fn let_go(&mut self) {
        if self.old_read && self.old_shut {
            self.old = None;
        }
    }

    /// The stream that is written to.
    fn current(&mut self) -> io::Result<Pin<&mut TunnelStream>> {
        let stream = self.new.as_mut().or(self.old.as_mut());
        stream
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

/// The opener's half of a move.
async fn ask(session: Session, key: String) -> Outcome {
    let mut header = OpenHeader::new(Class::Bulk, MOVE);
    header.target = Some(key);
    match session.open(header).await {
        Ok(stream) => {
            session.shared().metrics().moved();
            Outcome::Moved(stream)
        }
        // Said by the peer, or never asked of it.
        Err(
            OpenError::Refused { .. }
            | OpenError::Busy
            | OpenError::Draining
            | OpenError::Header { .. },
        ) => Outcome::Refused,
        Err(error) => Outcome::Lost(error.to_string()),
    }
}

/// The acceptor's half of a move.
async fn answer(stream: IncomingStream, ended: bool) -> Outcome {
    if ended {
        stream
            .refuse(RefusalCode::UnknownService, "the stream ends")
            .await;
        return Outcome::Refused;
    }
    match stream.accept().await {
        Ok(stream) => Outcome::Moved(stream),
        Err(error) => Outcome::Lost(error.to_string()),
    }
}

impl AsyncRead for MovingStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read_ended || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let decided = this.poll_next(cx)?;
        if this.new.is_some() {
            // A direction that carries nothing moves as well, or the peer would wait for it.
            _ = this.poll_leave(cx)?;
        }
        let before = buffer.filled().len();
        ready!(this.poll_old(cx, buffer))?;
        if this.old_read {
            // Which kind of end it is becomes clear when the move is decided.
            ready!(decided);
            if let Some(new) = &mut this.new {
                ready!(Pin::new(new).poll_read(cx, buffer))?;
            }
            this.read_ended = buffer.filled().len() == before;
        }
        this.meter.count(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MovingStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        _ = this.poll_next(cx)?;
        if this.new.is_some() {
            ready!(this.poll_leave(cx))?;
        }
        let count = ready!(this.current()?.poll_write(cx, bytes))?;
        this.meter.count(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut().current() {
            Ok(stream) => stream.poll_flush(cx),
            // Ended: nothing waits.
            Err(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // An end that the peer sees while a move is under way would have two meanings.
        ready!(this.poll_next(cx))?;
        ready!(this.poll_leave(cx))?;
        if let Some(new) = &mut this.new {
            ready!(Pin::new(new).poll_shutdown(cx))?;
        }
        this.write_ended = true;
        Poll::Ready(Ok(()))
    }
}
