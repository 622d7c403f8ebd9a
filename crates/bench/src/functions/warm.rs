//! Calls of an instance that is there: through the router, straight to it, and through a relay
//! that only passes bytes on in the router's place. What the relay loses is lost by anything that
//! stands between client and instance on such a machine: the limit of the first question.
//!
//! Asked of two languages, since the answer depends on the instance: Python's server answers
//! several times as many calls a second as the one that the bar was set beside, Fission's on such
//! a machine (14,685 by 32 clients); Node.js is nearer to it.

use anyhow::{Context as _, Result};
use serde_json::json;

use super::cold::NODEJS;
use super::{Cluster, Figures};
use crate::catalogue::names::{FUNCTIONS_ECHO, FUNCTIONS_WARM};
use crate::report::Row;

const HELLO: &str = "def main(request):\n    return 'Hello, world!'\n";
const ECHO: &str = "def main(request):\n    return request.body\n";
/// One instance that takes everything.
const ONE: &[&str] = &["--concurrency", "1", "--requests-per-pod", "500"];

/// All ways in turns, and of each the best: what else the machine does only takes.
async fn ways(
    cluster: &Cluster<'_>,
    path: &str,
    (direct, relay): (&str, &str),
    arguments: &[&str],
) -> Result<[Figures; 3]> {
    let mut best: Option<[Figures; 3]> = None;
    for _ in 0..if cluster.quick { 1 } else { 3 } {
        let straight = cluster.calls(direct, &["/"], arguments).await?;
        let relayed = cluster.calls(relay, &["/"], arguments).await?;
        let routed = cluster.calls(&cluster.router, &[path], arguments).await?;
        best = Some(match best {
            None => [straight, relayed, routed],
            Some([one, two, three]) => [
                faster(one, straight),
                faster(two, relayed),
                faster(three, routed),
            ],
        });
    }
    best.context("no round")
}

fn faster(one: Figures, other: Figures) -> Figures {
    match one.per_second >= other.per_second {
        true => one,
        false => other,
    }
}

/// Throughput, latency and overhead.
pub async fn run(cluster: &Cluster<'_>) -> Result<Vec<Row>> {
    let mut rows = of_language(cluster, "python", "warm.py", HELLO).await?;
    rows.extend(of_language(cluster, "nodejs", "warm.js", NODEJS).await?);
    Ok(rows)
}

async fn of_language(
    cluster: &Cluster<'_>,
    language: &str,
    file: &str,
    code: &str,
) -> Result<Vec<Row>> {
    let name = format!("warm-{language}");
    let path = format!("/{name}");
    let options = [&["--env", language, "--url", path.as_str()], ONE].concat();
    cluster.function(&name, file, code, &options).await?;
    cluster
        .calls(&cluster.router, &[&path], &["--calls", "100"])
        .await?;
    let direct = cluster.instance(&name).await?;
    let (_relay, relay) = cluster.relay(&direct).await?;
    let mut rows = Vec::new();
    for (clients, bar) in [(1, 0.6), (8, 0.6), (32, 0.6), (256, 0.5)] {
        let calls = match (cluster.quick, clients) {
            (true, _) => "3000",
            (false, 1) => "20000",
            (false, _) => "50000",
        };
        let clients = clients.to_string();
        let arguments = ["--clients", &clients, "--calls", calls];
        let three = ways(cluster, &path, (&direct, &relay), &arguments).await?;
        rows.extend(told(language, &clients, bar, &three));
    }
    let calls = if cluster.quick { "10000" } else { "100000" };
    let all = ["--clients", "32", "--calls", calls];
    let worst = cluster.calls(&cluster.router, &[&path], &all).await?;
    let question = format!("{language}: worst of {} calls, 32 clients", worst.calls);
    rows.push(Row::told(FUNCTIONS_WARM, question, worst.max_ms, "ms").at_most(100.0));
    cluster.clear(&[name]).await?;
    Ok(rows)
}

/// Rows of one number of clients.
fn told(
    language: &str,
    clients: &str,
    bar: f64,
    [straight, relayed, routed]: &[Figures; 3],
) -> Vec<Row> {
    let details = json!({
        "direct": { "perSecond": straight.per_second, "p99Ms": straight.p99_ms },
        "relay": { "perSecond": relayed.per_second, "p99Ms": relayed.p99_ms },
        "router": { "perSecond": routed.per_second, "p99Ms": routed.p99_ms },
    });
    let row = |question: String, value, unit| {
        Row::told(
            FUNCTIONS_WARM,
            format!("{language}: {question}"),
            value,
            unit,
        )
    };
    let question = format!("throughput through the router ÷ direct, {clients} clients");
    let ratio = routed.per_second / straight.per_second;
    let mut rows = vec![row(question, ratio, "×").at_least(bar).with(details)];
    let question = format!("the same by a relay that only passes bytes on, {clients} clients");
    let ratio = relayed.per_second / straight.per_second;
    rows.push(row(question, ratio, "×"));
    if clients == "1" {
        let overhead = (routed.p50_ms - straight.p50_ms) * 1000.0;
        let question = "router's overhead per call, one client, p50".to_owned();
        rows.push(row(question, overhead, "µs").at_most(100.0));
    }
    if clients == "32" {
        let question = "p99 through the router ÷ direct, 32 clients".to_owned();
        let ratio = routed.p99_ms / straight.p99_ms;
        rows.push(row(question, ratio, "×").at_most(2.0));
    }
    rows
}

/// Large bodies, there and back.
pub async fn echo(cluster: &Cluster<'_>) -> Result<Vec<Row>> {
    let options = [
        &["--env", "python", "--url", "/echo", "--method", "POST"],
        ONE,
    ]
    .concat();
    cluster.function("echo", "echo.py", ECHO, &options).await?;
    let megabyte = (1 << 20).to_string();
    let first = ["--echo", &megabyte, "--calls", "20"];
    cluster.calls(&cluster.router, &["/echo"], &first).await?;
    let direct = cluster.instance("echo").await?;
    let (_relay, relay) = cluster.relay(&direct).await?;
    let mut rows = Vec::new();
    for clients in ["1", "8"] {
        let calls = if cluster.quick { "100" } else { "1000" };
        let arguments = ["--echo", &megabyte, "--clients", clients, "--calls", calls];
        let [straight, relayed, routed] =
            ways(cluster, "/echo", (&direct, &relay), &arguments).await?;
        let question = format!("1 MiB echoed through the router ÷ direct, {clients} clients");
        let ratio = routed.per_second / straight.per_second;
        let details = json!({
            "directPerSecond": straight.per_second, "relayPerSecond": relayed.per_second,
            "routerPerSecond": routed.per_second,
        });
        let row = Row::told(FUNCTIONS_ECHO, question, ratio, "×");
        rows.push(row.at_least(0.6).with(details));
    }
    cluster.clear(&["echo".to_owned()]).await?;
    Ok(rows)
}
