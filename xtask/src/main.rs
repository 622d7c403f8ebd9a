//! Everything that is built, checked or generated, by one command that people
//! and CI run alike: `cargo xtask --help`.
//!
//! One file per subcommand. What is built goes through [`cache`], so a step whose
//! inputs did not change costs nothing, and an interrupted one leaves nothing.

mod artifacts;
mod bench;
mod binaries;
mod cache;
mod cargo;
mod check;
mod components;
mod crds;
mod deny;
mod deps;
mod dist;
mod environments;
mod fuzz;
mod images;
mod machine;
mod oci;
mod progress;
mod rabbit;
mod recipe;
mod registry;
mod roots;
mod test;
mod tree;
mod versions;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
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
    /// Build our own binaries into the cache.
    Binaries {
        #[command(flatten)]
        own: Own,
    },
    /// Build everything and lay it out in dist/.
    Build {
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        own: Own,
    },
    /// Write the custom resources' definitions and reference page.
    Crds {
        /// Only compare; fail when they differ.
        #[arg(long)]
        check: bool,
    },
    /// Check the house rules that no other tool checks.
    Check,
    /// Check the licences and sources of what we link.
    Deny,
    /// Run every test.
    Test {
        /// Only end-to-end scenarios whose name contains this text, and those that set up.
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
    },
    /// Run the fuzz targets for a while; needs a nightly compiler.
    Fuzz(fuzz::Options),
    /// Try a real Debian machine: join, node, Pod, reboot, removal, and all that through a proxy.
    ///
    /// Emulates the machine with qemu-system-x86_64, on a hub of its own name, and removes both
    /// at the end. Takes five to fifteen minutes; not part of the tests. Needs the Debian
    /// packages qemu-system-x86, mmdebstrap, e2fsprogs and openssh-client.
    TryMachine {
        #[command(flatten)]
        own: Own,
    },
    /// Measure what SPEC.md promises.
    Bench(bench::Options),
}

#[derive(Args)]
struct Source {
    /// Directory of downloaded release binaries (kube-apiserver, etcd, containerd, ...) to use instead of building.
    #[arg(long, value_name = "DIR")]
    components: Option<PathBuf>,
}

#[derive(Args, Default)]
struct Own {
    /// Build our own binaries without optimisation: quicker to build, slower to run.
    #[arg(long)]
    debug: bool,
    /// Directory of our own static binaries, built elsewhere, to use instead of building.
    #[arg(long, value_name = "DIR", conflicts_with = "debug")]
    binaries: Option<PathBuf>,
}

impl Own {
    fn build(&self, root: &Path, cache: &Cache) -> Result<PathBuf> {
        match &self.binaries {
            Some(dir) => binaries::take(cache, dir),
            None => binaries::build(root, cache, self.debug),
        }
    }
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
    // Cargo tells it again to what it runs. A program that was built in another clone with the
    // same target directory may be run here, and would act there.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR");
    let manifest = manifest.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&manifest)
        .parent()
        .context("xtask is not inside the tree")?;
    match task {
        Task::Deps => deps::run(root),
        Task::Components { source, names } => {
            let built =
                components::build(root, &Cache::open()?, source.components.as_deref(), &names)?;
            for component in built.values() {
                println!("{}", component.bin().display());
            }
            Ok(())
        }
        Task::Binaries { own } => {
            println!("{}", own.build(root, &Cache::open()?)?.display());
            Ok(())
        }
        Task::Build { source, own } => {
            build(root, &Cache::open()?, source.components.as_deref(), &own)
        }
        Task::Crds { check } => crds::run(root, check),
        Task::Check => {
            check::run(root)?;
            crds::run(root, true)
        }
        Task::Deny => deny::run(root, &Cache::open()?),
        Task::Test { only } => test::run(root, only.as_deref()),
        Task::Fuzz(options) => fuzz::run(root, &Cache::open()?, &options),
        Task::TryMachine { own } => machine::run(root, &own),
        Task::Bench(options) => bench::run(root, &options),
    }
}

/// Builds everything and lays it out in `dist/`.
fn build(root: &Path, cache: &Cache, given: Option<&Path>, own: &Own) -> Result<()> {
    std::thread::scope(|scope| {
        // Installing waits for downloads and disks where compiling needs the processors.
        let languages = scope.spawn(|| environments::install(root, cache));
        let components = components::build(root, cache, given, &[])?;
        let own = own.build(root, cache)?;
        let languages = languages
            .join()
            .map_err(|_| anyhow!("the images of languages panicked"))??;
        dist::build(root, cache, &components, &own, &languages)
    })
}
