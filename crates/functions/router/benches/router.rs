//! Benchmarks of warm calls through the router, beside calls straight to the same instance.
//!
//! 1. Which part of the direct throughput is left with 1, 8, 32 and 256 clients?
//!    (bars: 0.6, 0.6, 0.6, 0.5)
//! 2. What does the router add to one call of one client? (bar: 100 µs)
//! 3. What is the p99 with 32 clients, beside the direct one? (bar: twice)
//! 4. What is the worst of 100,000 calls with 32 clients? (bar: 100 ms)
//! 5. Which part of the direct throughput of echoed 1 MiB bodies is left? (bar: 0.6)
//! 6. What does the process hold with 1,000 routes? (bar: 40 MiB)
//!
//! Instance, router and load are processes of their own and share the machine's cores; direct and
//! routed rounds alternate, as the machine's speed drifts, and the best of each counts. Every
//! answer is compared with what was asked for.
//!
//! An instance that does nothing at all flatters the direct calls: `--work MICROSECONDS` (20 when
//! left out, below what any language's runtime takes) is how long it computes for each.
//!
//! `cargo bench -p farplane-functions-router -- [--quick] [--json] [--work MICROSECONDS]`

mod support;

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use support::load::{self, Load, Measured};
use support::{Result, instance, router};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Routes in the table while calls are measured.
const ROUTES: usize = 1000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|it| it == name)?;
        arguments.get(at + 1).cloned()
    };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build()?;
    if let Some(work) = value("--instance") {
        let work = Duration::from_micros(work.parse()?);
        return runtime.block_on(instance::run(work));
    }
    if let Some(address) = value("--router") {
        return runtime.block_on(router::run(&address, ROUTES));
    }
    if let Some(load) = value("--load") {
        return runtime.block_on(load::run(&serde_json::from_str(&load)?));
    }
    let work = value("--work").unwrap_or_else(|| "20".to_owned());
    let quick = arguments.iter().any(|it| it == "--quick");
    let as_json = arguments.iter().any(|it| it == "--json");
    let figures = runtime.block_on(measure(&work, quick))?;
    if as_json {
        println!("{figures}");
    } else {
        println!("{figures:#}");
    }
    Ok(())
}

/// Starts this program in another role; its first line says where it is.
async fn start(role: &[&str]) -> Result<(Child, String)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(role)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = child.stdout.take().ok_or("no output")?;
    let mut lines = BufReader::new(output).lines();
    let first = lines.next_line().await?.ok_or("it ended at once")?;
    Ok((child, first))
}

async fn load(load: &Load) -> Result<Measured> {
    let (mut child, line) = start(&["--load", &serde_json::to_string(load)?]).await?;
    child.wait().await?;
    Ok(serde_json::from_str(&line)?)
}

async fn measure(work: &str, quick: bool) -> Result<Value> {
    let (_instance, instance) = start(&["--instance", work]).await?;
    let (router, public) = start(&["--router", &instance]).await?;
    let process = router.id().ok_or("the router is gone")?;
    let before = resident(process)?;
    let rounds = if quick { 1 } else { 3 };
    let calls = if quick { 5_000 } else { 30_000 };
    let mut figures = json!({"routes": ROUTES, "resident_kib_idle": before});
    for clients in [1, 8, 32, 256] {
        let calls = if clients == 1 { calls / 3 } else { calls };
        let asked = |address: &str| Load::small(address, clients, calls);
        let before = used(process)?;
        let (direct, routed) = both(&asked, &instance, &public, rounds).await?;
        let took = (used(process)? - before).as_secs_f64() * 1e6;
        let mut figure = beside(&direct, &routed);
        // It holds still when the machine is busy with other things.
        figure["router_cpu_us_per_call"] = json!(took / f64::from(rounds * calls));
        figures[format!("clients_{clients}")] = figure;
    }
    let asked = |address: &str| Load::large(address, 4, calls / 50);
    let (direct, routed) = both(&asked, &instance, &public, rounds).await?;
    figures["mebibytes"] = beside(&direct, &routed);
    if !quick {
        let worst = load(&Load::small(&public, 32, 100_000)).await?;
        figures["worst_of_100000_us"] = json!(worst.worst_us);
    }
    figures["resident_kib_after"] = json!(resident(process)?);
    Ok(figures)
}

/// The best of some rounds each, direct and routed by turns.
async fn both(
    asked: &impl Fn(&str) -> Load,
    instance: &str,
    public: &str,
    rounds: u32,
) -> Result<(Measured, Measured)> {
    let (mut direct, mut routed) = (Measured::default(), Measured::default());
    for _ in 0..rounds {
        direct = direct.better(load(&asked(instance)).await?);
        routed = routed.better(load(&asked(public)).await?);
    }
    Ok((direct, routed))
}

fn beside(direct: &Measured, routed: &Measured) -> Value {
    json!({
        "direct": direct,
        "routed": routed,
        "ratio": routed.per_second / direct.per_second,
        "added_us": routed.mean_us - direct.mean_us,
        "p99_ratio": routed.p99_us / direct.p99_us,
    })
}

/// Processor time that a process has used.
fn used(process: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks
        .map(str::parse::<u64>)
        .sum::<std::result::Result<u64, _>>()?;
    // The kernel counts in hundredths of a second.
    Ok(Duration::from_millis(ticks * 10))
}

/// Memory of a process in KiB.
fn resident(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let word = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(word.ok_or("no VmRSS")?.parse()?)
}
