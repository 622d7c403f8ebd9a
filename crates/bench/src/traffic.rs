//! What goes through either tunnel: a target that echoes, sinks and floods, and the client's
//! side of each. Every byte that arrives is compared with what was sent.
//!
//! A stream begins with one byte that says what it is for; see [`serve`].
//!
//! Trap: copies that share a runtime with echoes delay them in this process already, by up to
//! 128 reads of a whole buffer. Both ends of endless copies run on [`load`].

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

const ECHO: u8 = b'e';
const SINK: u8 = b's';
const SOURCE: u8 = b'd';
/// A count that is never reached.
const WITHOUT_END: u64 = u64::MAX >> 1;
const PATTERN_BYTES: usize = 65_521;
const CHUNK_BYTES: usize = 64 * 1024;

/// Where both ends of copies run that are load: threads of the lowest priority, so that the echoes
/// beside them are those of the tunnel.
///
/// # Errors
/// When the threads cannot be started.
pub fn load() -> Result<&'static Handle> {
    static LOAD: OnceLock<Runtime> = OnceLock::new();
    if LOAD.get().is_none() {
        let runtime = farplane_tunnel::bulk_runtime(2, 19).context("start threads for load")?;
        // Another thread may have been faster; one of both is kept.
        if let Err(other) = LOAD.set(runtime) {
            other.shutdown_background();
        }
    }
    Ok(LOAD.get().context("no threads for load")?.handle())
}

/// A target that serves until it is dropped.
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Target {
    /// Listens at this address, on a port of the system's choosing.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub async fn start(ip: IpAddr) -> Result<Self> {
        let listener = TcpListener::bind((ip, 0))
            .await
            .context("listen for the tunnels")?;
        let address = listener.local_addr().context("read the target's address")?;
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                // A client that breaks off is seen at the client.
                tokio::spawn(async move { _ = serve(socket).await });
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `e`: everything comes back. `s` and a count: that much of the pattern is read and answered
/// with one byte. `d` and a count: that much of the pattern is sent.
async fn serve(mut socket: TcpStream) -> Result<()> {
    socket.set_nodelay(true)?;
    match socket.read_u8().await? {
        ECHO => {
            let mut buffer = [0; 4096];
            loop {
                match socket.read(&mut buffer).await? {
                    0 => return Ok(()),
                    count => socket.write_all(&buffer[..count]).await?,
                }
            }
        }
        kind @ (SINK | SOURCE) => {
            let count = socket.read_u64().await?;
            if count < WITHOUT_END {
                return copy(socket, kind, count).await;
            }
            let socket = socket.into_std()?;
            load()?
                .spawn(async move { copy(TcpStream::from_std(socket)?, kind, count).await })
                .await?
        }
        _ => Ok(()),
    }
}

async fn copy(mut socket: TcpStream, kind: u8, count: u64) -> Result<()> {
    if kind == SOURCE {
        return copy_out(&mut socket, count).await;
    }
    copy_in(&mut socket, count).await?;
    Ok(socket.write_all(b"!").await?)
}

/// Three patterns in a row, so that any piece is one slice.
fn pattern() -> Vec<u8> {
    let mut state = 1_u32;
    let mut one: Vec<u8> = (0..PATTERN_BYTES)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect();
    one.extend_from_within(..);
    one.extend_from_within(..PATTERN_BYTES);
    one
}

async fn copy_out(out: &mut (impl AsyncWrite + Unpin), bytes: u64) -> Result<()> {
    let pattern = pattern();
    let mut at = 0;
    while at < bytes {
        farplane_tunnel::give_way();
        let start = usize::try_from(at % PATTERN_BYTES as u64)?;
        let left = usize::try_from((bytes - at).min(CHUNK_BYTES as u64))?;
        let length = left.min(pattern.len() - start);
        out.write_all(&pattern[start..start + length]).await?;
        at += length as u64;
    }
    Ok(out.flush().await?)
}

async fn copy_in(from: &mut (impl AsyncRead + Unpin), bytes: u64) -> Result<()> {
    let pattern = pattern();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < bytes {
        farplane_tunnel::give_way();
        let room = usize::try_from((bytes - at).min(CHUNK_BYTES as u64))?;
        let count = from.read(&mut buffer[..room]).await?;
        ensure!(count > 0, "ended after {at} of {bytes} bytes");
        let start = usize::try_from(at % PATTERN_BYTES as u64)?;
        ensure!(
            buffer[..count] == pattern[start..start + count],
            "other bytes than were sent, after {at}"
        );
        at += count as u64;
    }
    Ok(())
}

async fn ask<S: AsyncWrite + Unpin>(stream: &mut S, what: u8, count: u64) -> Result<()> {
    let mut head = vec![what];
    head.extend(count.to_be_bytes());
    stream.write_all(&head).await?;
    Ok(stream.flush().await?)
}

/// Sends this much to the target and waits for its word that all arrived.
///
/// # Errors
/// When the stream breaks.
pub async fn upload<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, bytes: u64) -> Result<()> {
    ask(stream, SINK, bytes).await?;
    copy_out(stream, bytes).await?;
    let word = stream.read_u8().await.context("hear that all arrived")?;
    ensure!(word == b'!', "the target saw other bytes than were sent");
    Ok(())
}

