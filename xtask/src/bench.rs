//! `cargo xtask bench`: the figures of `SPEC.md`, as one table and one JSON file.
//!
//! Order: what is built, so that no figure is of a build that competes for the machine; then
//! the parts of the tunnel's own benchmark; then `farplane-bench`, which judges all of them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Map, Value};

use crate::cache::Cache;
use crate::test::cargo;
use crate::{Own, build, components, progress};

const KONNECTIVITY: &str = "konnectivity";
/// Parts of the tunnel's benchmark; their names here have this prefix.
const TUNNEL_PARTS: &[&str] = &["memory", "throughput", "open", "echo"];
const TUNNEL_PREFIX: &str = "tunnel-";

/// What is measured.
#[derive(Args)]
pub struct Options {
    /// Where the JSON file goes; dist/bench.json when left out.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only this benchmark; a wrong name lists all.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
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

impl Options {
    fn parts(&self) -> Vec<&'static str> {
        if self.functions {
            return Vec::new();
        }
        let wanted = |part: &&&str| {
            let only = self.only.as_deref();
            only.is_none_or(|only| only.strip_prefix(TUNNEL_PREFIX) == Some(part))
        };
        TUNNEL_PARTS.iter().filter(wanted).copied().collect()
    }

    /// Whether anything but parts of the tunnel's benchmark is asked for.
    fn needs_programs(&self) -> bool {
        self.only.is_none() || self.parts().is_empty()
    }
}

/// Builds what is needed and measures.
///
/// # Errors
/// When a build fails or something could not be measured; a missed bar is no error.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let cache = Cache::open()?;
    let dist = root.join("dist");
    let mut rival = None;
    if options.needs_programs() {
        build(root, &cache, None, &Own::default())?;
        if !options.functions {
            let names = [KONNECTIVITY.to_owned()];
            let built = components::build(root, &cache, None, &names)?;
            rival = Some(built[KONNECTIVITY].bin());
        }
    }
    std::fs::create_dir_all(&dist).with_context(|| format!("make {}", dist.display()))?;
    let package = ["--release", "--quiet", "--package", "farplane-bench"];
    cargo(root, &[&["build"], &package[..]].concat(), &[])?;
    let mut rows = Map::new();
    for part in options.parts() {
        progress::line("bench", &format!("{TUNNEL_PREFIX}{part}"));
        let measured = tunnel(root, part, options.quick)?;
        rows.insert(format!("{TUNNEL_PREFIX}{part}"), measured);
    }
    let work = cache.work("bench")?;
    let tunnel = work.join("tunnel.json");
    std::fs::write(&tunnel, Value::Object(rows).to_string()).context("keep the tunnel's rows")?;
    let default = dist.join("bench.json");
    let json = options.json.as_deref().unwrap_or(&default);
    let json = std::path::absolute(json).context("find the place of the JSON file")?;

    let text = |path: &Path| path.display().to_string();
    let (dist, root_text, tunnel, json) = (text(&dist), text(root), text(&tunnel), text(&json));
    let rival = rival.as_deref().map(text);
    let mut arguments = [&["run"], &package[..], &["--"]].concat();
    arguments.extend(["--dist", &dist, "--root", &root_text, "--tunnel", &tunnel]);
    arguments.extend(["--json", &json]);
    arguments.extend(rival.iter().flat_map(|dir| ["--konnectivity", dir]));
    arguments.extend(options.only.iter().flat_map(|name| ["--only", name]));
    arguments.extend(options.functions.then_some("--functions"));
    arguments.extend(options.quick.then_some("--quick"));
    arguments.extend(options.cold.then_some("--cold"));
    let measured = cargo(root, &arguments, &[]);
    crate::cache::remove(&work)?;
    measured?;
    progress::line("bench", &format!("written to {json}"));
    Ok(())
}

/// Rows of one part of the tunnel's benchmark.
fn tunnel(root: &Path, part: &str, quick: bool) -> Result<Value> {
    let mut command = crate::cargo::command();
    command
        .current_dir(root)
        .args(["bench", "--quiet", "--package", "farplane-tunnel", "--"])
        .args(["--json", "--only", part]);
    if quick {
        command.arg("--quick");
    }
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("start cargo")?;
    if !output.status.success() {
        bail!("the tunnel's benchmark of {part} failed: {}", output.status);
    }
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("read what the tunnel's benchmark of {part} said"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(name: Option<&str>) -> Options {
        Options {
            json: None,
            only: name.map(str::to_owned),
            functions: false,
            quick: false,
            cold: false,
        }
    }

    #[test]
    fn one_benchmark_runs_its_own_part_only() {
        assert_eq!(only(None).parts(), TUNNEL_PARTS);
        assert_eq!(only(Some("tunnel-open")).parts(), ["open"]);
        assert_eq!(only(Some("memory")).parts(), Vec::<&str>::new());
    }

    #[test]
    fn programs_are_built_unless_only_the_tunnel_is_asked_for() {
        assert!(only(None).needs_programs());
        assert!(only(Some("memory")).needs_programs());
        assert!(!only(Some("tunnel-memory")).needs_programs());
    }
}
