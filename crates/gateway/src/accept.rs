//! The front door: accepts connections, reads the ClientHello, and sends each its way.
//!
//! Everything before the end of a handshake has a deadline and a bound, as nobody is known
//! by then.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use farplane_tunnel::{Class, Session};
use rustls::ProtocolVersion;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::gateway::Gateway;
use crate::rewind::Rewind;
use crate::route::{self, Admission, Front, Protocol};
use crate::tls::verify::{self, Peer};
use crate::{dial, hello, http, passthrough, peer, tunnel_server};

/// Longest time for the ClientHello, and again for the rest of the handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Handshakes under way at a time; more wait unaccepted in the kernel's queue.
const MAX_HANDSHAKES: usize = 512;

/// A terminated connection.
pub type Connection = TlsStream<Rewind<TcpStream>>;

/// Accepts until shutdown.
pub async fn run(gateway: Arc<Gateway>, listener: TcpListener) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = gateway.shutdown.cancelled() => return,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of files or memory: give those that hold them time to end.
                tracing::error!(%error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        dial::tune(&stream);
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move {
            gateway.metrics.handshakes.inc();
            let opened = handshake(&gateway, stream, from).await;
            gateway.metrics.handshakes.dec();
            drop(permit);
            if let Some(opened) = opened {
                serve(gateway, opened, from.ip()).await;
            }
        });
    }
}

/// A connection that is ready to be served.
enum Opened {
    Cluster(TcpStream, String, Vec<u8>),
    Tunnel(Box<Connection>, route::HostIdentity, i64),
    Peer(Box<Connection>),
    Http(Box<Connection>, Option<String>),
}

async fn handshake(gateway: &Gateway, mut stream: TcpStream, from: SocketAddr) -> Option<Opened> {
    let (hello, seen) = match hello::read(&mut stream, HANDSHAKE_DEADLINE).await {
        Ok(read) => read,
        Err(error) => {
            gateway.metrics.count("connection", "no-hello");
            tracing::debug!(peer = %from, %error, "connection dropped");
            return None;
        }
    };
    let protocol = match route::front(&hello, &gateway.settings.hub_domain) {
        Front::Cluster { server_name } => {
            return Some(Opened::Cluster(stream, server_name, seen));
        }
        Front::Terminate(protocol) => protocol,
    };
    let material = gateway.material()?;
    let acceptor = TlsAcceptor::from(material.server(protocol));
    let accepting = acceptor.accept(Rewind::new(seen, stream));
    let connection = match timeout(HANDSHAKE_DEADLINE, accepting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            gateway.metrics.count("connection", "handshake-failed");
            tracing::info!(peer = %from, ?protocol, %error, "handshake failed");
            return None;
        }
        Err(_) => {
            gateway.metrics.count("connection", "handshake-late");
            return None;
        }
    };
    admit(gateway, connection, protocol, from)
}

fn admit(
    gateway: &Gateway,
    connection: Connection,
    protocol: Protocol,
    from: SocketAddr,
) -> Option<Opened> {
    let tls = connection.get_ref().1;
    let certificate = tls.peer_certificates().and_then(<[_]>::first);
    let client: Option<Peer> = match certificate.map(verify::peer).transpose() {
        Ok(client) => client,
        Err(error) => {
            // The verifier read the same certificate; this cannot happen, and is no entry.
            tracing::error!(peer = %from, %error, "verified certificate is unreadable");
            return None;
        }
    };
    let not_after = client.as_ref().map_or(0, |client| client.not_after);
    let old = tls.protocol_version() != Some(ProtocolVersion::TLSv1_3);
    if old && protocol != Protocol::Http {
        return None;
    }
    match route::admit(protocol, client.map(|client| client.identity)) {
        Ok(Admission::Tunnel(host)) => Some(Opened::Tunnel(Box::new(connection), host, not_after)),
        Ok(Admission::Peer) => Some(Opened::Peer(Box::new(connection))),
        Ok(Admission::Http { plane }) => Some(Opened::Http(Box::new(connection), plane)),
        Err(refused) => {
            gateway.metrics.count("connection", "forbidden");
            tracing::warn!(peer = %from, %refused, "connection refused");
            None
        }
    }
}

async fn serve(gateway: Arc<Gateway>, opened: Opened, from: IpAddr) {
    match opened {
        Opened::Cluster(stream, name, seen) => {
            Box::pin(passthrough::serve(gateway, stream, name, seen)).await;
        }
        Opened::Http(connection, plane) => {
            Box::pin(http::serve(gateway, *connection, plane, from)).await;
        }
        Opened::Tunnel(connection, host, not_after) => {
            // The class is the agent's to say; ours in the hello has no meaning to it.
            let hello = gateway.hello(Class::Interactive);
            match Session::accept(*connection, hello, gateway.session_config()).await {
                Ok((session, incoming)) => {
                    let bulk = gateway.bulk.clone();
                    let class = session.peer().class;
                    let serving = tunnel_server::serve(gateway, host, not_after, session, incoming);
                    match class {
                        Class::Interactive => Box::pin(serving).await,
                        Class::Bulk => _ = bulk.spawn(serving),
                    }
                }
                Err(error) => {
                    gateway.metrics.count("tunnel", "no-session");
                    tracing::info!(host = host.host, peer = %from, %error, "no session");
                }
            }
        }
        Opened::Peer(connection) => {
            let hello = gateway.hello(Class::Interactive);
            match Session::accept(*connection, hello, gateway.session_config()).await {
                Ok((session, incoming)) => {
                    Box::pin(peer::serve(gateway, session, incoming)).await;
                }
                Err(error) => tracing::info!(peer = %from, %error, "no session"),
            }
        }
    }
}
