//! End-to-end tests: a real hub, real lab hosts, real clusters, driven as a person would,
//! by `farplane` and `kubectl`.
//!
//! Scenarios are in lanes ([`scenarios::all`]), which run beside each other, each on a hub of its
//! own. In a lane one runs after the other; a later one may build on what an earlier one left. A
//! failed scenario does not stop the others. Waiting is for conditions:
//! [`world::World::eventually`]. At the end the hubs are purged and the machine is compared with
//! what it was before.

mod clock;
mod machine;
mod run;
mod scenarios;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use clap::Parser;

use scenarios::{Lane, Scenario};
use world::World;

/// Runs the end-to-end scenarios.
#[derive(Parser, Debug)]
struct Arguments {
    /// Folder with `bin/`, `images/` and `artifacts/`.
    #[arg(long, default_value = "dist")]
    dist: PathBuf,
    /// Folder with programs of other projects that scenarios drive: `fission`.
    #[arg(long)]
    tools: Option<PathBuf>,
    /// Name of the hub that the scenarios make and purge; those of further lanes begin with it.
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
    match run_all(&arguments) {
        Ok(ending) => {
            println!("{} passed, {} failed", ending.passed, ending.failed);
            ExitCode::from(u8::from(ending.failed > 0))
        }
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How many scenarios ended how.
#[derive(Default)]
struct Ending {
    passed: u32,
    failed: u32,
}

impl Ending {
    fn count(&mut self, name: &str, started: Instant, result: &anyhow::Result<()>) {
        let seconds = started.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("ok      {seconds:>6.1}s  {name}");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAILED  {seconds:>6.1}s  {name}: {error:#}");
            }
        }
    }
}

fn run_all(arguments: &Arguments) -> anyhow::Result<Ending> {
    let marker = format!("/farplane-hub/{}", arguments.hub);
    let before = machine::Machine::look(&marker)?;
    let lanes: Vec<Lane> = scenarios::all().into_iter().collect();
    let mut ending = Ending::default();
    std::thread::scope(|scope| {
        let lanes: Vec<_> = lanes
            .into_iter()
            .map(|lane| scope.spawn(|| run_lane(arguments, lane)))
            .collect();
        for lane in lanes {
            let lane = lane.join().map_err(|_| anyhow!("a scenario panicked"))??;
            ending.passed += lane.passed;
            ending.failed += lane.failed;
        }
        anyhow::Ok(())
    })?;
    if !arguments.keep {
        let started = Instant::now();
        let after = machine::Machine::look(&marker)?;
        let left = after.beyond(&before);
        let result = match left.is_empty() {
            true => Ok(()),
            false => Err(anyhow!("left behind: {left:#?}")),
        };
        ending.count("purge_leaves_nothing_on_the_machine", started, &result);
    }
    Ok(ending)
}

fn run_lane(arguments: &Arguments, lane: Lane) -> anyhow::Result<Ending> {
    let wanted = |scenario: &Scenario| {
        let text = arguments.only.as_ref();
        text.is_none_or(|text| scenario.name.contains(text.as_str()))
    };
    let mut ending = Ending::default();
    if !lane
        .scenarios
        .iter()
        .any(|scenario| wanted(scenario) && !scenario.tear_down)
    {
        return Ok(ending);
    }
    let hub = format!("{}{}", arguments.hub, lane.name);
    let outage = Duration::from_secs(arguments.outage);
    let world = World::new(&arguments.dist, arguments.tools.as_deref(), &hub, outage)?;
    for scenario in lane.scenarios {
        if !wanted(&scenario) && !scenario.set_up || arguments.keep && scenario.tear_down {
            continue;
        }
        eprintln!("e2e: {} ...", scenario.name);
        let started = Instant::now();
        let result = (scenario.body)(&world);
        ending.count(scenario.name, started, &result);
        if result.is_err() {
            world.keep_evidence(scenario.name);
        }
    }
    Ok(ending)
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