/// Fetches this much from the target.
///
/// # Errors
/// When the stream breaks or other bytes come.
pub async fn download<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, bytes: u64) -> Result<()> {
    ask(stream, SOURCE, bytes).await?;
    copy_in(stream, bytes).await
}

/// Asks the target to send without end. Who never reads has a stalled stream.
///
/// # Errors
/// When the stream breaks.
pub async fn stall<S: AsyncWrite + Unpin>(stream: &mut S) -> Result<()> {
    ask(stream, SOURCE, WITHOUT_END).await
}

/// Sends and fetches without end, for load.
///
/// # Errors
/// Only ends with one.
pub async fn endless<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, up: bool) -> Result<()> {
    if up {
        upload(stream, WITHOUT_END).await
    } else {
        download(stream, WITHOUT_END).await
    }
}

/// A stream of echoes.
pub struct Echo<S> {
    stream: S,
    sent: Vec<u8>,
    got: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Echo<S> {
    /// Echoes of this many bytes; the first is on its way.
    ///
    /// # Errors
    /// When the stream breaks.
    pub async fn start(mut stream: S, bytes: usize) -> Result<Self> {
        stream.write_all(&[ECHO]).await?;
        let mut echo = Self {
            stream,
            sent: vec![0; bytes],
            got: vec![0; bytes],
        };
        echo.once().await?;
        Ok(echo)
    }

    /// One round trip.
    ///
    /// # Errors
    /// When the stream breaks or other bytes come back.
    pub async fn once(&mut self) -> Result<Duration> {
        for byte in &mut self.sent {
            *byte = byte.wrapping_add(7);
        }
        let began = Instant::now();
        self.stream.write_all(&self.sent).await?;
        self.stream.flush().await?;
        self.stream.read_exact(&mut self.got).await?;
        ensure!(self.sent == self.got, "other bytes came back");
        Ok(began.elapsed())
    }

    /// As [`Echo::once`]; `None` when nothing came back within `limit`. Of no use afterwards.
    ///
    /// # Errors
    /// When the stream breaks or other bytes come back.
    pub async fn once_within(&mut self, limit: Duration) -> Result<Option<Duration>> {
        timeout(limit, self.once()).await.ok().transpose()
    }
}

/// First byte of an echo that is also its first answer.
///
/// # Errors
/// When the stream breaks or another byte comes back.
pub async fn first_byte<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<()> {
    stream.write_all(&[ECHO, b'!']).await?;
    stream.flush().await?;
    ensure!(stream.read_u8().await? == b'!', "another byte came back");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn target() -> (Target, TcpStream) {
        let target = Target::start([127, 0, 0, 1].into()).await.unwrap();
        let stream = TcpStream::connect(target.address).await.unwrap();
        (target, stream)
    }

    #[tokio::test]
    async fn copies_arrive_whole_both_ways() {
        let bytes = 3 * PATTERN_BYTES as u64 + 17;
        let (_target, mut stream) = target().await;
        upload(&mut stream, bytes).await.unwrap();
        let (_target, mut stream) = target().await;
        download(&mut stream, bytes).await.unwrap();
    }

    #[tokio::test]
    async fn wrong_bytes_are_noticed() {
        let (mut near, mut far) = tokio::io::duplex(1024);
        let wrong = tokio::spawn(async move {
            let mut bytes = pattern();
            bytes[1000] ^= 1;
            near.write_all(&bytes).await
        });
        let error = copy_in(&mut far, 2000).await.unwrap_err();
        assert!(error.to_string().contains("other bytes"), "{error}");
        drop(far);
        assert!(wrong.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn echoes_come_back_and_a_silent_peer_is_none() {
        let (_target, mut stream) = target().await;
        first_byte(&mut stream).await.unwrap();
        let (_target, stream) = target().await;
        let mut echo = Echo::start(stream, 64).await.unwrap();
        assert!(
            echo.once_within(Duration::from_secs(10))
                .await
                .unwrap()
                .is_some()
        );
        let (near, _far) = tokio::io::duplex(1024);
        let mut echo = Echo {
            stream: near,
            sent: vec![0; 8],
            got: vec![0; 8],
        };
        assert_eq!(
            echo.once_within(Duration::from_millis(10)).await.unwrap(),
            None
        );
    }
}
