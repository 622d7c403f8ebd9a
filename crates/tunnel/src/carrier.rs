//! The byte stream below the multiplexer, with what the multiplexer does not give.
//!
//! [`Carrier`] sits between yamux and TLS. It
//! - gathers yamux' small writes, so that TLS sees large ones: yamux flushes after each frame and
//!   writes each 12-byte header alone, which would cost a TLS record and a system call each.
//!   Written out when [`OUT_BYTES`] are waiting and before every read, thus before
//!   the driver sleeps;
//! - follows the frame headers in both directions, to know per stream whether the peer ended it
//!   (FIN) or broke it off (RST): yamux reports both as end of file;
//! - puts RST frames in between frames for streams that were dropped half way: yamux sends
//!   nothing (the peer waits for credit for ever) or FIN (the peer takes a cut for an end);
//! - counts what is received and not read, and resets the largest stream beyond the bound.
//!
//! [`Wire`] is the part shared with the streams.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use futures::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::{bulk::give_way, metrics::Metrics};

/// Bytes that wait before a write to the carrier is forced: two frames. Server kernels do not
/// preempt system calls, so larger writes keep a core from what is urgent for longer and are
/// no faster; single frames cost a third of the throughput.
const OUT_BYTES: usize = 32 * 1024;
/// Bytes in either direction before the driver lets other tasks run; some 0.1 ms of work.
const TURN_BYTES: usize = 128 * 1024;
/// A write of this size makes room for a full buffer at once instead of growing it.
const LARGE_BYTES: usize = 4096;

const HEADER_BYTES: usize = 12;
const TYPE_DATA: u8 = 0;
const TYPE_GO_AWAY: u8 = 3;
const FLAG_SYN: u16 = 1;
const FLAG_FIN: u16 = 4;
const FLAG_RST: u16 = 8;

/// State of one stream that its reader and writer look at.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    /// The peer ended its direction on purpose and all of it has arrived.
    pub(crate) fin: AtomicBool,
    /// The stream was broken off, by the peer or by a bound.
    pub(crate) reset: AtomicBool,
    /// Received and not yet read; may pass below zero for a moment.
    buffered: AtomicI64,
    pub(crate) reader: AtomicWaker,
    pub(crate) writer: AtomicWaker,
}

impl Signal {
    fn wake(&self) {
        self.reader.wake();
        self.writer.wake();
    }
}

/// What carrier, driver and streams of one session share.
#[derive(Debug)]
pub(crate) struct Wire {
    signals: Mutex<HashMap<u32, Arc<Signal>>>,
    resets: Mutex<Vec<u32>>,
    any_resets: AtomicBool,
    ended: AtomicBool,
    buffered: AtomicI64,
    max_buffered: i64,
    epoch: Instant,
    /// Milliseconds from `epoch` to the last byte received.
    last_received: AtomicU64,
    metrics: Metrics,
}

