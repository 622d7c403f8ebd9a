//! The socket of a connection, which ends when nobody wants it any more.
//!
//! The client has a thread for each connection, and waits there for the server without an end.
//! A server that takes connections and says nothing would be left with more of them at each
//! try. So the socket is shut down here, which ends the thread, whatever the server does.

use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use lapin::tcp::{AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{ConnectionProperties, runtime};
use tokio::net::lookup_host;

/// For TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For the client to take leave of the server.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The same socket as the client's.
type Socket = Mutex<Option<std::net::TcpStream>>;

/// Ends a connection with itself.
pub(super) struct Line(Arc<Socket>);

impl Line {
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// Connects the client on this line.
    pub async fn connect(
        &self,
        uri: AMQPUri,
        options: ConnectionProperties,
        authorities: Option<String>,
    ) -> lapin::Result<lapin::Connection> {
        let socket = Arc::downgrade(&self.0);
        let tls = OwnedTLSConfig {
            identity: None,
            cert_chain: authorities,
        };
        let runtime = runtime::default_runtime()?;
        lapin::Connection::connector(
            uri,
            runtime,
            async move |uri: AMQPUri, runtime| {
                let connecting = async {
                    let host = uri.authority.host.as_str();
                    let found = lookup_host((host, uri.authority.port)).await?;
                    let addresses: Vec<_> = found.collect();
                    let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
                    if let AsyncTcpStream::Plain(plain) = &stream {
                        keep(&socket, plain.get_ref())?;
                    }
                    match uri.scheme {
                        AMQPScheme::AMQP => Ok(stream),
                        AMQPScheme::AMQPS => stream.into_tls(host, tls.as_ref()).await,
                    }
                };
                let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
                Ok(connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?)
            },
            options,
        )
        .await
    }
}

/// Keeps a socket, if somebody wants it still.
fn keep(socket: &Weak<Socket>, stream: &tokio::net::TcpStream) -> std::io::Result<()> {
    let Some(socket) = socket.upgrade() else {
        return Err(std::io::ErrorKind::ConnectionAborted.into());
    };
    let same = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?);
    let mut socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
    *socket = Some(same);
    Ok(())
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(socket) = socket.take() else { return };
        let cut = Cut(socket);
        // When the process ends, so does the line.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(LEAVE_TIMEOUT).await;
                drop(cut);
            });
        }
    }
}

struct Cut(std::net::TcpStream);

impl Drop for Cut {
    fn drop(&mut self) {
        // Fails when it was shut down from either side before, and that is as well.
        _ = self.0.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn a_server_that_says_nothing_is_left() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut uri = AMQPUri::default();
        uri.authority.host = "127.0.0.1".into();
        uri.authority.port = listener.local_addr().unwrap().port();
        let line = Line::new();
        let connecting = line.connect(uri, ConnectionProperties::default(), None);
        let (mut stream, read) = tokio::select! {
            _ = connecting => panic!("connected"),
            read = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut hello = [0; 8];
                stream.read_exact(&mut hello).await.unwrap();
                (stream, hello)
            } => read,
        };
        assert_eq!(&read[..4], b"AMQP");
        tokio::time::pause();
        drop(line);
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
