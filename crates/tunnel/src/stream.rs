//! One stream of a session.
//!
//! [`RawStream`] gives a yamux stream honest ends; [`TunnelStream`] adds what belongs to an open
//! stream of a session: its place in the counts, and keeping the session alive.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use futures::{AsyncRead as _, AsyncWrite as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop,
};

use crate::{
    carrier::{Signal, Wire},
    shared::{Handle, Slot},
};

/// A yamux stream that tells an end from a cut, in both directions.
pub(crate) struct RawStream {
    inner: yamux::Stream,
    id: u32,
    signal: Arc<Signal>,
    wire: Arc<Wire>,
    read_ended: bool,
    write_ended: bool,
    quiet: bool,
    outlives: bool,
}

impl RawStream {
    pub(crate) fn new(inner: yamux::Stream, wire: Arc<Wire>) -> Self {
        let id = inner.id().val();
        Self {
            signal: wire.register(id),
            inner,
            id,
            wire,
            read_ended: false,
            write_ended: false,
            quiet: false,
            outlives: false,
        }
    }

    /// Lets a later drop pass without a reset, for a stream whose end was already said.
    pub(crate) fn forget_quietly(&mut self) {
        self.quiet = true;
    }

    /// Keeps the stream usable while the session ends, for its last words.
    pub(crate) fn outlive_session(&mut self) {
        self.outlives = true;
    }

    fn broken(&self) -> bool {
        // For last words only what has arrived counts, and yamux keeps that.
        !self.outlives && (self.wire.has_ended() || self.signal.reset.load(Ordering::Acquire))
    }

    fn failure(&self) -> Option<io::Error> {
        // What the peer ended on purpose is complete, whatever happened after.
        let failed = self.broken() && !self.signal.fin.load(Ordering::Acquire);
        failed.then(|| io::ErrorKind::ConnectionReset.into())
    }

    fn write_failure(&self) -> Option<io::Error> {
        self.broken().then(|| io::ErrorKind::ConnectionReset.into())
    }

    fn writing<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut yamux::Stream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Some(error) = self.write_failure() {
            return Poll::Ready(Err(error));
        }
        if self.write_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        match poll(Pin::new(&mut self.inner), cx) {
            // The only way for yamux to fail here is that the stream is gone.
            Poll::Ready(Err(_)) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Poll::Ready(Ok(value)) => Poll::Ready(Ok(value)),
            Poll::Pending => {
                self.signal.writer.register(cx.waker());
                match self.write_failure() {
                    Some(error) => Poll::Ready(Err(error)),
                    None => Poll::Pending,
                }
            }
        }
    }
}

impl AsyncRead for RawStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read_ended || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = this.failure() {
            return Poll::Ready(Err(error));
        }
        // yamux does not take part in the runtime's budget; a fast peer would keep a reader busy.
        let progress = ready!(coop::poll_proceed(cx));
        let space = buffer.initialize_unfilled();
        match Pin::new(&mut this.inner).poll_read(cx, space) {
            Poll::Ready(Ok(0)) if this.signal.fin.load(Ordering::Acquire) => {
                this.read_ended = true;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Poll::Ready(Ok(count)) => {
                progress.made_progress();
                buffer.advance(count);
                this.wire.consumed(&this.signal, count);
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                this.signal.reader.register(cx.waker());
                match this.failure() {
                    Some(error) => Poll::Ready(Err(error)),
                    None => Poll::Pending,
                }
            }
        }
    }
}

impl AsyncWrite for RawStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.get_mut()
            .writing(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.write_ended {
            return Poll::Ready(Ok(()));
        }
        this.writing(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.write_ended {
            return Poll::Ready(Ok(()));
        }
        let result = this.writing(cx, |stream, cx| stream.poll_close(cx));
        if matches!(result, Poll::Ready(Ok(()))) {
            this.write_ended = true;
        }
        result
    }
}

impl Drop for RawStream {
    fn drop(&mut self) {
        let finished = self.read_ended && self.write_ended;
        let broken = self.signal.reset.load(Ordering::Acquire) || self.wire.has_ended();
        // Before yamux drops its half: its own FIN for the stream must come after.
        if !finished && !broken && !self.quiet {
            self.wire.send_reset(self.id);
        }
        self.wire.unregister(self.id);
    }
}

/// An open stream: bytes both ways with half-close.
///
/// `shutdown` ends this side's direction; the other keeps working. A stream that is dropped
/// before both directions ended is reset: the peer's reads and writes fail with
/// `ConnectionReset` at once and bytes under way may be lost. The same error is what this side
/// sees when the peer or the session breaks off. A session lives as long as its streams.
pub struct TunnelStream {
    // Dropped in this order: the place becomes free when the stream is gone.
    raw: RawStream,
    slot: Slot,
    _handle: Arc<Handle>,
}

impl TunnelStream {
    pub(crate) fn new(raw: RawStream, slot: Slot, handle: Arc<Handle>) -> Self {
        Self {
            raw,
            slot,
            _handle: handle,
        }
    }

    pub(crate) fn promote(&mut self) {
        self.slot.promote();
    }

    pub(crate) fn raw_mut(&mut self) -> &mut RawStream {
        &mut self.raw
    }

    /// Number of the stream within its session, for logs; never reused.
    pub fn id(&self) -> u32 {
        self.raw.id
    }
}

impl std::fmt::Debug for TunnelStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TunnelStream")
            .field("id", &self.raw.id)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.raw).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.raw).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.raw).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.raw).poll_shutdown(cx)
    }
}
