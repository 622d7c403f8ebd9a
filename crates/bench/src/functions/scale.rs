//! Many clients, and many routes.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::{Instant, sleep};

use super::{Cluster, LIMIT};
use crate::catalogue::names::{FUNCTIONS_LIMIT, FUNCTIONS_ROUTES};
use crate::process::eventually;
use crate::report::Row;

const HELLO: &str = "def main(request):\n    return 'Hello, world!'\n";
/// Most Pods of the function.
const PODS: usize = 20;
/// Between two looks at how many there are.
const BETWEEN: Duration = Duration::from_millis(250);

/// More clients than a function may have instances.
pub async fn limit(cluster: &Cluster<'_>) -> Result<Vec<Row>> {
    let most = PODS.to_string();
    let options = ["--env", "python", "--url", "/limited"];
    let options = [&options[..], &["--concurrency", &most]].concat();
    cluster
        .function("limited", "hello.py", HELLO, &options)
        .await?;
    let seconds = if cluster.quick { "10" } else { "60" };
    let arguments = ["--clients", "500", "--seconds", seconds];
    let mut pods = 0;
    let counting = async {
        loop {
            let now = cluster.pods("functionName=limited").await?.len();
            pods = pods.max(now);
            sleep(BETWEEN).await;
        }
        // For its type only: it is dropped when the calls have ended.
        #[allow(unreachable_code)]
        anyhow::Ok(())
    };
    // An answer that is an error ends the calls with it.
    let figures = tokio::select! {
        figures = cluster.calls(&cluster.router, &["/limited"], &arguments) => figures?,
        ended = counting => {
            ended?;
            anyhow::bail!("counting Pods ended");
        }
    };
    cluster.clear(&["limited".to_owned()]).await?;
    let question = format!("Pods under 500 clients for {seconds} s, {PODS} allowed, no error");
    let pods = u32::try_from(pods).unwrap_or(u32::MAX);
    Ok(vec![
        Row::told(FUNCTIONS_LIMIT, question, f64::from(pods), "Pods").at_most(20.0),
        Row::told(
            FUNCTIONS_LIMIT,
            "their calls",
            figures.per_second,
            "per second",
        ),
        Row::told(FUNCTIONS_LIMIT, "their p99", figures.p99_ms, "ms"),
    ])
}

/// From the creation of the last of many routes until all answer.
pub async fn routes(cluster: &Cluster<'_>) -> Result<Vec<Row>> {
    let count = if cluster.quick { 200 } else { 1000 };
    let options = ["--env", "python", "--requests-per-pod", "50"];
    cluster
        .function("many", "hello.py", HELLO, &options)
        .await?;
    let names: Vec<String> = (0..count).map(|number| format!("many{number}")).collect();
    let made = stream::iter(&names).map(|name| cluster.route(name, "many", "GET"));
    let made: Vec<()> = made.buffer_unordered(16).try_collect().await?;
    ensure!(made.len() == count, "not all routes were made");
    let began = Instant::now();
    let paths: Vec<String> = names.iter().map(|name| format!("/{name}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let all = count.to_string();
    // Each path once: clients take turns.
    let arguments = ["--clients", "1", "--calls", &all];
    eventually("all routes to answer", LIMIT, async || {
        cluster.calls(&cluster.router, &paths, &arguments).await
    })
    .await?;
    let took = began.elapsed().as_secs_f64();
    let mut rows = super::memory::router(cluster, count).await?;
    cluster.clear(&["many".to_owned()]).await?;
    let question = format!("{count} routes: from the last one's creation to all answering");
    rows.push(Row::told(FUNCTIONS_ROUTES, question, took, "s").at_most(5.0));
    Ok(rows)
}
