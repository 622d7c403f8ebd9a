//! TCP connections with a deadline and the options that every one of ours has.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream, ToSocketAddrs};

/// Longest wait for a connection.
pub const DIAL_DEADLINE: Duration = Duration::from_secs(10);
/// Waiting connections at the listener.
const BACKLOG: u32 = 1024;

/// Connects within [`DIAL_DEADLINE`].
///
/// # Errors
/// When nobody answers in time or the connection is refused.
pub async fn tcp(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let dialled = tokio::time::timeout(DIAL_DEADLINE, TcpStream::connect(address)).await;
    let stream = dialled.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    tune(&stream);
    Ok(stream)
}

/// Connects to the first of several addresses that answers, in this order.
///
/// # Errors
/// The last failure; `AddrNotAvailable` when there are no addresses.
pub async fn first(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match tcp(*address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Sends small writes at once and notices a peer that vanished. Best effort: a connection
/// without these options still works.
pub fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    let result = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = result {
        tracing::debug!(%error, "socket options not set");
    }
}

/// Listens so that a restart can take the address over at once.
///
/// # Errors
/// When the address is in use or not ours.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
