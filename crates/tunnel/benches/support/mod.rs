//! Connections, copies that check what arrives, percentiles and the table.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use farplane_tunnel::{
    ALPN, Class, Config, Hello, Incoming, OpenHeader, Session, TunnelStream, dial::Dial,
};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, client, server};

use crate::Result;

const NAME: &str = "gateway.test";
const PATTERN_BYTES: usize = 65_521;
const CHUNK_BYTES: usize = 64 * 1024;

/// TLS settings of both ends; each end shows a certificate and checks the other's.
#[derive(Clone)]
pub struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    pub fn new() -> Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let certificate =
            rcgen::CertificateParams::new(vec![NAME.to_owned()])?.self_signed(&key)?;
        Self::of(certificate.der().clone(), key.serialize_der())
    }

    /// The same certificate in both processes of the memory benchmark, by way of a file.
    pub fn fixed() -> Result<Self> {
        let path = Self::path();
        if !std::env::args().any(|argument| argument == "--hold") {
            let key = rcgen::KeyPair::generate()?;
            let made = rcgen::CertificateParams::new(vec![NAME.to_owned()])?.self_signed(&key)?;
            std::fs::write(&path, key.serialize_der())?;
            std::fs::write(path.with_extension("crt"), made.der())?;
        }
        let certificate = std::fs::read(path.with_extension("crt"))?;
        Self::of(certificate.into(), std::fs::read(&path)?)
    }

    /// Removes the file.
    pub fn forget_fixed() {
        _ = std::fs::remove_file(Self::path());
        _ = std::fs::remove_file(Self::path().with_extension("crt"));
    }

    fn path() -> std::path::PathBuf {
        std::env::temp_dir().join("farplane-tunnel-bench.key")
    }

    fn of(certificate: CertificateDer<'static>, key: Vec<u8>) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = || PrivatePkcs8KeyDer::from(key.clone());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone())?;
        let roots = Arc::new(roots);
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            roots.clone(),
            provider.clone(),
        )
        .build()?;
        let versions = [&rustls::version::TLS13];
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.clone()], key().into())?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key().into())?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            server: server.into(),
            client: client.into(),
        })
    }
}

pub async fn listen() -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

async fn dial(tls: &Tls, port: u16) -> Result<client::TlsStream<TcpStream>> {
    let dial = Dial {
        host: "127.0.0.1".to_owned(),
        port,
        proxy: None,
        tls: tls.client.clone(),
        server_name: ServerName::try_from(NAME)?,
        deadline: Duration::from_secs(30),
    };
    Ok(dial.run().await?)
}

async fn handshake(tls: &Tls, socket: TcpStream) -> Result<server::TlsStream<TcpStream>> {
    socket.set_nodelay(true)?;
    Ok(TlsAcceptor::from(tls.server.clone()).accept(socket).await?)
}

fn hello(class: Class) -> Hello {
    Hello::new("bench", 1, class)
}

pub async fn connect(tls: &Tls, port: u16, class: Class) -> Result<(Session, Incoming)> {
    let io = dial(tls, port).await?;
    Ok(Session::connect(io, hello(class), Config::default()).await?)
}

pub async fn serve(tls: &Tls, socket: TcpStream, class: Class) -> Result<(Session, Incoming)> {
    let io = handshake(tls, socket).await?;
    Ok(Session::accept(io, hello(class), Config::default()).await?)
}

/// Both ends of a TLS connection without a tunnel.
pub async fn raw_pair(
    tls: &Tls,
) -> Result<(client::TlsStream<TcpStream>, server::TlsStream<TcpStream>)> {
    let (listener, port) = listen().await?;
    let (near, far) = tokio::join!(dial(tls, port), async {
        let (socket, _) = listener.accept().await?;
        handshake(tls, socket).await
    });
    Ok((near?, far?))
}

/// Both ends of a session.
pub struct Pair {
    agent: Session,
    _agent_incoming: Incoming,
    hub: Session,
    hub_incoming: tokio::sync::Mutex<Option<Incoming>>,
}

pub async fn session_pair(tls: &Tls, class: Class) -> Result<Pair> {
    let (listener, port) = listen().await?;
    let (near, far) = tokio::join!(connect(tls, port, class), async {
        let (socket, _) = listener.accept().await?;
        serve(tls, socket, class).await
    });
    let ((agent, agent_incoming), (hub, hub_incoming)) = (near?, far?);
    Ok(Pair {
        agent,
        _agent_incoming: agent_incoming,
        hub,
        hub_incoming: tokio::sync::Mutex::new(Some(hub_incoming)),
    })
}

