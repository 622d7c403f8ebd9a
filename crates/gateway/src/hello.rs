//! What a client says before anything is encrypted: the server name and the protocols.
//!
//! The ClientHello is read without being consumed: the bytes read so far are returned with
//! it, to be forwarded unopened ([`crate::passthrough`]) or replayed into our own TLS
//! ([`crate::rewind`]). At most [`MAX_HELLO_BYTES`] are kept.

use std::io;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Most bytes a client may send before its ClientHello is complete.
pub const MAX_HELLO_BYTES: usize = 16 * 1024;

/// Alert record: fatal, `unrecognized_name`.
pub const ALERT_UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
/// Alert record: fatal, `internal_error`.
pub const ALERT_INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// The parts of a ClientHello that decide where a connection goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Server name, lower case.
    pub server_name: Option<String>,
    /// Protocols offered by ALPN, in the client's order.
    pub alpn: Vec<Vec<u8>>,
}

/// Why no ClientHello could be read.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The client sent something else.
    #[error("the first bytes are no TLS ClientHello")]
    NotTls {
        /// What the parser says.
        source: rustls::Error,
    },
    /// The client sent too much.
    #[error("no complete ClientHello within {MAX_HELLO_BYTES} bytes")]
    TooLong,
    /// The client took too long.
    #[error("no complete ClientHello within {seconds} s")]
    Timeout {
        /// The deadline, in seconds.
        seconds: u64,
    },
    /// The client went away.
    #[error("failed to read the ClientHello")]
    Read {
        /// What the socket says.
        source: io::Error,
    },
}

/// Takes bytes as they come until a ClientHello is complete.
pub struct HelloReader {
    acceptor: Acceptor,
    seen: Vec<u8>,
}

impl Default for HelloReader {
    fn default() -> Self {
        Self {
            acceptor: Acceptor::default(),
            seen: Vec::with_capacity(1024),
        }
    }
}

impl HelloReader {
    /// Adds bytes. Answers `None` while more are needed; must not be called after an answer.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<Option<Hello>, HelloError> {
        if self.seen.len() + bytes.len() > MAX_HELLO_BYTES {
            return Err(HelloError::TooLong);
        }
        self.seen.extend_from_slice(bytes);
        while !bytes.is_empty() {
            self.acceptor
                .read_tls(&mut bytes)
                .map_err(|source| HelloError::Read { source })?;
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => return Ok(Some(summary(&accepted.client_hello()))),
                Err((source, _alert)) => return Err(HelloError::NotTls { source }),
            }
        }
        Ok(None)
    }

    /// Every byte pushed so far.
    pub fn into_seen(self) -> Vec<u8> {
        self.seen
    }
}

fn summary(hello: &rustls::server::ClientHello<'_>) -> Hello {
    Hello {
        server_name: hello.server_name().map(str::to_ascii_lowercase),
        alpn: hello
            .alpn()
            .map(|list| list.map(<[u8]>::to_vec).collect())
            .unwrap_or_default(),
    }
}

/// Reads a ClientHello and returns it with every byte read.
///
/// # Errors
/// When the client sends none in time; the connection is of no further use then.
pub async fn read<IO>(io: &mut IO, deadline: Duration) -> Result<(Hello, Vec<u8>), HelloError>
where
    IO: AsyncRead + Unpin,
{
    let reading = async {
        let mut reader = HelloReader::default();
        let mut chunk = [0u8; 2048];
        loop {
            let count = io
                .read(&mut chunk)
                .await
                .map_err(|source| HelloError::Read { source })?;
            if count == 0 {
                return Err(HelloError::Read {
                    source: io::ErrorKind::UnexpectedEof.into(),
                });
            }
            if let Some(hello) = reader.push(&chunk[..count])? {
                return Ok((hello, reader.into_seen()));
            }
        }
    };
    tokio::time::timeout(deadline, reading)
        .await
        .unwrap_or(Err(HelloError::Timeout {
            seconds: deadline.as_secs(),
        }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn client_hello(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|one| one.to_vec()).collect();
        let name = name.to_owned().try_into().unwrap();
        let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_hello_split_at_every_byte_reads_the_same() {
        let bytes = client_hello("First.Demo.k8s.hub.test", &[b"h2", b"http/1.1"]);
        for at in 0..bytes.len() {
            let mut reader = HelloReader::default();
            assert_eq!(reader.push(&bytes[..at]).unwrap(), None, "split at {at}");
            let hello = reader.push(&bytes[at..]).unwrap().unwrap();
            assert_eq!(
                hello.server_name.as_deref(),
                Some("first.demo.k8s.hub.test")
            );
            assert_eq!(hello.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
            assert_eq!(reader.into_seen(), bytes);
        }
    }

    #[test]
    fn no_server_name_is_no_error() {
        let mut reader = HelloReader::default();
        let hello = reader.push(&client_hello("127.0.0.1", &[])).unwrap();
        assert_eq!(hello, Some(Hello::default()));
    }

    #[test]
    fn plain_http_is_refused() {
        let mut reader = HelloReader::default();
        let answer = reader.push(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n");
        assert!(matches!(answer, Err(HelloError::NotTls { .. })));
    }

    #[tokio::test]
    async fn a_silent_client_is_dropped() {
        tokio::time::pause();
        let (_client, mut server) = tokio::io::duplex(64);
        let answer = read(&mut server, Duration::from_secs(10)).await;
        assert!(matches!(answer, Err(HelloError::Timeout { seconds: 10 })));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(chunks in prop::collection::vec(
            prop::collection::vec(any::<u8>(), 0..600), 0..40)) {
            let mut reader = HelloReader::default();
            for chunk in chunks {
                if !matches!(reader.push(&chunk), Ok(None)) {
                    break;
                }
            }
            prop_assert!(reader.into_seen().len() <= MAX_HELLO_BYTES);
        }

        #[test]
        fn a_damaged_hello_never_panics(at in 0usize..200, byte in any::<u8>()) {
            let mut bytes = client_hello("gateway.hub.test", &[b"farplane-tunnel/1"]);
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = HelloReader::default().push(&bytes);
        }
    }
}
