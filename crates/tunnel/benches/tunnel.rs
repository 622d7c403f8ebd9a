//! Benchmarks of the tunnel over loopback TCP and TLS 1.3, each asking one question:
//!
//! 1. How much of a raw TLS connection does one stream reach, in the same run? (bar: 60 %)
//! 2. How long from open to the first byte back, with 100 busy streams beside it?
//!    (bar: p50 1 ms, p99 5 ms)
//! 3. How much does a small echo suffer while two bulk copies run and one stream is stalled?
//!    (bar: p99 at most twice the idle one)
//! 4. What does an idle session cost at the gateway, 1000 of them? (bar: 128 KiB)
//!
//! Both ends share one runtime and the machine's cores. Every byte that arrives is compared with
//! what was sent. Traps: rounds of 1 and 3 alternate, as the machine's speed drifts; the dialling ends
//! of 4 live in another process.
//!
//! `cargo bench -p farplane-tunnel -- [--json] [--quick] [--only memory|throughput|open|echo]`

mod support;

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use farplane_tunnel::{Class, OpenHeader, Session, TunnelStream};
use serde_json::json;
use support::{
    Table, Tls, copy_in, copy_out, listen, median, percentile, private_kib, raw_pair, serve,
    session_pair,
};
use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
        BufReader,
    },
    process::Command,
    task::JoinHandle,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Clone, Copy)]
struct Scale {
    copy_bytes: u64,
    rounds: usize,
    samples: usize,
    sessions: usize,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .on_thread_start(farplane_tunnel::urgent_thread)
        .enable_all()
        .build()?;
    if let Some(at) = arguments.iter().position(|a| a == "--hold") {
        let port = arguments.get(at + 1).ok_or("no port")?.parse()?;
        let count = arguments.get(at + 2).ok_or("no count")?.parse()?;
        return runtime.block_on(hold(port, count));
    }
    let scale = if has("--quick") {
        Scale {
            copy_bytes: 32 << 20,
            rounds: 3,
            samples: 300,
            sessions: 100,
        }
    } else {
        Scale {
            copy_bytes: 512 << 20,
            rounds: 5,
            samples: 3000,
            sessions: 1000,
        }
    };
    let only = arguments
        .iter()
        .position(|argument| argument == "--only")
        .and_then(|at| arguments.get(at + 1));
    let table = runtime.block_on(run(scale, only.map(String::as_str)))?;
    if has("--json") {
        println!("{}", table.json());
    } else {
        print!("{}", table.text());
    }
    Ok(())
}

async fn run(scale: Scale, only: Option<&str>) -> Result<Table> {
    let mut table = Table::default();
    let wanted = |name| only.is_none_or(|only| only == name);
    // First, while the process is small.
    if wanted("memory") {
        memory(scale, &mut table).await?;
    }
    if wanted("throughput") {
        throughput(scale, &mut table).await?;
    }
    if wanted("open") {
        opening(scale, &mut table).await?;
    }
    if wanted("echo") {
        echoes(scale, &mut table).await?;
    }
    Ok(table)
}

async fn throughput(scale: Scale, table: &mut Table) -> Result<()> {
    let tls = Tls::new()?;
    let (mut raw_near, mut raw_far) = raw_pair(&tls).await?;
    let sessions = session_pair(&tls, Class::Bulk).await?;
    let (mut near, mut far) = sessions.stream("copy").await?;
    let (mut raw, mut tunnel) = (Vec::new(), Vec::new());
    for _ in 0..scale.rounds {
        let speed;
        (speed, raw_near, raw_far) = rate(scale.copy_bytes, raw_near, raw_far).await?;
        raw.push(speed);
        let speed;
        (speed, near, far) = rate(scale.copy_bytes, near, far).await?;
        tunnel.push(speed);
    }
    let (raw, tunnel) = (median(&mut raw), median(&mut tunnel));
    let share = tunnel / raw * 100.0;
    table.add("raw TLS, MiB/s", json!(raw.round()), None);
    table.add("one stream, MiB/s", json!(tunnel.round()), None);
    let bar = Some(("at least 60", share >= 60.0));
    table.add("one stream, % of raw TLS", json!(share.round()), bar);
    Ok(())
}

