//! Is the same work through konnectivity slower, in every row?
//!
//! One client in this process, one target in this process, two tunnels between them
//! ([`crate::sides`]). Rounds alternate, as the machine's speed drifts, and one tunnel rests
//! while the other works. Traps: client and target share the machine's cores with the tunnel;
//! opening includes the client's TLS handshake, the same for both, without resumption; a
//! stalled stream may stop a tunnel for ever, so that row comes last and an echo that takes
//! longer than [`STALLED`] counts as never.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::catalogue::names::KONNECTIVITY;
use crate::loopback::own_address;
use crate::process::resting_kib;
use crate::report::Row;
use crate::sides::{self, Door, Side};
use crate::stats::Samples;
use crate::traffic::{self, Echo, Target};

/// Streams that are busy beside the one that is measured.
const BUSY: usize = 100;
/// Pause between the echoes of a busy stream.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// When an echo counts as never.
const STALLED: Duration = Duration::from_secs(10);

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Rounds per row and tunnel.
    pub rounds: usize,
    /// Bytes of one copy.
    pub bytes: u64,
    /// Samples of one round.
    pub samples: usize,
}

type Stream = TlsStream<TcpStream>;

/// Figures of both: Farplane's first.
type Pair<T> = [T; 2];

/// Runs it.
///
/// # Errors
/// When a tunnel does not come up, or breaks where it has no excuse.
pub async fn run(dist: &Path, konnectivity: &Path, scale: Scale) -> Result<Vec<Row>> {
    let target = Target::start(own_address()?).await?;
    let ours = sides::farplane(dist, target.address).await?;
    let theirs = sides::konnectivity(konnectivity, target.address).await?;
    let sides = [&ours, &theirs];
    let mut rows = Vec::new();
    for (up, question) in [
        (false, "one stream, target to client"),
        (true, "one stream, client to target"),
    ] {
        let speeds = copies(sides, scale, up).await?;
        rows.push(compared(question, "MiB/s", &speeds, 50, true)?);
    }
    let opens = opening(sides, scale).await?;
    for percent in [50, 99] {
        let question = format!("open + first byte beside {BUSY} busy streams, p{percent}");
        rows.push(compared(&question, "ms", &opens, percent, false)?);
    }
    rows.extend(memory(sides).await?);
    rows.extend(echoes(sides, scale).await?);
    Ok(rows)
}

fn compared(
    question: &str,
    unit: &str,
    both: &Pair<Samples>,
    percent: u32,
    more: bool,
) -> Result<Row> {
    let [ours, theirs] = both;
    let value = ours.percentile(percent).context("no sample")?;
    let details = json!({ "farplane": told(ours), "konnectivity": told(theirs) });
    let row = Row::told(KONNECTIVITY, question, value, unit).with(details);
    Ok(row.ahead_of("konnectivity", theirs.percentile(percent), more))
}

fn told(samples: &Samples) -> Value {
    let percentile = |percent| samples.percentile(percent);
    json!({ "samples": samples.len(), "p50": percentile(50), "p99": percentile(99), "max": samples.max() })
}

/// MiB/s of copies.
async fn copies(sides: Pair<&Side>, scale: Scale, up: bool) -> Result<Pair<Samples>> {
    let mut speeds = Pair::<Samples>::default();
    for _ in 0..scale.rounds {
        for (side, speeds) in sides.iter().zip(&mut speeds) {
            let mut stream = side
                .door
                .open()
                .await
                .with_context(|| format!("open through {}", side.name))?;
            let began = Instant::now();
            let copied = async {
                if up {
                    traffic::upload(&mut stream, scale.bytes).await
                } else {
                    traffic::download(&mut stream, scale.bytes).await
                }
            };
            copied
                .await
                .with_context(|| format!("copy through {}", side.name))?;
            speeds.add((scale.bytes >> 20) as f64 / began.elapsed().as_secs_f64());
        }
    }
    Ok(speeds)
}

/// Milliseconds from the client's first packet to the first byte back, beside busy streams.
async fn opening(sides: Pair<&Side>, scale: Scale) -> Result<Pair<Samples>> {
    let mut times = Pair::<Samples>::default();
    for _ in 0..scale.rounds {
        for (side, times) in sides.iter().zip(&mut times) {
            let mut busy = JoinSet::new();
            for stream in open_many(&side.door, BUSY).await? {
                busy.spawn(keep_busy(stream));
            }
            let mut round = Vec::new();
            for _ in 0..scale.samples {
                let began = Instant::now();
                let mut stream = side
                    .door
                    .open()
                    .await
                    .with_context(|| format!("open through {}", side.name))?;
                traffic::first_byte(&mut stream).await?;
                round.push(milliseconds(began.elapsed()));
            }
            if let Some(ended) = busy.try_join_next() {
                ended?.with_context(|| format!("a busy stream through {} broke off", side.name))?;
            }
            times.extend(round);
        }
    }
    Ok(times)
}

async fn open_many(door: &Door, count: usize) -> Result<Vec<Stream>> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(door.open().await?);
    }
    Ok(streams)
}

async fn keep_busy(stream: Stream) -> Result<()> {
    let mut echo = Echo::start(stream, 1024).await?;
    loop {
        echo.once().await?;
        sleep(BUSY_PAUSE).await;
    }
}

