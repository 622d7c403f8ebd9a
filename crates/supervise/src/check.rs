//! Asking a process whether it is ready.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// What an answer may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// How a process is asked whether it is ready.
#[derive(Clone, Debug)]
pub enum Check {
    /// It accepts connections at this address.
    Tcp(SocketAddr),
    /// It accepts connections at this socket.
    UnixSocket(PathBuf),
    /// A GET of this `http://` URL is answered with a status of 200 to 299.
    Http(String),
    /// This path exists.
    Path(PathBuf),
    /// Something else.
    Custom(Arc<dyn Probe>),
}

/// A question of the caller's own to a process.
pub trait Probe: Debug + Send + Sync {
    /// Asks once. No answer within five seconds is a no.
    fn ask(&self) -> BoxFuture<'_, bool>;
}

impl Check {
    /// Asks once.
    pub(crate) async fn ask(&self) -> bool {
        let answer = async {
            match self {
                Self::Tcp(address) => TcpStream::connect(address).await.is_ok(),
                Self::UnixSocket(path) => UnixStream::connect(path).await.is_ok(),
                Self::Http(url) => get(url).await.is_ok_and(|head| is_success(&head)),
                Self::Path(path) => path.exists(),
                Self::Custom(probe) => probe.ask().await,
            }
        };
        tokio::time::timeout(DEADLINE, answer)
            .await
            .unwrap_or(false)
    }
}

/// The beginning of the answer, as far as the status is in it.
async fn get(url: &str) -> std::io::Result<[u8; 12]> {
    let (authority, page) =
        parse(url).ok_or_else(|| std::io::Error::other("no plain http URL with a host"))?;
    let host = authority.strip_suffix(":80").unwrap_or(authority);
    let mut stream = match has_port(authority) {
        true => TcpStream::connect(authority).await?,
        false => TcpStream::connect(format!("{authority}:80")).await?,
    };
    let request = format!("GET {page} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(head)
}

/// Host with port, and page.
fn parse(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let (authority, page) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'@';
    let valid = !authority.is_empty() && authority.bytes().all(plain);
    let page = if page.is_empty() { "/" } else { page };
    (valid && page.bytes().all(|byte| byte.is_ascii_graphic())).then_some((authority, page))
}

/// The address of IPv6 has colons itself, within brackets.
fn has_port(authority: &str) -> bool {
    let after = authority.rsplit(']').next().unwrap_or(authority);
    after.contains(':')
}

fn is_success(head: &[u8; 12]) -> bool {
    head.starts_with(b"HTTP/1.") && head[8] == b' ' && head[9] == b'2'
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, UnixListener};

    /// A server that answers every request with `answer`, at the address.
    async fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                assert!(request.starts_with(b"GET /readyz?all HTTP/1.0\r\nHost: 127.0.0.1:"));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        address
    }

    async fn closed() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    }

    #[tokio::test]
    async fn an_address_is_ready_when_something_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(Check::Tcp(address).ask().await);
        drop(listener);
        assert!(!Check::Tcp(address).ask().await);
    }

    #[tokio::test]
    async fn a_socket_is_ready_when_something_listens_not_when_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let check = Check::UnixSocket(path.clone());
        assert!(!check.ask().await);
        let listener = UnixListener::bind(&path).unwrap();
        assert!(check.ask().await);
        drop(listener);
        assert!(path.exists());
        assert!(!check.ask().await);
    }

    #[tokio::test]
    async fn a_page_is_ready_when_it_succeeds() {
        for (answer, ready) in [
            ("HTTP/1.1 200 OK\r\n\r\nok", true),
            ("HTTP/1.0 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 301 Elsewhere\r\n\r\n", false),
            ("HTTP/1.1 500 Oh\r\n\r\n200", false),
            ("SMTP/1.1 200 OK\r\n\r\n", false),
            ("HTTP/1.1", false),
        ] {
            let url = format!("http://{}/readyz?all", server(answer).await);
            assert_eq!(Check::Http(url).ask().await, ready, "{answer}");
        }
        let url = format!("http://{}/", closed().await);
        assert!(!Check::Http(url).ask().await);
    }

    #[tokio::test]
    async fn a_path_is_ready_when_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let check = Check::Path(path.clone());
        assert!(!check.ask().await);
        std::fs::write(path, "").unwrap();
        assert!(check.ask().await);
    }

    #[derive(Debug)]
    struct Answer(Option<bool>);
    impl Probe for Answer {
        fn ask(&self) -> BoxFuture<'_, bool> {
            Box::pin(async {
                match self.0 {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_custom_check_decides_itself_and_within_a_deadline() {
        assert!(Check::Custom(Arc::new(Answer(Some(true)))).ask().await);
        assert!(!Check::Custom(Arc::new(Answer(Some(false)))).ask().await);
        assert!(!Check::Custom(Arc::new(Answer(None))).ask().await);
    }

    #[test]
    fn addresses_of_pages_are_taken_apart() {
        assert_eq!(parse("http://a:1/b/c"), Some(("a:1", "/b/c")));
        assert_eq!(parse("http://[::1]:1"), Some(("[::1]:1", "/")));
        for bad in [
            "https://a/",
            "http:///b",
            "a",
            "http://u@a/",
            "http://a/b c",
            "http://a/\r\n",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert!(has_port("[::1]:80") && has_port("a:1"));
        assert!(!has_port("[::1]") && !has_port("a"));
    }
}
