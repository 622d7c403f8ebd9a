//! Everything that is built, checked or generated, by one command that people
//! and CI run alike: `cargo xtask --help`.
//!
//! One file per subcommand. What is built goes through [`cache`], so a step whose
//! inputs did not change costs nothing, and an interrupted one leaves nothing.

mod artifacts;
mod binaries;
mod cache;
mod check;
mod components;
mod deps;
mod dist;
mod images;
mod oci;
mod progress;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::cache::Cache;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, checks and generates")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install the Debian packages that building and running need.
    Deps,
    /// Build upstream programs into the cache.
    Components {
        #[command(flatten)]
        source: Source,
        /// Only these components; all when none is named.
        names: Vec<String>,
    },
    /// Build our own release binaries into the cache.
    Binaries,
    /// Build everything and lay it out in dist/.
    Build {
        #[command(flatten)]
        source: Source,
    },
    /// Check the house rules that no other tool checks.
    Check,
    /// Run every test.
    Test,
}

#[derive(Args)]
struct Source {
    /// Directory of downloaded release binaries (kube-apiserver, etcd, containerd, ...) to use instead of building.
    #[arg(long, value_name = "DIR")]
    components: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask is not inside the tree")?;
    match task {
        Task::Deps => deps::run(),
        Task::Components { source, names } => {
            let built =
                components::build(root, &Cache::open()?, source.components.as_deref(), &names)?;
            for component in built.values() {
                println!("{}", component.bin().display());
            }
            Ok(())
        }
        Task::Binaries => {
            println!("{}", binaries::build(root, &Cache::open()?)?.display());
            Ok(())
        }
        Task::Build { source } => dist::build(root, &Cache::open()?, source.components.as_deref()),
        Task::Check => check::run(root),
        Task::Test => test(root),
    }
}

/// Unit, property and integration tests of every crate, then the end-to-end suite.
fn test(root: &Path) -> Result<()> {
    cargo(root, &["test", "--workspace"])
    // The end-to-end suite, which needs `dist/`, is called here.
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(program)
        .current_dir(root)
        .args(arguments)
        .status()
        .context("start cargo")?;
    if !status.success() {
        bail!("cargo {} failed: {status}", arguments.join(" "));
    }
    Ok(())
}
