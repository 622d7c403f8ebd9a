//! Dialling over real sockets on the loopback: TLS, proxies, deadlines, and which step failed.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use farplane_tunnel::{
    ALPN, Class, Config, Hello, OpenHeader, Session,
    dial::{Dial, DialError},
    proxy::Proxy,
};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

const NAME: &str = "gateway.test";

struct Tls {
    server: ServerConfig,
    client: ClientConfig,
}

fn tls() -> Tls {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = [&rustls::version::TLS13];
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    server.alpn_protocols = vec![ALPN.to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![ALPN.to_vec()];
    Tls { server, client }
}

fn dial(client: ClientConfig, port: u16) -> Dial {
    Dial {
        host: "127.0.0.1".to_owned(),
        port,
        proxy: None,
        tls: Arc::new(client),
        server_name: ServerName::try_from(NAME).unwrap(),
        deadline: Duration::from_secs(20),
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A gateway that takes sessions and answers each stream with its service's name.
async fn gateway(server: ServerConfig) -> u16 {
    let (listener, port) = listen().await;
    let acceptor = TlsAcceptor::from(Arc::new(server));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let io = acceptor.accept(socket).await.ok()?;
                let hello = Hello::new("test", 1, Class::Interactive);
                let (_session, mut incoming) =
                    Session::accept(io, hello, Config::default()).await.ok()?;
                while let Some(stream) = incoming.next().await {
                    let service = stream.header().service.clone();
                    let mut stream = stream.accept().await.ok()?;
                    stream.write_all(service.as_bytes()).await.ok()?;
                    stream.shutdown().await.ok()?;
                    _ = stream.read_to_end(&mut Vec::new()).await;
                }
                Some(())
            });
        }
    });
    port
}

/// A proxy that answers with `head` and, when it is a yes, relays to the wanted target.
async fn proxy(head: &'static str) -> u16 {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(socket.read_u8().await.ok()?);
                }
                let text = String::from_utf8(request).ok()?;
                let target = text.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
                socket.write_all(head.as_bytes()).await.ok()?;
                if head.contains("200") {
                    let mut out = TcpStream::connect(target).await.ok()?;
                    copy_bidirectional(&mut socket, &mut out).await.ok()?;
                }
                Some(())
            });
        }
    });
    port
}

async fn ask(dial: &Dial) -> Result<String, DialError> {
    let io = dial.run().await?;
    let hello = Hello::new("test", 1, Class::Interactive);
    let (session, _incoming) = Session::connect(io, hello, Config::default())
        .await
        .unwrap();
    let mut stream = session
        .open(OpenHeader::new(Class::Interactive, "who"))
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    Ok(answer)
}

#[tokio::test]
async fn a_session_works_over_tls() {
    let Tls { server, client } = tls();
    let port = gateway(server).await;
    assert_eq!(ask(&dial(client, port)).await.unwrap(), "who");
}

#[tokio::test]
async fn a_session_works_through_a_proxy() {
    let Tls { server, client } = tls();
    let mut dial = dial(client, gateway(server).await);
    let port = proxy("HTTP/1.1 200 OK\r\nX: y\r\n\r\n").await;
    dial.proxy = Some(Proxy::parse(&format!("http://127.0.0.1:{port}")).unwrap());
    assert_eq!(ask(&dial).await.unwrap(), "who");
}

#[tokio::test]
async fn a_proxys_refusal_is_named() {
    let Tls { client, .. } = tls();
    let mut dial = dial(client, 9);
    let port = proxy("HTTP/1.1 407 Nope\r\n\r\n").await;
    dial.proxy = Some(Proxy::parse(&format!("http://127.0.0.1:{port}")).unwrap());
    let error = ask(&dial).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("proxy 127.0.0.1:{port} refused to connect to 127.0.0.1:9 with status 407")
    );
}

#[tokio::test]
async fn another_authority_is_a_tls_error() {
    let port = gateway(tls().server).await;
    let error = ask(&dial(tls().client, port)).await.unwrap_err();
    assert!(matches!(error, DialError::Tls { .. }), "{error}");
}

#[tokio::test]
async fn a_server_without_the_protocol_is_named() {
    let Tls { mut server, client } = tls();
    server.alpn_protocols.clear();
    let port = gateway(server).await;
    let error = ask(&dial(client, port)).await.unwrap_err();
    assert!(matches!(error, DialError::Alpn { .. }), "{error}");
}

#[tokio::test]
async fn nobody_there_is_a_connect_error() {
    let (listener, port) = listen().await;
    drop(listener);
    let error = ask(&dial(tls().client, port)).await.unwrap_err();
    assert!(matches!(error, DialError::Connect { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_says_nothing_meets_the_deadline() {
    let (_listener, port) = listen().await;
    let mut dial = dial(tls().client, port);
    dial.deadline = Duration::from_millis(50);
    let error = ask(&dial).await.unwrap_err();
    assert!(
        matches!(
            error,
            DialError::Deadline {
                step: "TLS handshake",
                ..
            }
        ),
        "{error}"
    );
}