/// MiB/s of one copy from `near` to `far`, each end in a task of its own.
async fn rate<W, R>(bytes: u64, mut near: W, mut far: R) -> Result<(f64, W, R)>
where
    W: AsyncWrite + Unpin + Send + 'static,
    R: AsyncRead + Unpin + Send + 'static,
{
    let began = Instant::now();
    let sending = tokio::spawn(async move { copy_out(&mut near, bytes).await.map(|()| near) });
    let getting = tokio::spawn(async move { copy_in(&mut far, bytes).await.map(|()| far) });
    let (near, far) = (sending.await??, getting.await??);
    let rate = (bytes >> 20) as f64 / began.elapsed().as_secs_f64();
    Ok((rate, near, far))
}

async fn opening(scale: Scale, table: &mut Table) -> Result<()> {
    let tls = Tls::new()?;
    for (name, pause) in [
        ("alone", None),
        ("100 streams at 100/s", Some(Duration::from_millis(10))),
        ("100 streams flat out", Some(Duration::ZERO)),
    ] {
        let sessions = session_pair(&tls, Class::Interactive).await?;
        let agent = sessions.serve_echo()?;
        let mut busy = Vec::new();
        for _ in 0..if pause.is_some() { 100 } else { 0 } {
            let stream = agent.open(header()).await?;
            busy.push(tokio::spawn(ping(stream, pause.unwrap_or_default())));
        }
        let mut times = Vec::new();
        for _ in 0..scale.samples {
            let began = Instant::now();
            let mut stream = agent.open(header()).await?;
            stream.write_all(b"!").await?;
            assert_eq!(stream.read_u8().await?, b'!');
            times.push(began.elapsed());
            stream.shutdown().await?;
            assert_eq!(stream.read(&mut [0]).await?, 0);
        }
        let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
        let judged = pause == Some(Duration::from_millis(10));
        let bar = |text, met| judged.then_some((text, met));
        table.add(
            &format!("open + first byte, {name}, p50 ms"),
            json!(p50),
            bar("at most 1", p50 <= 1.0),
        );
        table.add(
            &format!("open + first byte, {name}, p99 ms"),
            json!(p99),
            bar("at most 5", p99 <= 5.0),
        );
        stop(busy).await;
    }
    Ok(())
}

