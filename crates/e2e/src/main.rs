//! End-to-end tests: a real hub, real lab hosts, real clusters, driven as a person would,
//! by `farplane` and `kubectl`.
//!
//! Scenarios run one after the other on one hub of their own name, in the order of
//! [`scenarios::all`]; a later one may build on what an earlier one left. A failed scenario
//! does not stop the others. Waiting is for conditions: [`world::World::eventually`]. At the
//! end the hub is purged and the machine compared with what it was before.

mod clock;
mod machine;
mod run;
mod scenarios;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;

/// Runs the end-to-end scenarios.
#[derive(Parser, Debug)]
struct Arguments {
    /// Folder with `bin/`, `images/` and `artifacts/`.
    #[arg(long, default_value = "dist")]
    dist: PathBuf,
    /// Folder with programs of other projects that scenarios drive: `fission`.
    #[arg(long)]
    tools: Option<PathBuf>,
    /// Name of the hub that the scenarios make and purge.
    #[arg(long, default_value = "e2e")]
    hub: String,
    /// Only scenarios whose name contains this text (set-up scenarios always run).
    #[arg(long)]
    only: Option<String>,
    /// Leave the hub running at the end, for looking at it.
    #[arg(long)]
    keep: bool,
    /// How long the hub stays away while Pods must go on serving; at least one check.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    outage: u64,
    /// Only run this program with its clock moved by so many seconds; scenarios do so.
    #[arg(
        long,
        hide = true,
        num_args = 2..,
        allow_hyphen_values = true,
        value_names = ["SECONDS", "PROGRAM"]
    )]
    shift_clock: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let [seconds, command @ ..] = arguments.shift_clock.as_slice() {
        return shifted(seconds, command);
    }
    let outage = Duration::from_secs(arguments.outage);
    let tools = arguments.tools.as_deref();
    let world = match world::World::new(&arguments.dist, tools, &arguments.hub, outage) {
        Ok(world) => world,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let (mut passed, mut failed) = (0_u32, 0_u32);
    for scenario in scenarios::all() {
        let wanted = arguments
            .only
            .as_ref()
            .is_none_or(|text| scenario.name.contains(text.as_str()));
        if !wanted && !scenario.set_up || arguments.keep && scenario.tear_down {
            continue;
        }
        let started = Instant::now();
        eprintln!("e2e: {} ...", scenario.name);
        match (scenario.body)(&world) {
            Ok(()) => {
                passed += 1;
                println!(
                    "ok      {:>6.1}s  {}",
                    started.elapsed().as_secs_f64(),
                    scenario.name
                );
            }
            Err(error) => {
                failed += 1;
                println!(
                    "FAILED  {:>6.1}s  {}: {error:#}",
                    started.elapsed().as_secs_f64(),
                    scenario.name
                );
                world.keep_evidence(scenario.name);
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn shifted(seconds: &str, command: &[String]) -> ExitCode {
    let seconds = seconds.parse().context("read the seconds");
    match seconds.and_then(|seconds| clock::run_shifted(seconds, command)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}
