//! What nobody between a client and an instance can undercut: bytes are passed on, and not looked
//! at. Run in the network of the router's Pod, so that packets go the same way.
//!
//! As the router has it: a thread for each core, a connection stays with one of them, and so does
//! the connection to the instance that belongs to it.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};

/// From where to where.
#[derive(Args, Debug, Clone)]
pub struct Relay {
    /// Address to listen at.
    listen: SocketAddr,
    /// Address that every connection is passed on to.
    target: SocketAddr,
}

/// Runs until it is killed.
///
/// # Errors
/// When the address cannot be listened at.
pub async fn run(relay: Relay) -> Result<()> {
    let listener = TcpListener::bind(relay.listen).await;
    let listener = listener.with_context(|| format!("listen at {}", relay.listen))?;
    let workers = workers()?;
    println!("listening");
    for worker in workers.iter().cycle() {
        let (client, _) = listener.accept().await.context("accept")?;
        // Each runtime has its own poller.
        let client = client.into_std().context("take the connection over")?;
        worker.spawn(async move {
            if let Err(error) = pass(client, relay.target).await {
                eprintln!("relay: {error:#}");
            }
        });
    }
    Ok(())
}

fn workers() -> Result<Vec<Handle>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut handles = Vec::new();
    for _ in 0..cores {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("start a runtime")?;
        handles.push(runtime.handle().clone());
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    }
    Ok(handles)
}

async fn pass(client: std::net::TcpStream, target: SocketAddr) -> Result<()> {
    let mut client = TcpStream::from_std(client).context("take the connection over")?;
    let mut instance = TcpStream::connect(target).await.context("connect")?;
    client.set_nodelay(true).context("set TCP_NODELAY")?;
    instance.set_nodelay(true).context("set TCP_NODELAY")?;
    // Benchmarks end their connections in any manner.
    _ = tokio::io::copy_bidirectional(&mut client, &mut instance).await;
    Ok(())
}
