//! Calls of an HTTP address from inside a cluster's network: the client side of the benchmarks of
//! functions, run as a process of its own in a node's network namespace.
//!
//! Every answer is compared with what must come. A connection per client, kept open; requests of
//! one client follow each other. Traps: the client parses no more of HTTP than it needs, so that
//! it takes little of the cores that router and function need.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::stats::Samples;

/// What is called, and how often.
#[derive(Args, Debug, Clone)]
pub struct Calls {
    /// Address that is called, `ip:port`.
    address: SocketAddr,
    /// Paths, each called once per round; several clients begin at different ones.
    #[arg(required = true)]
    paths: Vec<String>,
    /// Clients at a time.
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Calls in all.
    #[arg(long, default_value_t = 1)]
    calls: u64,
    /// Call for this time, instead of a number of calls.
    #[arg(long, conflicts_with = "calls")]
    seconds: Option<u64>,
    /// What every answer must be.
    #[arg(long, default_value = "")]
    expect: String,
    /// Bytes that are sent and must come back, instead of `expect`.
    #[arg(long, default_value_t = 0)]
    echo: usize,
}

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// Runs them and prints the figures as JSON.
///
/// # Errors
/// When an answer is missing or is another than it must be.
pub async fn run(calls: Calls) -> Result<()> {
    let calls = Arc::new(calls);
    let count = calls.seconds.map_or(calls.calls, |_| u64::MAX);
    let left = Arc::new(AtomicU64::new(count));
    let mut clients = JoinSet::new();
    let began = Instant::now();
    for number in 0..calls.clients {
        clients.spawn(client(calls.clone(), left.clone(), number));
    }
    let mut samples = Samples::default();
    while let Some(times) = clients.join_next().await {
        samples.extend(times.context("a client was lost")??);
    }
    let seconds = began.elapsed().as_secs_f64();
    let percentile = |percent| samples.percentile(percent);
    println!(
        "{}",
        json!({
            "calls": samples.len(),
            "seconds": seconds,
            "per_second": samples.len() as f64 / seconds,
            "p50_ms": percentile(50),
            "p95_ms": percentile(95),
            "p99_ms": percentile(99),
            "max_ms": samples.max(),
        })
    );
    Ok(())
}

async fn client(calls: Arc<Calls>, left: Arc<AtomicU64>, number: usize) -> Result<Vec<f64>> {
    let mut client = Client {
        stream: TcpStream::connect(calls.address).await.context("connect")?,
        buffer: Vec::new(),
    };
    client.stream.set_nodelay(true).context("set TCP_NODELAY")?;
    let body = vec![b'x'; calls.echo];
    let requests: Vec<Vec<u8>> = calls
        .paths
        .iter()
        .map(|path| request(path, &body))
        .collect();
    let expected: &[u8] = if calls.echo > 0 {
        &body
    } else {
        calls.expect.as_bytes()
    };
    let mut times = Vec::new();
    let mut at = number;
    let end = calls
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    while end.is_none_or(|end| Instant::now() < end)
        && left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
    {
        let began = Instant::now();
        client
            .stream
            .write_all(&requests[at % requests.len()])
            .await
            .context("send")?;
        let (status, answer) = tokio::time::timeout(Duration::from_secs(120), client.answer())
            .await
            .context("no answer within two minutes")??;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        ensure!(
            status == 200 && answer.trim_ascii_end() == expected,
            "status {status}: {}",
            String::from_utf8_lossy(&answer[..answer.len().min(300)])
        );
        at += 1;
    }
    Ok(times)
}

fn request(path: &str, body: &[u8]) -> Vec<u8> {
    let mut text = match body.len() {
        0 => format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n"),
        length => format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
        ),
    }
    .into_bytes();
    text.extend(body);
    text
}

impl Client {
    async fn fill(&mut self) -> Result<()> {
        let count = self
            .stream
            .read_buf(&mut self.buffer)
            .await
            .context("receive")?;
        ensure!(count > 0, "the connection was closed instead of an answer");
        Ok(())
    }

    async fn until(&mut self, mark: &[u8]) -> Result<usize> {
        loop {
            let found = self
                .buffer
                .windows(mark.len())
                .position(|window| window == mark);
            match found {
                Some(at) => return Ok(at),
                None => self.fill().await?,
            }
        }
    }

    /// Status and body of the next answer.
    async fn answer(&mut self) -> Result<(u16, Vec<u8>)> {
        let end = self.until(b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_lowercase();
        self.buffer.drain(..end + 4);
        let status = head
            .get(9..12)
            .and_then(|code| code.parse().ok())
            .context("no status")?;
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        if let Some(length) = field("content-length:") {
            let length: usize = length.trim().parse().context("content-length")?;
            while self.buffer.len() < length {
                self.fill().await?;
            }
            return Ok((status, self.buffer.drain(..length).collect()));
        }
        if field("transfer-encoding:").is_none() {
            bail!("an answer of no known length");
        }
        let mut body = Vec::new();
        loop {
            let end = self.until(b"\r\n").await?;
            let size = std::str::from_utf8(&self.buffer[..end]).context("a chunk")?;
            let size = usize::from_str_radix(size.trim(), 16).context("a chunk's size")?;
            self.buffer.drain(..end + 2);
            while self.buffer.len() < size + 2 {
                self.fill().await?;
            }
            body.extend(self.buffer.drain(..size));
            self.buffer.drain(..2);
            if size == 0 {
                return Ok((status, body));
            }
        }
    }
}