/// Keeps a stream busy with 1 KiB echoes.
async fn ping(mut stream: TunnelStream, pause: Duration) {
    let sent = [7; 1024];
    let mut got = [0; 1024];
    loop {
        if let Err(error) = exchange(&mut stream, &sent, &mut got).await {
            return broke(Err(error));
        }
        assert_eq!(sent, got);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

async fn exchange(stream: &mut TunnelStream, sent: &[u8], got: &mut [u8]) -> Result<()> {
    stream.write_all(sent).await?;
    stream.read_exact(got).await?;
    Ok(())
}

async fn echoes(scale: Scale, table: &mut Table) -> Result<()> {
    let runtime = farplane_tunnel::bulk_runtime(2, 19)?;
    let (mut idle, mut apart, mut shared) = <(Vec<_>, Vec<_>, Vec<_>)>::default();
    for _ in 0..scale.rounds {
        let tls = Tls::new()?;
        let urgent = session_pair(&tls, Class::Interactive).await?;
        let (mut stall, _unread) = urgent.stream("stalled").await?;
        let agent = urgent.serve_echo()?;
        let mut echo = agent.open(header()).await?;
        idle.push(echo_times(scale.samples, &mut echo).await?);

        let stalling = tokio::spawn(async move {
            broke(copy_out(&mut stall, u64::MAX >> 1).await);
        });
        let load = tls.clone();
        let bulk = runtime
            .spawn(async move { two_copies(&load).await })
            .await??;
        apart.push(echo_times(scale.samples, &mut echo).await?);
        stop(bulk).await;
        let bulk = two_copies(&tls).await?;
        shared.push(echo_times(scale.samples, &mut echo).await?);
        stop(bulk).await;
        stop(vec![stalling]).await;
    }
    runtime.shutdown_background();
    let p99 = |times: &[(f64, f64)]| median(&mut times.iter().map(|it| it.1).collect::<Vec<_>>());
    let bar = 2.0 * p99(&idle);
    for (name, times, judged) in [
        ("echo idle", &idle, false),
        ("echo, two copies and one stalled", &apart, true),
        ("the same, copies on the same threads", &shared, false),
    ] {
        let p50 = median(&mut times.iter().map(|it| it.0).collect::<Vec<_>>());
        table.add(&format!("{name}, p50 ms"), json!(p50), None);
        let met = judged.then_some(("at most 2 x idle", p99(times) <= bar));
        table.add(&format!("{name}, p99 ms"), json!(p99(times)), met);
    }
    Ok(())
}

/// Two copies that never end, over a session of their own.
async fn two_copies(tls: &Tls) -> Result<Vec<JoinHandle<()>>> {
    let bulk = session_pair(tls, Class::Bulk).await?;
    let mut copies = Vec::new();
    for _ in 0..2 {
        let (mut near, mut far) = bulk.stream("copy").await?;
        copies.push(tokio::spawn(async move {
            broke(copy_out(&mut near, u64::MAX >> 1).await);
        }));
        copies.push(tokio::spawn(async move {
            broke(copy_in(&mut far, u64::MAX >> 1).await);
        }));
    }
    Ok(copies)
}

/// p50 and p99 of small echoes, in milliseconds.
async fn echo_times(samples: usize, stream: &mut TunnelStream) -> Result<(f64, f64)> {
    let mut times = Vec::new();
    for number in 0..samples {
        let sent = [u8::try_from(number % 251)?; 64];
        let mut got = [0; 64];
        let began = Instant::now();
        stream.write_all(&sent).await?;
        stream.read_exact(&mut got).await?;
        times.push(began.elapsed());
        assert_eq!(sent, got);
        // Not in lockstep with the load.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok((percentile(&mut times, 50), percentile(&mut times, 99)))
}

async fn memory(scale: Scale, table: &mut Table) -> Result<()> {
    let tls = Tls::fixed()?;
    let (listener, port) = listen().await?;
    let before = private_kib()?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--hold", &port.to_string(), &scale.sessions.to_string()])
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let began = Instant::now();
    let mut held = Vec::new();
    let mut accepting = tokio::task::JoinSet::new();
    for _ in 0..scale.sessions {
        let (socket, _) = listener.accept().await?;
        let tls = tls.clone();
        accepting.spawn(async move { serve(&tls, socket, Class::Interactive).await });
    }
    while let Some(session) = accepting.join_next().await {
        held.push(session??);
    }
    let took = began.elapsed().as_secs_f64();
    let mut ready = String::new();
    let output = child.stdout.take().ok_or("no output")?;
    BufReader::new(output).read_line(&mut ready).await?;
    assert_eq!(ready.trim(), "ready");
    let each = (private_kib()? - before) / scale.sessions as f64;
    assert!(held.iter().all(|(session, _)| !session.is_closed()));
    table.add(
        &format!("{} sessions connected after, s", scale.sessions),
        json!(took),
        Some(("at most 20", took <= 20.0)),
    );
    table.add(
        "idle session at the gateway, KiB",
        json!(each.round()),
        Some(("at most 128", each <= 128.0)),
    );
    child.kill().await?;
    Tls::forget_fixed();
    Ok(())
}

/// The other process of [`memory`]: dials, says so, and waits for its end.
async fn hold(port: u16, count: usize) -> Result<()> {
    let tls = Tls::fixed()?;
    let mut held: Vec<(Session, _)> = Vec::new();
    for _ in 0..count {
        held.push(support::connect(&tls, port, Class::Interactive).await?);
    }
    println!("ready");
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    drop(held);
    Ok(())
}

fn header() -> OpenHeader {
    OpenHeader::new(Class::Interactive, "echo")
}

/// Says why load that should never end did.
fn broke(result: Result<()>) {
    eprintln!("load ended: {result:?}");
}

/// Ends the load, all of which must have lasted until now.
async fn stop(tasks: Vec<JoinHandle<()>>) {
    // Before the first is ended: ending one half of a copy ends the other.
    assert!(
        tasks.iter().all(|task| !task.is_finished()),
        "the load broke off"
    );
    for task in tasks {
        task.abort();
        _ = task.await;
    }
}
