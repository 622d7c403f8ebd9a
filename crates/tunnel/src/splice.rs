//! Copies between two streams, both ways, until both directions ended.
//!
//! Each direction ends by itself: end of file on one side becomes a shutdown of the other side's
//! writer while the other direction goes on. An error ends both. Idle streams hold no buffer:
//! reads go to a buffer of the thread, and only what the other side does not take at once is
//! kept.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    runtime::Handle,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{bulk::give_way, moving::MovingStream};

/// Size of the thread's buffer; four frames.
const BUFFER_BYTES: usize = 64 * 1024;
/// Reads of one direction before other tasks get a turn.
const TURN: usize = 16;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Copies until both directions ended; returns the bytes from `a` to `b` and from `b` to `a`.
///
/// Fails with the first error of either side, and with `TimedOut` when nothing moved for
/// `idle`. Both are dropped on return, so a [`crate::TunnelStream`] whose splice failed is reset.
pub async fn splice<A, B>(mut a: A, mut b: B, idle: Option<Duration>) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    run(&mut a, &mut b, idle).await
}

/// [`splice`] with a stream that may move. Once it has, the copying goes on at the runtime
/// `bulk`, so that it stays out of the way of what is urgent.
pub async fn splice_moving<A>(
    other: A,
    stream: MovingStream,
    bulk: &Handle,
) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    run_moving(other, stream, bulk).await.1
}

/// [`splice_moving`] with a local socket. A failure is passed on as a reset of the socket (RST)
/// instead of an end of file, so that neither side takes a cut for an end.
pub async fn splice_tcp(
    socket: TcpStream,
    stream: MovingStream,
    bulk: &Handle,
) -> io::Result<(u64, u64)> {
    let (socket, result) = run_moving(socket, stream, bulk).await;
    if let (Some(socket), Err(_)) = (&socket, &result) {
        _ = socket.set_zero_linger();
    }
    result
}

/// Gives the other side back, unless its task was lost.
async fn run_moving<A>(
    other: A,
    stream: MovingStream,
    bulk: &Handle,
) -> (Option<A>, io::Result<(u64, u64)>)
where
    A: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut splice = Splice::new(other, stream);
    let ended = poll_fn(|cx| match splice.poll(cx) {
        Poll::Pending if splice.b.has_moved() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
        Poll::Ready(result) => Poll::Ready(Some(result)),
    });
    if let Some(result) = ended.await {
        return (Some(splice.a), result);
    }
    let rest = bulk.spawn(async move {
        let result = poll_fn(|cx| splice.poll(cx)).await;
        (Some(splice.a), result)
    });
    let rest = AbortOnDropHandle::new(rest).await;
    rest.unwrap_or_else(|error| (None, Err(io::Error::other(error))))
}

async fn run<A, B>(a: &mut A, b: &mut B, idle: Option<Duration>) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut splice = Splice::new(a, b);
    let mut last = Instant::now();
    let mut clock = idle.map(|idle| (idle, Box::pin(sleep(idle))));
    poll_fn(|cx| {
        let before = splice.copied();
        if let Poll::Ready(result) = splice.poll(cx) {
            return Poll::Ready(result);
        }
        if let Some((idle, clock)) = &mut clock {
            if splice.copied() != before {
                last = Instant::now();
            }
            // Moved only when it fires: setting a timer for each read would cost more.
            while clock.as_mut().poll(cx).is_ready() {
                let due = last + *idle;
                if Instant::now() >= due {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::TimedOut)));
                }
                clock.as_mut().reset(due);
            }
        }
        Poll::Pending
    })
    .await
}

/// Both directions.
struct Splice<A, B> {
    a: A,
    b: B,
    forth: Direction,
    back: Direction,
}

impl<A, B> Splice<A, B>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    fn new(a: A, b: B) -> Self {
        Self {
            a,
            b,
            forth: Direction::default(),
            back: Direction::default(),
        }
    }

    fn copied(&self) -> u64 {
        self.forth.copied + self.back.copied
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(u64, u64)>> {
        let (a, b) = (&mut self.a, &mut self.b);
        let ended = (self.forth.poll(cx, a, b)?, self.back.poll(cx, b, a)?);
        if let (Poll::Ready(()), Poll::Ready(())) = ended {
            return Poll::Ready(Ok((self.forth.copied, self.back.copied)));
        }
        Poll::Pending
    }
}

/// One direction of a splice.
#[derive(Default)]
struct Direction {
    /// Read and not yet taken by the writer.
    kept: BytesMut,
    copied: u64,
    needs_flush: bool,
    read_ended: bool,
    ended: bool,
}

impl Direction {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..TURN {
            give_way();
            ready!(self.poll_kept(cx, writer))?;
            if self.read_ended {
                ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            if self.poll_move(cx, reader, writer)?.is_pending() {
                if self.needs_flush {
                    ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                    self.needs_flush = false;
                }
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what an earlier turn could not.
    fn poll_kept(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let count = ready!(poll_some(cx, writer, &self.kept))?;
            self.kept.advance(count);
            self.copied += count as u64;
            self.needs_flush = true;
        }
        if self.kept.capacity() > 0 {
            self.kept = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// One read, and the write of it as far as the writer takes it.
    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        // Taken out, so that a reader that itself splices finds no borrowed buffer.
        let mut buffer = BUFFER.take();
        buffer.resize(BUFFER_BYTES, 0);
        let result = self.poll_move_with(&mut buffer, cx, reader, writer);
        BUFFER.set(buffer);
        result
    }

    fn poll_move_with(
        &mut self,
        buffer: &mut [u8],
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let mut read = ReadBuf::new(buffer);
        ready!(Pin::new(reader).poll_read(cx, &mut read))?;
        let mut bytes: &[u8] = read.filled();
        if bytes.is_empty() {
            self.read_ended = true;
        }
        while !bytes.is_empty() {
            match poll_some(cx, writer, bytes)? {
                Poll::Ready(count) => {
                    bytes = &bytes[count..];
                    self.copied += count as u64;
                    self.needs_flush = true;
                }
                Poll::Pending => {
                    self.kept.extend_from_slice(bytes);
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn poll_some(
    cx: &mut Context<'_>,
    writer: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(writer).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        other => Poll::Ready(other),
    }
}
