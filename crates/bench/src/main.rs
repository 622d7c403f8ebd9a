//! Benchmarks of the whole: a real hub, real clusters and hosts, a gateway under load, and
//! konnectivity beside it. `cargo xtask bench` builds what it needs and calls it.
//!
//! Each benchmark is a module that says what it asks, what is in the timed part and which
//! traps it avoids; [`catalogue`] lists them, [`report`] judges their figures. What a hub is
//! needed for runs on a hub of its own name, which is purged at the end, also after a failure.
//! A benchmark that cannot run is told of and does not stop the others.

mod agents;
mod calls;
mod catalogue;
mod cluster_create;
mod functions;
mod gateway;
mod host_join;
mod hub;
mod konnectivity;
mod loopback;
mod memory;
mod process;
mod relay;
mod report;
mod sides;
mod stats;
mod tls;
mod traffic;
mod up;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::catalogue::{Benchmark, Place, names};
use crate::hub::Hub;
use crate::report::{Report, Row};

/// Measures what SPEC.md promises.
#[derive(Parser, Debug)]
#[command(name = "farplane-bench")]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Folder with `bin/`, `images/` and `artifacts/`.
    #[arg(long, default_value = "dist")]
    dist: PathBuf,
    /// The tree, for a fresh clone of it.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Name of the hub that is made and purged.
    #[arg(long, default_value = "bench")]
    hub: String,
    /// Folder with `konnectivity-server` and `konnectivity-agent`.
    #[arg(long)]
    konnectivity: Option<PathBuf>,
    /// Rows that the tunnel's own benchmark gave: an object with a list per benchmark.
    #[arg(long)]
    tunnel: Option<PathBuf>,
    /// Also write the report to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only this benchmark.
    #[arg(long, value_parser = catalogue::find)]
    only: Option<Benchmark>,
    /// Only those of functions.
    #[arg(long, conflicts_with = "only")]
    functions: bool,
    /// Less of everything: to see that it works, not to publish.
    #[arg(long)]
    quick: bool,
    /// Also from a fresh clone with every cache empty; takes half an hour.
    #[arg(long)]
    cold: bool,
}

#[derive(Subcommand, Debug, Clone)]
enum Part {
    /// The other process of gateway-1000.
    #[command(hide = true)]
    Agents,
    /// Call an HTTP address and print how long it took, as JSON.
    Calls(calls::Calls),
    /// Pass connections on, as what a router is compared with.
    #[command(hide = true)]
    Relay(relay::Relay),
    /// Names and questions.
    List,
}

fn main() -> ExitCode {
    match start(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> Result<bool> {
    // Fails only when one was installed before, which is as good.
    _ = rustls::crypto::ring::default_provider().install_default();
    process::raise_file_limit();
    // Clients run on this thread and on the runtime's.
    farplane_tunnel::urgent_thread();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .on_thread_start(farplane_tunnel::urgent_thread)
        .enable_all()
        .build()
        .context("start the runtime")?;
    match arguments.part.clone() {
        Some(Part::Calls(calls)) => runtime.block_on(calls::run(calls)).map(|()| true),
        Some(Part::Relay(relay)) => runtime.block_on(relay::run(relay)).map(|()| true),
        Some(Part::Agents) => runtime.block_on(agents::run()).map(|()| true),
        Some(Part::List) => {
            for one in catalogue::ALL {
                println!("{:<18} {}", one.name, one.asks);
            }
            Ok(true)
        }
        None => runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
            tokio::select! {
                done = measure(&arguments) => done,
                // What was started ends with its owner.
                _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
                _ = terminate.recv() => anyhow::bail!("terminated"),
            }
        }),
    }
}

