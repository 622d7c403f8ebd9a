//! Clients that take nothing of an answer.
//!
//! An answer that nobody reads keeps its instance busy. A connection on which no byte could be
//! written for [`PATIENCE`] fails, and with it the call.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a client may take nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that does not wait for ever.
pub struct Stalling<S> {
    inner: S,
    patience: Duration,
    /// Runs while nothing can be written.
    clock: Option<Pin<Box<Sleep>>>,
}

impl<S> Stalling<S> {
    /// With the patience of the router.
    pub fn new(inner: S) -> Self {
        Self::with(inner, PATIENCE)
    }

    fn with(inner: S, patience: Duration) -> Self {
        Self {
            inner,
            patience,
            clock: None,
        }
    }

    fn watch<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.clock = None;
            return polled;
        }
        let patience = self.patience;
        let clock = self.clock.get_or_insert_with(|| Box::pin(sleep(patience)));
        clock.as_mut().poll(cx).map(|()| {
            let reason = "the client took nothing of the answer for too long";
            Err(io::Error::new(io::ErrorKind::TimedOut, reason))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.watch(polled, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_write_vectored(cx, slices);
        this.watch(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn one_that_takes_nothing_is_cut() {
        let (client, mut reader) = duplex(4);
        let mut client = Stalling::with(client, Duration::from_millis(20));
        let reading = tokio::spawn(async move {
            let mut taken = [0; 4];
            reader.read_exact(&mut taken).await.map(|_| reader)
        });
        client.write_all(b"1234").await.unwrap();
        let _reader = reading.await.unwrap().unwrap();
        client.write_all(b"5678").await.unwrap();
        let error = client.write_all(b"9").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
