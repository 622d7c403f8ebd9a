//! From a name to an established TLS connection, within one deadline.
//!
//! Steps: resolve -> connect (to the gateway or the proxy) -> CONNECT, with a proxy -> TLS
//! -> ALPN. An error names the step, what it was doing and to whom.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::proxy::{MAX_RESPONSE_BYTES, Proxy, parse_response};

/// Where and how to dial.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Host name or address of the gateway, without brackets.
    pub host: String,
    /// TCP port of the gateway.
    pub port: u16,
    /// Proxy to go through.
    pub proxy: Option<Proxy>,
    /// TLS settings: roots, client certificate, ALPN.
    pub tls: Arc<ClientConfig>,
    /// Name for SNI, and to verify.
    pub server_name: ServerName<'static>,
    /// Longest time for everything.
    pub deadline: Duration,
}

/// Which step of a dial failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("failed to resolve {host}")]
    Resolve {
        /// Name that was asked for.
        host: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// No address took the connection.
    #[error("failed to connect to {address}")]
    Connect {
        /// The address tried last.
        address: SocketAddr,
        /// The last error.
        source: io::Error,
    },
    /// The proxy broke off.
    #[error("failed to talk to proxy {proxy}")]
    ProxyIo {
        /// Address of the proxy.
        proxy: String,
        /// What the connection said.
        source: io::Error,
    },
    /// The proxy's answer is not one.
    #[error("proxy {proxy} answered what is not a CONNECT response: {reason}")]
    ProxyAnswer {
        /// Address of the proxy.
        proxy: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The proxy said no; 407 asks for credentials, 403 forbids the target.
    #[error("proxy {proxy} refused to connect to {target} with status {status}")]
    ProxyRefused {
        /// Address of the proxy.
        proxy: String,
        /// What was asked for.
        target: String,
        /// HTTP status.
        status: u16,
    },
    /// The TLS handshake failed: certificate, name or a device in between.
    #[error("failed TLS handshake with {name}")]
    Tls {
        /// Name that was verified.
        name: String,
        /// What TLS said.
        source: io::Error,
    },
    /// The peer took none of our protocols.
    #[error("{name} does not speak the tunnel protocol (no ALPN agreed)")]
    Alpn {
        /// Name of the peer.
        name: String,
    },
    /// The whole took too long.
    #[error("no connection within {} s, while: {step}", deadline.as_secs_f32())]
    Deadline {
        /// What was being done.
        step: &'static str,
        /// The deadline.
        deadline: Duration,
    },
}

impl Dial {
    /// Dials once. TCP_NODELAY is set.
    pub async fn run(&self) -> Result<TlsStream<TcpStream>, DialError> {
        let end = Instant::now() + self.deadline;
        let late = |step| DialError::Deadline {
            step,
            deadline: self.deadline,
        };
        let (host, port) = match &self.proxy {
            Some(proxy) => (proxy.host.as_str(), proxy.port),
            None => (self.host.as_str(), self.port),
        };
        let addresses = timeout_at(end, resolve(host, port))
            .await
            .map_err(|_| late("resolving the name"))??;
        let mut socket = timeout_at(end, connect(&addresses, end))
            .await
            .map_err(|_| late("connecting"))??;
        if let Some(proxy) = &self.proxy {
            timeout_at(end, self.ask_proxy(proxy, &mut socket))
                .await
                .map_err(|_| late("waiting for the proxy"))??;
        }
        timeout_at(end, self.handshake(socket))
            .await
            .map_err(|_| late("TLS handshake"))?
    }

    async fn ask_proxy(&self, proxy: &Proxy, socket: &mut TcpStream) -> Result<(), DialError> {
        let name = format!("{}:{}", proxy.host, proxy.port);
        let failed = |source| DialError::ProxyIo {
            proxy: name.clone(),
            source,
        };
        let request = proxy.request(&self.host, self.port);
        socket.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut head = Vec::new();
        let (status, length) = loop {
            let parsed = parse_response(&head).map_err(|reason| DialError::ProxyAnswer {
                proxy: name.clone(),
                reason,
            })?;
            if let Some(parsed) = parsed {
                break parsed;
            }
            let mut chunk = [0; 512];
            let room = chunk.len().min(MAX_RESPONSE_BYTES - head.len());
            match socket.read(&mut chunk[..room]).await.map_err(failed)? {
                0 => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                count => head.extend_from_slice(&chunk[..count]),
            }
        };
        if !(200..300).contains(&status) {
            return Err(DialError::ProxyRefused {
                proxy: name,
                target: format!("{}:{}", self.host, self.port),
                status,
            });
        }
        // In TLS the client speaks first; earlier bytes are not from the gateway.
        if length != head.len() {
            return Err(DialError::ProxyAnswer {
                proxy: name,
                reason: "bytes after the response head",
            });
        }
        Ok(())
    }

    async fn handshake(&self, socket: TcpStream) -> Result<TlsStream<TcpStream>, DialError> {
        let name = self.server_name.to_str().into_owned();
        let connector = TlsConnector::from(self.tls.clone());
        let stream = connector
            .connect(self.server_name.clone(), socket)
            .await
            .map_err(|source| DialError::Tls {
                name: name.clone(),
                source,
            })?;
        let wanted = &self.tls.alpn_protocols;
        let agreed = stream.get_ref().1.alpn_protocol();
        if !wanted.is_empty() && agreed.is_none() {
            return Err(DialError::Alpn { name });
        }
        Ok(stream)
    }
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    let failed = |source| DialError::Resolve {
        host: host.to_owned(),
        source,
    };
    let addresses: Vec<_> = lookup_host((host, port)).await.map_err(failed)?.collect();
    if addresses.is_empty() {
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    Ok(addresses)
}

/// Tries the addresses in order; each may take an equal part of the time that is left, so that
/// one dead address does not use up all of it.
async fn connect(addresses: &[SocketAddr], end: Instant) -> Result<TcpStream, DialError> {
    let mut last = None;
    for (index, address) in addresses.iter().enumerate() {
        let parts = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let left = end.saturating_duration_since(Instant::now());
        let source = match timeout(left / parts, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                // Works without; only latency suffers.
                _ = socket.set_nodelay(true);
                return Ok(socket);
            }
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        last = Some(DialError::Connect {
            address: *address,
            source,
        });
    }
    Err(last.unwrap_or(DialError::Resolve {
        host: String::new(),
        source: io::ErrorKind::NotFound.into(),
    }))
}