impl Wire {
    pub(crate) fn new(max_buffered: usize, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            signals: Mutex::default(),
            resets: Mutex::default(),
            any_resets: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            buffered: AtomicI64::new(0),
            max_buffered: i64::try_from(max_buffered).unwrap_or(i64::MAX),
            epoch: Instant::now(),
            last_received: AtomicU64::new(0),
            metrics,
        })
    }

    /// True when the session is over: nothing more arrives.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Fails every stream at once. Repeating it changes nothing.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        for signal in self.signals().values() {
            signal.wake();
        }
    }

    /// When the last byte arrived: a sign of life.
    pub(crate) fn last_received(&self) -> Instant {
        self.epoch + Duration::from_millis(self.last_received.load(Ordering::Relaxed))
    }

    fn received(&self, bytes: usize) {
        let millis = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_received.store(millis, Ordering::Relaxed);
        self.metrics.bytes_in.inc_by(bytes as u64);
    }

    /// Bytes received and not read by consumers.
    pub(crate) fn buffered(&self) -> u64 {
        u64::try_from(self.buffered.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Streams known to this session, the control stream included.
    pub(crate) fn streams(&self) -> usize {
        self.signals().len()
    }

    /// The signal of a stream, made when absent.
    pub(crate) fn register(&self, id: u32) -> Arc<Signal> {
        self.signals().entry(id).or_default().clone()
    }

    /// Forgets a stream and what it left unread.
    pub(crate) fn unregister(&self, id: u32) {
        if let Some(signal) = self.signals().remove(&id) {
            let left = signal.buffered.load(Ordering::Relaxed);
            self.buffered.fetch_sub(left, Ordering::Relaxed);
        }
    }

    /// Has the carrier tell the peer that the stream is broken off. The caller drops the stream
    /// afterwards, which wakes the driver.
    pub(crate) fn send_reset(&self, id: u32) {
        lock(&self.resets).push(id);
        self.any_resets.store(true, Ordering::Release);
        self.metrics.reset();
    }

    pub(crate) fn consumed(&self, signal: &Signal, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(0);
        signal.buffered.fetch_sub(bytes, Ordering::Relaxed);
        self.buffered.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn signals(&self) -> MutexGuard<'_, HashMap<u32, Arc<Signal>>> {
        lock(&self.signals)
    }

    fn take_resets(&self) -> Vec<u32> {
        if self.any_resets.swap(false, Ordering::AcqRel) {
            std::mem::take(&mut *lock(&self.resets))
        } else {
            Vec::new()
        }
    }

    /// A whole frame has arrived and yamux is about to see it.
    fn frame_arrived(&self, header: FrameHeader) {
        if header.kind == TYPE_GO_AWAY {
            self.end();
            return;
        }
        let marks = header.flags & (FLAG_SYN | FLAG_FIN | FLAG_RST) != 0;
        if !marks && header.body == 0 {
            return;
        }
        let mut signals = self.signals();
        let signal = if header.flags & FLAG_SYN != 0 {
            signals.entry(header.stream).or_default().clone()
        } else {
            match signals.get(&header.stream) {
                Some(signal) => signal.clone(),
                None => return,
            }
        };
        let body = i64::try_from(header.body).unwrap_or(0);
        signal.buffered.fetch_add(body, Ordering::Relaxed);
        let total = self.buffered.fetch_add(body, Ordering::Relaxed) + body;
        // After a reset, the end is only yamux giving up its half.
        if header.flags & FLAG_FIN != 0 && !signal.reset.load(Ordering::Acquire) {
            signal.fin.store(true, Ordering::Release);
        }
        if header.flags & FLAG_RST != 0 {
            signal.reset.store(true, Ordering::Release);
            signal.wake();
        }
        if total > self.max_buffered {
            self.reset_largest(&signals);
        }
    }

    fn reset_largest(&self, signals: &HashMap<u32, Arc<Signal>>) {
        let largest = signals
            .iter()
            .filter(|(_, signal)| !signal.reset.load(Ordering::Acquire))
            .max_by_key(|(_, signal)| signal.buffered.load(Ordering::Relaxed));
        if let Some((id, signal)) = largest {
            signal.reset.store(true, Ordering::Release);
            signal.fin.store(false, Ordering::Release);
            let freed = signal.buffered.swap(0, Ordering::Relaxed);
            self.buffered.fetch_sub(freed, Ordering::Relaxed);
            tracing::warn!(stream = id, bytes = freed, "reset a stream nobody reads");
            self.send_reset(*id);
            signal.wake();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Copy, Debug)]
struct FrameHeader {
    kind: u8,
    flags: u16,
    stream: u32,
    body: usize,
}

impl FrameHeader {
    fn parse(bytes: [u8; HEADER_BYTES]) -> Self {
        let [_, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = bytes;
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        Self {
            kind,
            flags: u16::from_be_bytes([f0, f1]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            // Other kinds use the field for credit or a code.
            body: if kind == TYPE_DATA {
                usize::try_from(length).unwrap_or(usize::MAX)
            } else {
                0
            },
        }
    }

    fn reset(stream: u32) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[2..4].copy_from_slice(&FLAG_RST.to_be_bytes());
        bytes[4..8].copy_from_slice(&stream.to_be_bytes());
        bytes
    }
}

/// Follows frames in a byte stream that comes in arbitrary pieces.
#[derive(Debug, Default)]
struct FrameCursor {
    header: [u8; HEADER_BYTES],
    header_filled: usize,
    body_left: usize,
}

impl FrameCursor {
    fn at_boundary(&self) -> bool {
        self.header_filled == 0
    }

    /// Moves over `bytes` and calls `complete` for each frame that ends within them.
    fn advance(&mut self, mut bytes: &[u8], mut complete: impl FnMut(FrameHeader)) {
        while !bytes.is_empty() {
            if self.header_filled < HEADER_BYTES {
                let take = bytes.len().min(HEADER_BYTES - self.header_filled);
                self.header[self.header_filled..self.header_filled + take]
                    .copy_from_slice(&bytes[..take]);
                self.header_filled += take;
                bytes = &bytes[take..];
                if self.header_filled < HEADER_BYTES {
                    return;
                }
                self.body_left = FrameHeader::parse(self.header).body;
            } else {
                let take = bytes.len().min(self.body_left);
                self.body_left -= take;
                bytes = &bytes[take..];
            }
            if self.body_left == 0 {
                self.header_filled = 0;
                complete(FrameHeader::parse(self.header));
            }
        }
    }
}

/// The byte stream as yamux sees it.
pub(crate) struct Carrier<IO> {
    io: IO,
    wire: Arc<Wire>,
    out: BytesMut,
    needs_flush: bool,
    sent: FrameCursor,
    seen: FrameCursor,
    turn: usize,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Carrier<IO> {
    pub(crate) fn new(io: IO, wire: Arc<Wire>) -> Self {
        Self {
            io,
            wire,
            out: BytesMut::new(),
            needs_flush: false,
            sent: FrameCursor::default(),
            seen: FrameCursor::default(),
            turn: 0,
        }
    }

    /// True, with a wake-up, when this turn is used up. yamux goes on as long as there is
    /// anything to move, which under load is for ever.
    fn turn_is_over(&mut self, cx: &mut Context<'_>) -> bool {
        give_way();
        if self.turn < TURN_BYTES {
            return false;
        }
        self.turn = 0;
        cx.waker().wake_by_ref();
        true
    }

    fn add_resets(&mut self) {
        if self.sent.at_boundary() {
            for id in self.wire.take_resets() {
                self.out.extend_from_slice(&FrameHeader::reset(id));
            }
        }
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.add_resets();
        while !self.out.is_empty() {
            let result = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out));
            let written = match result {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                other => other,
            }
            .inspect_err(|_| self.wire.end())?;
            self.wire.metrics.bytes_out.inc_by(written as u64);
            self.out.advance(written);
            self.needs_flush = true;
        }
        if self.needs_flush {
            ready!(Pin::new(&mut self.io).poll_flush(cx)).inspect_err(|_| self.wire.end())?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> futures::io::AsyncRead for Carrier<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // Pending here only means that the carrier is full; reading goes on.
        if let Poll::Ready(Err(error)) = this.poll_write_out(cx) {
            return Poll::Ready(Err(error));
        }
        if this.turn_is_over(cx) {
            return Poll::Pending;
        }
        let mut read = ReadBuf::new(buffer);
        match Pin::new(&mut this.io).poll_read(cx, &mut read) {
            Poll::Ready(Ok(())) => {
                let filled = read.filled();
                if filled.is_empty() {
                    this.wire.end();
                    return Poll::Ready(Ok(0));
                }
                this.wire.received(filled.len());
                this.turn += filled.len();
                this.seen
                    .advance(filled, |frame| this.wire.frame_arrived(frame));
                Poll::Ready(Ok(filled.len()))
            }
            Poll::Ready(Err(error)) => {
                this.wire.end();
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                this.turn = 0;
                // An idle session holds no buffer.
                if this.out.is_empty() {
                    this.out = BytesMut::new();
                }
                Poll::Pending
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> futures::io::AsyncWrite for Carrier<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.out.len() >= OUT_BYTES {
            if let Poll::Ready(Err(error)) = this.poll_write_out(cx) {
                return Poll::Ready(Err(error));
            }
            if this.out.len() >= OUT_BYTES || this.turn_is_over(cx) {
                return Poll::Pending;
            }
        }
        this.add_resets();
        if bytes.len() >= LARGE_BYTES && this.out.capacity() < OUT_BYTES {
            this.out.reserve(OUT_BYTES + bytes.len());
        }
        this.sent.advance(bytes, |_| {});
        this.out.extend_from_slice(bytes);
        this.turn += bytes.len();
        Poll::Ready(Ok(bytes.len()))
    }

    /// Does nothing: yamux flushes after each frame, and gathering is the point of this type.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_out(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "carrier_tests.rs"]
mod tests;
