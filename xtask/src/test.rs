//! `cargo xtask test`: everything that proves it works.
//!
//! Order: what needs nothing first, so that a wrong line is told of early; then the tests
//! that need the built programs; then the scenarios, on a hub of their own name.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::components;
use crate::progress;
use crate::rabbit;
use crate::{Own, build};

/// Name of the hub that the scenarios make and purge; no person's hub is touched.
const HUB: &str = "e2e";

/// Components that only tests need: a broker, and Fission's command.
const TOOLS: [&str; 2] = ["nats", "fission"];
/// Tests that need built programs, most of them etcd and API server, as Cargo selects them: of the
/// whole workspace each time, since fewer packages have fewer features of what they share, and are
/// built anew. Of the agent's only those of containers: its others are run by tests.
const ON_BUILT_PROGRAMS: [&[&str]; 3] = [
    &["--lib", "--", "--ignored", "--skip", "units::tests"],
    &["--lib", "--", "--ignored", "units::tests::containers"],
    &["--test", "functions", "--", "--ignored"],
];

/// Runs every test, or only the scenarios whose name contains a text.
///
/// # Errors
/// The first part that fails.
pub fn run(root: &Path, only: Option<&str>) -> Result<()> {
    if only.is_none() {
        progress::line("test", "unit, property and integration tests");
        cargo(root, &["test", "--workspace"], &[])?;
    }
    let cache = Cache::open()?;
    build(root, &cache, None, &Own::default())?;
    let dist = root.join("dist");
    if only.is_none() {
        let programs = tools(root, &cache, Some(&dist.join("bin")))?;
        progress::line("test", "tests on real etcd, API server and containerd");
        let bin: [(&str, &Path); 1] = [("FARPLANE_TEST_BIN", &programs)];
        let tested = ON_BUILT_PROGRAMS.iter().try_for_each(|selected| {
            let arguments = [&["test", "--workspace"], *selected].concat();
            cargo(root, &arguments, &bin)
        });
        crate::cache::remove(&programs)?;
        tested?;
        progress::line("test", "hubs from nothing to nothing");
        let names = ["test", "--workspace", "--test", "hub"];
        cargo(root, &names, &[("FARPLANE_DIST", &dist)])?;
    }
    progress::line("test", "scenarios, end to end");
    let tools = tools(root, &cache, None)?;
    let (path, other) = (dist.display().to_string(), tools.display().to_string());
    // By its program: with the features that the whole workspace was built with.
    let mut scenarios = vec!["run", "--quiet", "--bin", "farplane-e2e", "--"];
    scenarios.extend(["--dist", &path, "--tools", &other, "--hub", HUB]);
    scenarios.extend(only.iter().flat_map(|text| ["--only", text]));
    let tested = cargo(root, &scenarios, &[]);
    crate::cache::remove(&tools)?;
    tested
}

/// A folder with programs that only tests need and, beside them, the built ones.
fn tools(root: &Path, cache: &Cache, programs: Option<&Path>) -> Result<PathBuf> {
    let built = components::build(root, cache, None, &TOOLS.map(str::to_owned))?;
    let work = cache.work("test-programs")?;
    let folders = TOOLS.map(|name| built[name].bin());
    // Scenarios need none.
    let rabbit = programs.map(|_| rabbit::unpack(cache)).transpose()?;
    let programs = programs.map(Path::to_owned);
    for folder in folders.into_iter().chain(rabbit).chain(programs) {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        for entry in entries {
            let path = entry.context("read a folder")?.path();
            let name = path.file_name().context("a program has a name")?;
            symlink(&path, work.join(name)).with_context(|| format!("link {}", path.display()))?;
        }
    }
    Ok(work)
}

/// Runs cargo in the tree.
pub fn cargo(root: &Path, arguments: &[&str], environment: &[(&str, &Path)]) -> Result<()> {
    let status = crate::cargo::command()
        .current_dir(root)
        .args(arguments)
        .envs(environment.iter().copied())
        .status()
        .context("start cargo")?;
    if !status.success() {
        bail!("cargo {} failed: {status}", arguments.join(" "));
    }
    Ok(())
}
