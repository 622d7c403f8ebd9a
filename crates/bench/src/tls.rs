//! TLS of the benchmarks' clients. Sessions are never resumed, so that each connection costs
//! what it costs an API server, which does not resume either.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Settings that trust `ca` (PEM), show `identity` (certificate and key, PEM), and offer `alpn`.
///
/// # Errors
/// When a text is not PEM of its kind.
pub fn settings(
    ca: &[u8],
    identity: Option<(&str, &str)>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        roots
            .add(certificate.context("read the CA")?)
            .context("trust the CA")?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .context("read the certificate")?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("read the key")?;
            builder
                .with_client_auth_cert(chain, key)
                .context("use the certificate")?
        }
    };
    config.alpn_protocols = alpn.iter().map(|one| one.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Connects to `address` and shakes hands with `name`.
///
/// # Errors
/// When either fails.
pub async fn connect(
    address: &str,
    name: &str,
    config: &Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address)
        .await
        .with_context(|| format!("connect to {address}"))?;
    socket.set_nodelay(true).context("set nodelay")?;
    let server = ServerName::try_from(name.to_owned()).context("read the server name")?;
    let connector = TlsConnector::from(Arc::clone(config));
    connector
        .connect(server, socket)
        .await
        .with_context(|| format!("TLS with {name}"))
}

/// Asks for `CONNECT target`; afterwards the stream belongs to the target.
///
/// # Errors
/// When the answer is not 200.
pub async fn ask_connect(stream: &mut TlsStream<TcpStream>, target: &str) -> Result<()> {
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .context("ask for CONNECT")?;
    stream.flush().await.context("ask for CONNECT")?;
    let mut head = Vec::new();
    // The target speaks only when spoken to, so what comes is the head and nothing else.
    while !head.ends_with(b"\r\n\r\n") {
        let byte = stream
            .read_u8()
            .await
            .context("read the answer to CONNECT")?;
        head.push(byte);
        if head.len() > 4096 {
            bail!("the answer to CONNECT has no end");
        }
    }
    let head = String::from_utf8_lossy(&head);
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("CONNECT {target} was answered with: {}", head.trim());
    }
    Ok(())
}
