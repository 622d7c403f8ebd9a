//! Clients that call as fast as they are answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Result;

/// What is called how often.
#[derive(Clone, Serialize, Deserialize)]
pub struct Load {
    address: String,
    clients: u32,
    calls: u32,
    body: usize,
}

impl Load {
    /// Calls without a body.
    pub fn small(address: &str, clients: u32, calls: u32) -> Self {
        let address = address.to_owned();
        Self {
            address,
            clients,
            calls,
            body: 0,
        }
    }

    /// Bodies of 1 MiB, sent back.
    pub fn large(address: &str, clients: u32, calls: u32) -> Self {
        Self {
            body: 1 << 20,
            ..Self::small(address, clients, calls)
        }
    }
}

/// What it took.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Calls a second.
    pub per_second: f64,
    /// Of one call.
    pub mean_us: f64,
    /// Of one call.
    pub p50_us: f64,
    /// Of one call.
    pub p99_us: f64,
    /// Of one call.
    pub worst_us: f64,
}

impl Measured {
    /// The one with more calls a second.
    pub fn better(self, other: Self) -> Self {
        if other.per_second > self.per_second {
            other
        } else {
            self
        }
    }
}

/// Calls, and says what it took on one line.
pub async fn run(load: &Load) -> Result<()> {
    // A first round for connections and caches.
    let warm = Load {
        calls: load.clients * 4,
        ..load.clone()
    };
    round(&warm).await?;
    let measured = round(load).await?;
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

async fn round(load: &Load) -> Result<Measured> {
    let left = Arc::new(AtomicU32::new(load.calls));
    let mut clients = JoinSet::new();
    let began = Instant::now();
    for _ in 0..load.clients {
        clients.spawn(client(load.clone(), left.clone()));
    }
    let mut times = Vec::new();
    while let Some(ended) = clients.join_next().await {
        times.extend(ended??);
    }
    let took = began.elapsed();
    times.sort_unstable();
    let at = |part: usize| micros(times[(times.len() * part / 1000).min(times.len() - 1)]);
    let count = f64::from(u32::try_from(times.len())?);
    Ok(Measured {
        per_second: count / took.as_secs_f64(),
        mean_us: micros(times.iter().sum()) / count,
        p50_us: at(500),
        p99_us: at(990),
        worst_us: at(1000),
    })
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

async fn client(load: Load, left: Arc<AtomicU32>) -> Result<Vec<Duration>> {
    let socket = TcpStream::connect(&load.address).await?;
    socket.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    let sent = Bytes::from(vec![b'x'; load.body]);
    let mut times = Vec::new();
    let take = |left: u32| left.checked_sub(1);
    while left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        .is_ok()
    {
        let method = if sent.is_empty() { "GET" } else { "POST" };
        let request = Request::builder()
            .method(method)
            .uri("/route/500")
            .header("host", &load.address)
            .body(Full::new(sent.clone()))?;
        let began = Instant::now();
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        times.push(began.elapsed());
        let right = if sent.is_empty() {
            // The function sees `/`; the instance called directly sees the path.
            body.starts_with(b"hello from /")
        } else {
            body == sent
        };
        if !status.is_success() || !right {
            return Err(format!("a wrong answer: {status} {body:.200?}").into());
        }
    }
    Ok(times)
}
