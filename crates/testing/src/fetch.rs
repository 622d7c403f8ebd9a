//! The client: fetches a URL by HTTP/1.1, and resolves names as any program of a Pod.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What to fetch.
#[derive(Args, Debug)]
pub struct FetchArgs {
    /// URL; https needs --ca
    url: Uri,
    /// Value of the header Host, when it is not that of the URL
    #[arg(long)]
    host: Option<String>,
    /// Another header, as `Name: value`; may be repeated
    #[arg(long)]
    header: Vec<String>,
    /// Certificates to trust, PEM
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Fail unless the body contains this
    #[arg(long)]
    expect: Option<String>,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 10)]
    timeout: u64,
}

/// Fetches it and prints the body; any status but 2xx is a failure.
///
/// # Errors
/// Says which step failed: name, connection, TLS, answer.
pub async fn run(args: &FetchArgs) -> Result<()> {
    let limit = Duration::from_secs(args.timeout);
    let (status, body) = tokio::time::timeout(limit, fetch(args))
        .await
        .with_context(|| format!("{}: no answer within {} s", args.url, args.timeout))??;
    print!("{body}");
    ensure!(
        (200..300).contains(&status),
        "{}: answered {status}",
        args.url
    );
    if let Some(expected) = &args.expect {
        ensure!(
            body.contains(expected),
            "the body does not contain {expected:?}"
        );
    }
    Ok(())
}

async fn fetch(args: &FetchArgs) -> Result<(u16, String)> {
    let url = &args.url;
    let host = url.host().context("the URL has no host")?;
    let secure = match url.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => bail!("the URL must begin with http:// or https://"),
    };
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let bare = host.trim_matches(['[', ']']);
    let stream = TcpStream::connect((bare, port))
        .await
        .with_context(|| format!("connect to {host}:{port}"))?;
    if !secure {
        return exchange(stream, args).await;
    }
    let ca = args.ca.as_deref().context("https needs --ca")?;
    let name = ServerName::try_from(bare.to_owned()).context("use the host's name for TLS")?;
    let stream = TlsConnector::from(trusting(ca)?)
        .connect(name, stream)
        .await
        .with_context(|| format!("TLS with {host}:{port}"))?;
    exchange(stream, args).await
}

fn trusting(ca: &Path) -> Result<Arc<ClientConfig>> {
    let read = || format!("read {}", ca.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).with_context(read)? {
        roots
            .add(certificate.with_context(read)?)
            .with_context(read)?;
    }
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

async fn exchange<S>(stream: S, args: &FetchArgs) -> Result<(u16, String)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .context("begin HTTP")?;
    tokio::spawn(connection);
    let authority = args
        .url
        .authority()
        .map_or("", |authority| authority.as_str());
    let path = args.url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::get(path)
        .header(HOST, args.host.as_deref().unwrap_or(authority))
        .body(Empty::<Bytes>::new())
        .context("make the request")?;
    for header in &args.header {
        let (name, value) = header
            .split_once(':')
            .context("write --header Name: value")?;
        let name: HeaderName = name.trim().parse().context("read the header's name")?;
        let value: HeaderValue = value.trim().parse().context("read the header's value")?;
        request.headers_mut().insert(name, value);
    }
    let response = sender
        .send_request(request)
        .await
        .context("send the request")?;
    let status = response.status().as_u16();
    let body = response
        .into_body()
        .collect()
        .await
        .context("read the body")?;
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok((status, body))
}

/// Prints the addresses of a name, sorted.
///
/// # Errors
/// When the name has none.
pub async fn resolve(name: &str) -> Result<()> {
    let found = tokio::net::lookup_host((name, 0))
        .await
        .with_context(|| format!("resolve {name}"))?;
    let mut addresses: Vec<String> = found.map(|address| address.ip().to_string()).collect();
    addresses.sort();
    addresses.dedup();
    ensure!(!addresses.is_empty(), "{name} has no address");
    println!("{}", addresses.join("\n"));
    Ok(())
}
