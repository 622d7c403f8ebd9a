//! An HTTP proxy that passes on what asks by CONNECT, as networks without a way out of their
//! own have it. It says each request and its answer in a line.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const MAX_HEAD_BYTES: usize = 8192;
/// Time for a request, and for reaching what it asks for.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// How to proxy.
#[derive(Args, Debug)]
pub struct ProxyArgs {
    /// Port, on every address
    #[arg(long, default_value_t = 3128)]
    port: u16,
    /// Ask for this value of the header Proxy-Authorization
    #[arg(long)]
    authorization: Option<String>,
}

/// Serves until the program ends.
///
/// # Errors
/// When the port cannot be used.
pub async fn run(args: &ProxyArgs) -> Result<()> {
    let listener = crate::listen(args.port).await?;
    serve(listener, args.authorization.clone()).await
}

async fn serve(listener: TcpListener, wanted: Option<String>) -> Result<()> {
    loop {
        let (client, _) = listener.accept().await.context("accept")?;
        let wanted = wanted.clone();
        tokio::spawn(async move {
            if let Err(error) = connection(client, wanted.as_deref()).await {
                println!("error: {error:#}");
            }
        });
    }
}

async fn connection(mut client: TcpStream, wanted: Option<&str>) -> Result<()> {
    let head = timeout(STEP_LIMIT, head(&mut client))
        .await
        .context("no request in time")??;
    let target = match judge(&head, wanted) {
        Ok(target) => target,
        Err(status) => return answer(&mut client, &head, status).await,
    };
    let server = timeout(STEP_LIMIT, TcpStream::connect(target)).await;
    let Ok(Ok(mut server)) = server else {
        return answer(&mut client, &head, "502 Bad Gateway").await;
    };
    answer(&mut client, &head, "200 Connection established").await?;
    // Either end may break off: that is the end, and nothing to say.
    _ = copy_bidirectional(&mut client, &mut server).await;
    Ok(())
}

/// Everything up to the empty line. A client that says more before the answer breaks the rules.
async fn head(client: &mut TcpStream) -> Result<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        ensure!(bytes.len() < MAX_HEAD_BYTES, "the request is too long");
        bytes.push(client.read_u8().await.context("read the request")?);
    }
    String::from_utf8(bytes).context("read the request")
}

/// Where to, or the status of the refusal.
fn judge<'a>(head: &'a str, wanted: Option<&str>) -> Result<&'a str, &'static str> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some("CONNECT"), Some(target)) = (words.next(), words.next()) else {
        return Err("405 Method Not Allowed");
    };
    let given = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let ours = name.eq_ignore_ascii_case("proxy-authorization");
        ours.then_some(value.trim())
    });
    if wanted.is_some() && given != wanted {
        return Err("407 Proxy Authentication Required");
    }
    Ok(target)
}

async fn answer(client: &mut TcpStream, head: &str, status: &str) -> Result<()> {
    println!("{}: {status}", head.lines().next().unwrap_or_default());
    let demand = match status.starts_with("407") {
        true => "Proxy-Authenticate: Basic realm=\"test\"\r\n",
        false => "",
    };
    let text = format!("HTTP/1.1 {status}\r\n{demand}\r\n");
    client.write_all(text.as_bytes()).await.context("answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connect_with_the_right_password_is_passed_on() {
        let head =
            |more: &str| format!("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n{more}\r\n");
        let wanted = "Basic bWU6c2VjcmV0";
        assert_eq!(judge(&head(""), None), Ok("a.test:443"));
        let right = head(&format!("proxy-authorization: {wanted}\r\n"));
        assert_eq!(judge(&right, Some(wanted)), Ok("a.test:443"));
        let wrong = head("Proxy-Authorization: Basic eDp5\r\n");
        for refused in [head(""), wrong] {
            assert!(
                judge(&refused, Some(wanted))
                    .unwrap_err()
                    .starts_with("407")
            );
        }
        assert!(
            judge("GET / HTTP/1.1\r\n\r\n", None)
                .unwrap_err()
                .starts_with("405")
        );
    }

    #[tokio::test]
    async fn bytes_pass_both_ways() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap();
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = proxy.local_addr().unwrap();
        tokio::spawn(serve(proxy, None));
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let (mut far, _) = server.accept().await.unwrap();
        assert!(
            head(&mut client)
                .await
                .unwrap()
                .starts_with("HTTP/1.1 200 ")
        );
        client.write_all(b"ping").await.unwrap();
        let mut word = [0; 4];
        far.read_exact(&mut word).await.unwrap();
        far.write_all(&word).await.unwrap();
        client.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"ping");
        drop(far);
        assert_eq!(client.read(&mut word).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_not_there_is_told() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = closed.local_addr().unwrap();
        drop(closed);
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = proxy.local_addr().unwrap();
        tokio::spawn(serve(proxy, None));
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = format!("CONNECT {target} HTTP/1.1\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        assert!(
            head(&mut client)
                .await
                .unwrap()
                .starts_with("HTTP/1.1 502 ")
        );
    }
}
