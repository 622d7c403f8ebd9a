//! An instance: answers with its path, or with the body that it got.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::Result;

/// Serves for ever.
pub async fn run(work: Duration) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let service = service_fn(move |request| answer(request, work));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
        tokio::spawn(connection);
    }
}

async fn answer(
    request: Request<Incoming>,
    work: Duration,
) -> std::result::Result<Response<BoxBody<Bytes, hyper::Error>>, Infallible> {
    if request.method() == Method::POST {
        return Ok(Response::new(request.into_body().boxed()));
    }
    let began = Instant::now();
    while began.elapsed() < work {
        std::hint::spin_loop();
    }
    let text = format!("hello from {}", request.uri().path());
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    Ok(Response::new(body.boxed()))
}