async fn measure(arguments: &Arguments) -> Result<bool> {
    let dist = arguments.dist.canonicalize();
    let dist =
        dist.with_context(|| format!("find {}; run `make build` first", arguments.dist.display()))?;
    let tunnel = match &arguments.tunnel {
        None => Value::Null,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("read {}", path.display()))?;
            serde_json::from_str(&text).context("read the rows of the tunnel")?
        }
    };
    let mut report = Report {
        machine: report::machine(),
        quick: arguments.quick,
        rows: Vec::new(),
    };
    let mut world = World {
        arguments,
        dist,
        hub: None,
        joined: false,
        platform: false,
    };
    for benchmark in wanted(arguments) {
        if let Place::Tunnel(_) = benchmark.place {
            if let rows @ Value::Array(_) = &tunnel[benchmark.name] {
                report.take_tunnel(benchmark.name, rows)?;
            }
            continue;
        }
        eprintln!("bench: {}: {}", benchmark.name, benchmark.asks);
        match world.run(&benchmark).await {
            Ok(rows) => report.rows.extend(rows),
            Err(error) => {
                eprintln!("bench: {} failed: {error:#}", benchmark.name);
                report
                    .rows
                    .push(Row::failed(benchmark.name, benchmark.asks, &error));
            }
        }
        // A run may be interrupted; what was measured so far is kept.
        if let Some(path) = &arguments.json {
            report.write(path)?;
        }
    }
    drop(world);
    if let Some(path) = &arguments.json {
        report.write(path)?;
    }
    print!("{}", report.table());
    Ok(report.is_complete())
}

fn wanted(arguments: &Arguments) -> Vec<Benchmark> {
    match arguments.only {
        Some(one) => vec![one],
        None => catalogue::ALL
            .iter()
            .filter(|one| arguments.cold || !one.on_request)
            .filter(|one| !arguments.functions || one.place == Place::Functions)
            .copied()
            .collect(),
    }
}

/// What benchmarks share.
struct World<'a> {
    arguments: &'a Arguments,
    dist: PathBuf,
    hub: Option<Hub>,
    /// Whether the hub is as `host-join` leaves it.
    joined: bool,
    /// Whether the hub has a cluster with the platform for functions.
    platform: bool,
}

impl World<'_> {
    async fn run(&mut self, benchmark: &Benchmark) -> Result<Vec<Row>> {
        let (name, quick) = (benchmark.name, self.arguments.quick);
        if benchmark.place == Place::Functions {
            let ready = std::mem::take(&mut self.platform);
            let cluster = functions::prepare(self.hub()?, ready, quick).await?;
            let measured = functions::run(&cluster, name).await;
            self.platform = true;
            return measured;
        }
        self.platform = false;
        let joined = std::mem::take(&mut self.joined);
        match name {
            names::UP_COLD => {
                up::cold(
                    &self.arguments.root.canonicalize()?,
                    &format!("{}-cold", self.arguments.hub),
                )
                .await
            }
            names::UP_WARM => up::warm(self.hub()?).await,
            names::UP_RUNNING => up::running(self.hub()?, if quick { 2 } else { 5 }).await,
            names::CLUSTER_CREATE => {
                cluster_create::run(self.hub()?, if quick { 3 } else { 10 }).await
            }
            names::HOST_JOIN => {
                let rows = host_join::run(self.hub()?).await?;
                self.joined = true;
                Ok(rows)
            }
            names::MEMORY => memory::run(self.hub()?, joined).await,
            names::GATEWAY_1000 => {
                self.without_hub();
                gateway::run(&self.dist, if quick { 100 } else { 1000 }).await
            }
            names::KONNECTIVITY => {
                self.without_hub();
                konnectivity::run(&self.dist, self.rival()?, scale(quick)).await
            }
            other => anyhow::bail!("benchmark {other} is listed but nothing runs it"),
        }
    }

    fn hub(&mut self) -> Result<&Hub> {
        if self.hub.is_none() {
            self.hub = Some(Hub::new(&self.dist, &self.arguments.hub)?);
        }
        self.hub.as_ref().context("no hub")
    }

    /// A hub at rest still takes time from others.
    fn without_hub(&mut self) {
        self.hub = None;
    }

    fn rival(&self) -> Result<&Path> {
        let folder = self.arguments.konnectivity.as_deref();
        folder.context(
            "--konnectivity names no folder; `cargo xtask components konnectivity` builds one",
        )
    }
}

fn scale(quick: bool) -> konnectivity::Scale {
    if quick {
        konnectivity::Scale {
            rounds: 2,
            bytes: 32 << 20,
            samples: 200,
        }
    } else {
        konnectivity::Scale {
            rounds: 4,
            bytes: 256 << 20,
            samples: 1000,
        }
    }
}
