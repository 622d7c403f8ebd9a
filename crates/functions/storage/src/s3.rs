//! A bucket at S3, by our own HTTP client and TLS provider.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{
    HttpClient, HttpConnector as Connector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::error::Error;
use crate::settings::S3;

/// How long a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long one request may take until its answer begins: a part of 8 MiB over a slow line.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);

/// Opens the bucket; nothing is sent yet.
pub fn open(bucket: &S3) -> Result<AmazonS3, Error> {
    let failed = |reason: String| Error::Open {
        place: format!("bucket {}", bucket.bucket),
        reason,
    };
    let client = client(bucket.certificates.as_deref()).map_err(failed)?;
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&bucket.bucket)
        .with_region(&bucket.region)
        .with_access_key_id(&bucket.access_key_id)
        .with_secret_access_key(&bucket.secret_access_key)
        .with_allow_http(bucket.endpoint.starts_with("http://"))
        .with_http_connector(client);
    if !bucket.endpoint.is_empty() {
        builder = builder
            .with_endpoint(bucket.endpoint.trim_end_matches('/'))
            .with_virtual_hosted_style_request(false);
    }
    builder.build().map_err(|error| failed(error.to_string()))
}

#[derive(Clone, Debug)]
struct Hyper(Client<HttpsConnector<HttpConnector>, HttpRequestBody>);

fn client(certificates: Option<&[u8]>) -> Result<Hyper, String> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    for certificate in CertificateDer::pem_slice_iter(certificates.unwrap_or_default()) {
        let certificate = certificate.map_err(|error| format!("certificates: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("certificates: {error}"))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("no TLS: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT_DEADLINE));
    http.set_nodelay(true);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(20))
        .build(connector);
    Ok(Hyper(client))
}

impl Connector for Hyper {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Hyper {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = tokio::time::timeout(ANSWER_DEADLINE, self.0.request(request));
        let response = match answer.await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_connect() => {
                return Err(HttpError::new(HttpErrorKind::Connect, error));
            }
            Ok(Err(error)) => return Err(HttpError::new(HttpErrorKind::Interrupted, error)),
            Err(late) => return Err(HttpError::new(HttpErrorKind::Timeout, late)),
        };
        let (head, body) = response.into_parts();
        let body = body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error));
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
    }
}
