//! `farplane-test-server`: what tests run inside Pods.
//!
//! One static program for an empty image: an HTTP server, a validating webhook, an
//! aggregated API, a client, an HTTP proxy, a certificate maker. Not for anything but tests: it answers
//! everyone and shows its environment.

mod apiservice;
mod certificate;
mod fetch;
mod proxy;
mod serve;
mod tls;
mod webhook;

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use axum::Router;
use clap::{Args, Parser, Subcommand};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// What tests run inside Pods.
#[derive(Parser, Debug)]
#[command(name = "farplane-test-server", version)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand, Debug)]
enum Mode {
    /// Serve HTTP: /, /hostname, /echo, /env, /healthz
    Serve {
        /// Port, on every address
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
    /// Serve a validating webhook that denies objects with the label deny=true
    Webhook(TlsServer),
    /// Serve an aggregated API: group test.farplane.io, version v1, resource pings
    Apiservice(TlsServer),
    /// Fetch a URL and print the body
    Fetch(fetch::FetchArgs),
    /// Serve as an HTTP proxy that knows CONNECT only
    Proxy(proxy::ProxyArgs),
    /// Print the addresses of a name, one per line
    Resolve {
        /// Name
        name: String,
    },
    /// Make a self-signed certificate; print it as JSON, or write it to a directory
    SelfSigned(certificate::SelfSignedArgs),
    /// Do nothing until told to end
    Sleep,
}

#[derive(Args, Debug)]
struct TlsServer {
    /// Port, on every address
    #[arg(long, default_value_t = 8443)]
    port: u16,
    /// Certificate chain, PEM
    #[arg(long)]
    cert: PathBuf,
    /// Private key, PEM
    #[arg(long)]
    key: PathBuf,
}

fn main() -> ExitCode {
    // Fails only when another provider was chosen before: there is none.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(Cli::parse().mode) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(mode: Mode) -> Result<()> {
    let work = async move {
        match mode {
            Mode::Serve { port } => {
                let listener = listen(port).await?;
                let app = serve::router().into_make_service_with_connect_info::<SocketAddr>();
                axum::serve(listener, app).await.context("serve")
            }
            Mode::Webhook(server) => over_tls(&server, webhook::router()).await,
            Mode::Apiservice(server) => over_tls(&server, apiservice::router()).await,
            Mode::Fetch(args) => fetch::run(&args).await,
            Mode::Proxy(args) => proxy::run(&args).await,
            Mode::Resolve { name } => fetch::resolve(&name).await,
            Mode::SelfSigned(args) => certificate::run(&args),
            Mode::Sleep => std::future::pending().await,
        }
    };
    tokio::select! {
        outcome = work => outcome,
        ended = told_to_end() => ended,
    }
}

/// The first process of a container is not ended by a signal that it does not handle.
async fn told_to_end() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Listens on every address, of IPv6 too where there is any.
async fn listen(port: u16) -> Result<TcpListener> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listener = match TcpListener::bind(both).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port)))
            .await
            .with_context(|| format!("listen on port {port}"))?,
    };
    println!("listening on {}", listener.local_addr().context("listen")?);
    Ok(listener)
}

async fn over_tls(server: &TlsServer, router: Router) -> Result<()> {
    let config = tls::server(&server.cert, &server.key)?;
    let listener = tls::TlsListener::new(listen(server.port).await?, config);
    axum::serve(listener, router).await.context("serve")
}
