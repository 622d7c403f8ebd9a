//! `cargo xtask fuzz`: every target of `fuzz/fuzz_targets` for a while, by cargo-fuzz, which is
//! installed beside the cache when it is missing.
//!
//! Not part of the tests: it needs a nightly compiler (`rustup toolchain install nightly`) and
//! finds more the longer it runs. What a target has learnt stays in the cache for its next run;
//! an input that breaks one stays in `fuzz/artifacts`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::cache::Cache;
use crate::progress;

const VERSION: &str = "0.13.1";

/// What is run, and for how long.
#[derive(Args)]
pub struct Options {
    /// Only this target; a wrong name lists all.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Seconds for each target.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
}

/// Runs the targets, each until its time is over or an input breaks it.
///
/// # Errors
/// When a target is unknown, does not compile, or breaks.
pub fn run(root: &Path, cache: &Cache, options: &Options) -> Result<()> {
    let all = targets(root)?;
    let targets: Vec<_> = match &options.only {
        None => all,
        Some(name) => {
            ensure!(
                all.contains(name),
                "no target {name:?}; there are {}",
                all.join(", ")
            );
            vec![name.clone()]
        }
    };
    let program = crate::cargo::tool(cache, "cargo-fuzz", VERSION)?;
    let mut broken = Vec::new();
    for target in targets {
        let cargo_fuzz = |task: &str| {
            let mut command = nightly(root, cache, &program);
            command.arg(task).arg(&target);
            command
        };
        progress::run(
            &target,
            "build with a nightly compiler",
            &mut cargo_fuzz("build"),
            &cache.log("fuzz-build"),
        )?;
        let corpus = corpus(cache, &target)?;
        let mut fuzz = cargo_fuzz("run");
        fuzz.arg(corpus).arg("--").args([
            format!("-max_total_time={}", options.seconds),
            "-timeout=10".to_owned(),
            "-print_final_stats=1".to_owned(),
        ]);
        let log = cache.log(&format!("fuzz-{target}"));
        let phase = format!("fuzz for {} s", options.seconds);
        match progress::run(&target, &phase, &mut fuzz, &log) {
            Ok(()) => progress::line(&target, &format!("held {} inputs", executed(&log))),
            Err(error) => {
                progress::line(&target, &format!("broke: {error:#}"));
                broken.push(target);
            }
        }
    }
    if !broken.is_empty() {
        let names = broken.join(", ");
        bail!("inputs that break {names} are in fuzz/artifacts");
    }
    Ok(())
}

/// By the files' names, in order.
fn targets(root: &Path) -> Result<Vec<String>> {
    let dir = root.join("fuzz/fuzz_targets");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            all.extend(path.file_stem().map(|stem| stem.display().to_string()));
        }
    }
    all.sort();
    Ok(all)
}

/// cargo-fuzz with the nightly compiler, and with a target directory that no other build shares:
/// its flags would make each build everything anew.
fn nightly(root: &Path, cache: &Cache, program: &Path) -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["run", "nightly"])
        .arg(program)
        .current_dir(root.join("fuzz"))
        .env("CARGO_TARGET_DIR", cache.root().join("fuzz/target"))
        .env_remove("CARGO")
        .env_remove("RUSTUP_TOOLCHAIN");
    command
}

fn corpus(cache: &Cache, target: &str) -> Result<PathBuf> {
    let corpus = cache.root().join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&corpus).with_context(|| format!("make {}", corpus.display()))?;
    Ok(corpus)
}

/// What libFuzzer counted.
fn executed(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .map_or_else(|| "its".to_owned(), |count| count.trim().to_owned())
}
