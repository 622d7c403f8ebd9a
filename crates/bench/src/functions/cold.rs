//! The first call of a function.

use std::io::{Cursor, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use kube::api::DeleteParams;
use tokio::time::Instant;

use super::{Cluster, LIMIT};
use crate::catalogue::names::{
    FUNCTIONS_BUILD, FUNCTIONS_BURST, FUNCTIONS_COLD, FUNCTIONS_NEWDEPLOY,
};
use crate::process::eventually;
use crate::report::Row;
use crate::stats::Samples;

/// Pods that wait in a pool.
const POOL: usize = 3;
const PYTHON: &str = "def main():\n    return 'Hello, world!'\n";
pub(super) const NODEJS: &str =
    "module.exports = async () => ({ status: 200, body: 'Hello, world!' });\n";
const GO: &str = "package main\n\nimport (\n\t\"fmt\"\n\t\"net/http\"\n)\n\nfunc Handler(w http.ResponseWriter, r *http.Request) {\n\tfmt.Fprint(w, \"Hello, world!\")\n}\n";

/// From the pool, one after the other.
pub async fn run(cluster: &Cluster<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (language, file, text) in [
        ("python", "hello.py", PYTHON),
        ("nodejs", "hello.js", NODEJS),
        ("go", "hello.go", GO),
    ] {
        let times = language_of(cluster, language, file, text).await;
        let times = times.with_context(|| format!("cold starts of {language}"))?;
        for (percent, bar) in [(50, 15.0), (99, 40.0)] {
            let value = times.percentile(percent).context("no cold start")?;
            let count = times.len();
            let question = format!("cold start, warm pool, {language}, p{percent} of {count}");
            rows.push(Row::told(FUNCTIONS_COLD, question, value, "ms").at_most(bar));
        }
    }
    Ok(rows)
}

async fn language_of(
    cluster: &Cluster<'_>,
    language: &str,
    file: &str,
    text: &str,
) -> Result<Samples> {
    if language == "go" {
        let folder = tempfile::tempdir().context("make a folder")?;
        let path = folder.path().join(file);
        std::fs::write(&path, text).context("write the source")?;
        let path = path.display().to_string();
        let deploy = ["fn", "deploy", &path, "--name", "first", "--env", language];
        cluster.farplane(&deploy).await?;
    } else {
        cluster
            .function("first", file, text, &["--env", language])
            .await?;
    }
    let count = if cluster.quick { 5 } else { 20 };
    let names = cluster.copies("first", "cold", count).await?;
    let mut times = Samples::default();
    for name in &names {
        cluster.full_pool(language, POOL).await?;
        let path = format!("/{name}");
        let figures = cluster.calls(&cluster.router, &[&path], &[]).await?;
        times.add(figures.max_ms);
        // Until its Pod is told to be an instance, it counts as one of the pool, and the next call
        // would be made while the pool is filled again.
        eventually("the instance", LIMIT, async || cluster.instance(name).await).await?;
    }
    cluster.clear(&["first".to_owned()]).await?;
    Ok(times)
}

/// Many at once.
pub async fn burst(cluster: &Cluster<'_>) -> Result<Vec<Row>> {
    cluster
        .function("first", "hello.py", PYTHON, &["--env", "python"])
        .await?;
    let rounds = if cluster.quick { 2 } else { 10 };
    let ten = ["--clients", "10", "--calls", "10"];
    let mut same = Samples::default();
    for name in cluster.copies("first", "same", rounds).await? {
        cluster.full_pool("python", POOL).await?;
        let path = format!("/{name}");
        let figures = cluster.calls(&cluster.router, &[&path], &ten).await?;
        same.add(figures.p95_ms);
    }
    cluster.clear(&[]).await?;
    let (mut first, mut again) = (Samples::default(), Samples::default());
    for round in 0..rounds.div_ceil(2) {
        // An environment of its own: it has seen no burst.
        let environment = format!("unseen{round}");
        let spec = cluster.api("Environment").get("python").await?.data["spec"].clone();
        cluster.create("Environment", &environment, spec).await?;
        let mut spec = cluster.api("Function").get("first").await?.data["spec"].clone();
        spec["environment"]["name"] = environment.as_str().into();
        let bursts = [("first", POOL, &mut first), ("again", 10, &mut again)];
        for (which, ready, times) in bursts {
            let prefix = format!("{which}{round}x");
            let names = cluster.functions(&spec, &prefix, 10).await?;
            let paths: Vec<String> = names.iter().map(|name| format!("/{name}")).collect();
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            cluster.full_pool(&environment, ready).await?;
            let figures = cluster.calls(&cluster.router, &paths, &ten).await?;
            times.add(figures.p95_ms);
            cluster.clear(&[]).await?;
        }
        let api = cluster.api("Environment");
        api.delete(&environment, &DeleteParams::default()).await?;
    }
    cluster.clear(&["first".to_owned()]).await?;
    let row = |times: &Samples, question: &str, bar| {
        let value = times.percentile(50).context("no round")?;
        let question = format!("{question}, p95, middle of {} rounds", times.len());
        anyhow::Ok(Row::told(FUNCTIONS_BURST, question, value, "ms").at_most(bar))
    };
    let ten = "10 calls at once to 10 cold functions, pool of 3";
    Ok(vec![
        row(&same, "10 calls at once to one cold function", 100.0)?,
        row(&first, &format!("{ten}, the first burst"), 1000.0)?,
        row(&again, &format!("{ten}, the next burst"), 1000.0)?,
    ])
}

/// From a Deployment that is scaled to zero.
pub async fn newdeploy(cluster: &Cluster<'_>) -> Result<Vec<Row>> {
    let options = [
        "--env",
        "python",
        "--executor-type",
        "newdeploy",
        "--min-scale",
        "0",
        "--max-scale",
        "1",
        "--idle-timeout",
        "5s",
        "--url",
        "/alone",
    ];
    cluster
        .function("alone", "hello.py", PYTHON, &options)
        .await?;
    let mut times = Samples::default();
    for _ in 0..if cluster.quick { 2 } else { 5 } {
        eventually("no Pod of the function", LIMIT, async || {
            let pods = cluster.all_pods("functionName=alone").await?;
            ensure!(pods.is_empty(), "there are {}", pods.len());
            Ok(())
        })
        .await?;
        let figures = cluster.calls(&cluster.router, &["/alone"], &[]).await?;
        times.add(figures.max_ms);
    }
    cluster.clear(&["alone".to_owned()]).await?;
    let value = times.percentile(50).context("no round")?;
    let question = format!("cold start, newdeploy from zero, p50 of {}", times.len());
    Ok(vec![
        Row::told(FUNCTIONS_NEWDEPLOY, question, value, "ms").at_most(900.0),
    ])
}

/// A source with one dependency, changed, until the function answers with it.
pub async fn build(cluster: &Cluster<'_>) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let path = folder.path().join("shop");
    std::fs::create_dir_all(&path).context("make a folder")?;
    std::fs::write(path.join("wares-1.0-py3-none-any.whl"), wheel()?).context("write a wheel")?;
    std::fs::write(
        path.join("requirements.txt"),
        "./wares-1.0-py3-none-any.whl\n",
    )
    .context("write requirements.txt")?;
    let mut times = Samples::default();
    // The first one makes the builder.
    for round in 0..if cluster.quick { 2 } else { 5 } {
        let took = deploy(cluster, &path, round).await?;
        if round > 0 {
            times.add(took);
        }
    }
    cluster.clear(&["shop".to_owned()]).await?;
    let value = times.percentile(50).context("no round")?;
    let question = format!(
        "Python package with one dependency, source to ready, p50 of {}",
        times.len()
    );
    Ok(vec![
        Row::told(FUNCTIONS_BUILD, question, value, "s").at_most(6.0),
    ])
}

async fn deploy(cluster: &Cluster<'_>, path: &Path, round: u32) -> Result<f64> {
    let text = format!("import wares\n\n\ndef main():\n    return wares.NAME + ' {round}'\n");
    std::fs::write(path.join("main.py"), text).context("write the source")?;
    let shop = path.display().to_string();
    let deploy = ["fn", "deploy", &shop, "--env", "python"];
    let began = Instant::now();
    cluster
        .farplane(&[&deploy[..], &["--entrypoint", "main.main"]].concat())
        .await?;
    let took = began.elapsed().as_secs_f64();
    let answer = cluster.farplane(&["fn", "test", "shop"]).await?;
    ensure!(
        answer.trim() == format!("tea {round}"),
        "after round {round} it said {answer:?}"
    );
    Ok(took)
}

fn wheel() -> Result<Vec<u8>> {
    let files = [
        ("wares.py", "NAME = 'tea'\n"),
        (
            "wares-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: wares\nVersion: 1.0\n",
        ),
        (
            "wares-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: farplane\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        (
            "wares-1.0.dist-info/RECORD",
            "wares.py,,\nwares-1.0.dist-info/METADATA,,\nwares-1.0.dist-info/WHEEL,,\nwares-1.0.dist-info/RECORD,,\n",
        ),
    ];
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in files {
        archive.start_file(name, zip::write::SimpleFileOptions::default())?;
        archive.write_all(text.as_bytes())?;
    }
    Ok(archive.finish()?.into_inner())
}