/// Private memory of server and agent at rest, with idle streams open, after the work so far.
async fn memory(sides: Pair<&Side>) -> Result<Vec<Row>> {
    let mut sizes = Vec::new();
    for side in sides {
        let streams = open_many(&side.door, BUSY).await?;
        let mut idle = Vec::new();
        for stream in streams {
            idle.push(Echo::start(stream, 64).await?);
        }
        sizes.push(resting_kib(&side.pids).await?);
        drop(idle);
    }
    let mib = |side: usize, process: usize| sizes[side][process] as f64 / 1024.0;
    let question = format!("private memory of both ends after this work, {BUSY} idle streams");
    let details = json!({
        "farplane": { "gateway": mib(0, 0), "agent": mib(0, 1) },
        "konnectivity": { "server": mib(1, 0), "agent": mib(1, 1) },
    });
    let sum = |side| mib(side, 0) + mib(side, 1);
    let row = Row::told(KONNECTIVITY, question, sum(0), "MiB").with(details);
    Ok(vec![row.ahead_of("konnectivity", Some(sum(1)), false)])
}

/// Echoes alone, beside two bulk copies, and beside those and a stalled stream.
async fn echoes(sides: Pair<&Side>, scale: Scale) -> Result<Vec<Row>> {
    let alone = echo_row(sides, scale, "echo alone, p99", None).await?;
    let question = "echo beside two bulk copies, p99";
    let copies = echo_row(sides, scale, question, Some(false)).await?;
    let question = "echo beside two bulk copies and one stalled stream, p99";
    let stalled = echo_row(sides, scale, question, Some(true)).await?;
    let ratio = ratio(alone.value, stalled.value)?;
    Ok(vec![alone, copies, stalled, ratio])
}

/// How much longer an echo through the real gateway and agent takes beside the load than alone.
fn ratio(alone: Option<f64>, loaded: Option<f64>) -> Result<Row> {
    let (alone, loaded) = alone.zip(loaded).context("an echo never came back")?;
    let question = "Farplane: echo p99 beside two bulk copies and one stalled stream, of alone";
    let value = crate::stats::rounded(loaded / alone, 2);
    Ok(Row::told(KONNECTIVITY, question, value, "x").at_most(2.0))
}

/// One row of echoes; `load` says whether there is any, and whether it has a stalled stream.
async fn echo_row(
    sides: Pair<&Side>,
    scale: Scale,
    question: &str,
    load: Option<bool>,
) -> Result<Row> {
    let mut both: Pair<Option<Samples>> = [Some(Samples::default()), Some(Samples::default())];
    for _ in 0..scale.rounds {
        for (side, samples) in sides.iter().zip(&mut both) {
            // A tunnel that a stalled stream has stopped is not asked again.
            let Some(so_far) = samples else { continue };
            let round = echoes_beside(&side.door, scale.samples, load);
            match timeout(STALLED * 6, round).await {
                Ok(Ok(Some(times))) => so_far.extend(times),
                ended => {
                    let name = side.name;
                    eprintln!("bench: {KONNECTIVITY}: {name} stopped: {question}: {ended:?}");
                    *samples = None;
                }
            }
        }
    }
    let [ours, theirs] = &both;
    let p99 = |samples: &Option<Samples>| samples.as_ref().and_then(|it| it.percentile(99));
    let tell = |samples: &Option<Samples>| samples.as_ref().map(told);
    let details = json!({ "farplane": tell(ours), "konnectivity": tell(theirs) });
    let mut row = Row::told(KONNECTIVITY, question, 0.0, "ms").with(details);
    row.value = p99(ours).map(|value| crate::stats::rounded(value, 3));
    Ok(row.ahead_of("konnectivity", p99(theirs), false))
}

/// Echoes beside the load; `None` when one never came back.
async fn echoes_beside(
    door: &Door,
    samples: usize,
    load: Option<bool>,
) -> Result<Option<Vec<f64>>> {
    let mut echo = Echo::start(door.open().await?, 64).await?;
    let mut copies = JoinSet::new();
    let mut stalled = None;
    if let Some(with_stalled) = load {
        for up in [true, false] {
            let door = door.clone();
            let copy = async move {
                let mut stream = door.open().await?;
                traffic::endless(&mut stream, up).await
            };
            copies.spawn_on(copy, traffic::load()?);
        }
        if with_stalled {
            let mut stream = door.open().await?;
            traffic::stall(&mut stream).await?;
            stalled = Some(stream);
        }
    }
    // Until every window on the way is full.
    if sample(&mut echo, 200).await?.is_none() {
        return Ok(None);
    }
    let times = sample(&mut echo, samples).await?;
    if let Some(ended) = copies.try_join_next() {
        ended?.context("a bulk copy broke off")?;
        bail!("a bulk copy ended");
    }
    drop(stalled);
    Ok(times)
}

/// Milliseconds of each echo; `None` when one never came back.
async fn sample(echo: &mut Echo<Stream>, count: usize) -> Result<Option<Vec<f64>>> {
    let mut times = Vec::new();
    for _ in 0..count {
        match echo.once_within(STALLED).await? {
            Some(time) => times.push(milliseconds(time)),
            None => return Ok(None),
        }
        // Not in lockstep with the load.
        sleep(Duration::from_millis(1)).await;
    }
    Ok(Some(times))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