impl Pair {
    /// Both ends of a new stream.
    pub async fn stream(&self, service: &str) -> Result<(TunnelStream, TunnelStream)> {
        let mut incoming = self.hub_incoming.lock().await;
        let incoming = incoming.as_mut().ok_or("already served")?;
        let opening = self.agent.open(OpenHeader::new(Class::Bulk, service));
        let (near, far) = tokio::join!(opening, async {
            let stream = incoming.next().await.ok_or("session is over")?;
            Result::Ok(stream.accept().await?)
        });
        Ok((near?, far?))
    }

    /// From now on the hub sends back what comes; the result opens streams to it.
    pub fn serve_echo(&self) -> Result<Session> {
        let mut incoming = self
            .hub_incoming
            .try_lock()?
            .take()
            .ok_or("already served")?;
        tokio::spawn(async move {
            while let Some(stream) = incoming.next().await {
                tokio::spawn(async move {
                    let mut stream = stream.accept().await?;
                    let mut buffer = [0; 4096];
                    loop {
                        match stream.read(&mut buffer).await? {
                            0 => return stream.shutdown().await,
                            count => stream.write_all(&buffer[..count]).await?,
                        }
                    }
                });
            }
        });
        assert!(!self.hub.is_closed());
        Ok(self.agent.clone())
    }
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

/// Writes `bytes` of the pattern.
pub async fn copy_out(out: &mut (impl AsyncWrite + Unpin), bytes: u64) -> Result<()> {
    let pattern = pattern();
    let mut at = 0;
    while at < bytes {
        let start = usize::try_from(at % PATTERN_BYTES as u64)?;
        let left = usize::try_from((bytes - at).min(CHUNK_BYTES as u64))?;
        let length = left.min(pattern.len() - start);
        out.write_all(&pattern[start..start + length]).await?;
        at += length as u64;
    }
    out.flush().await?;
    Ok(())
}

/// Reads `bytes` and compares them with the pattern.
pub async fn copy_in(from: &mut (impl AsyncRead + Unpin), bytes: u64) -> Result<()> {
    let pattern = pattern();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < bytes {
        let room = usize::try_from((bytes - at).min(CHUNK_BYTES as u64))?;
        let count = from.read(&mut buffer[..room]).await?;
        if count == 0 {
            return Err("ended early".into());
        }
        let start = usize::try_from(at % PATTERN_BYTES as u64)?;
        if buffer[..count] != pattern[start..start + count] {
            return Err("other bytes than were sent".into());
        }
        at += count as u64;
    }
    Ok(())
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// In milliseconds.
pub fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort();
    let index = (times.len() * percent / 100).min(times.len() - 1);
    (times[index].as_secs_f64() * 1e6).round() / 1e3
}

/// Anonymous memory of this process. Pages of the program are left out: they become shared as
/// soon as a second process runs it.
pub fn private_kib() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text
        .lines()
        .find(|line| line.starts_with("Anonymous"))
        .ok_or("no such line")?;
    let number = line.split_whitespace().nth(1).ok_or("no number")?;
    Ok(number.parse()?)
}

/// What is demanded, and whether it is met.
pub type Bar = (&'static str, bool);

/// Rows of question, number and bar.
#[derive(Default)]
pub struct Table {
    rows: Vec<(String, Value, Option<Bar>)>,
}

impl Table {
    pub fn add(&mut self, what: &str, value: Value, bar: Option<Bar>) {
        eprintln!("{what}: {value}");
        self.rows.push((what.to_owned(), value, bar));
    }

    pub fn json(&self) -> Value {
        self.rows
            .iter()
            .map(|(what, value, bar)| {
                json!({
                    "question": what,
                    "value": value,
                    "bar": bar.map(|bar| bar.0),
                    "met": bar.map(|bar| bar.1),
                })
            })
            .collect()
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        for (what, value, bar) in &self.rows {
            let bar = match bar {
                None => String::new(),
                Some((text, true)) => format!("{text}: met"),
                Some((text, false)) => format!("{text}: NOT met"),
            };
            out += &format!("{what:<52} {:>10}  {bar}\n", value.to_string());
        }
        out
    }
}
