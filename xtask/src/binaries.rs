//! Our own release binaries, linked statically against glibc, so that images can
//! be empty and hosts need no particular C library.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cache::{Cache, Key, KeyBuilder};
use crate::progress;

const FORMAT: u32 = 1;
const TARGET: &str = "x86_64-unknown-linux-gnu";
const FLAGS: &str = "-C target-feature=+crt-static";

/// Package and the binary it brings.
const BINARIES: &[(&str, &str)] = &[
    ("farplane-agent", "farplane-agent"),
    ("farplane-cli", "farplane"),
    ("farplane-functions", "farplane-functions"),
    ("farplane-hub", "farplane-hub"),
    ("farplane-testing", "farplane-test-server"),
];

/// Crates that are part of none of them: a changed scenario rebuilds nothing.
const OTHERS: &[&str] = &["e2e", "bench"];

/// Builds them, unless this source was built before. Gives the directory that
/// holds the files.
///
/// # Errors
/// When the tree cannot be read or cargo fails.
pub fn build(root: &Path, cache: &Cache, debug: bool) -> Result<PathBuf> {
    let key = key(root, debug)?;
    cache.entry("binaries", "farplane", key.clone(), |work| {
        compile(root, cache, debug, work)?;
        ensure!(
            self::key(root, debug)? == key,
            "the sources changed while they were built: run it again"
        );
        Ok(())
    })
}

/// Copies binaries that were built elsewhere into the cache, by content.
///
/// # Errors
/// When one of them is missing.
pub fn take(cache: &Cache, dir: &Path) -> Result<PathBuf> {
    let mut key = KeyBuilder::new("given binaries", FORMAT);
    for (_, binary) in BINARIES {
        let file = dir.join(binary);
        ensure!(file.is_file(), "{} has no {binary}", dir.display());
        key.path(dir, &file)?;
    }
    cache.entry("binaries", "farplane", key.finish(), |work| copy(dir, work))
}

fn key(root: &Path, debug: bool) -> Result<Key> {
    let mut key = KeyBuilder::new("binaries", FORMAT);
    key.text("target", TARGET)
        .text("flags", FLAGS)
        .text("binaries", &format!("{BINARIES:?}"));
    key.text(
        "toolchain",
        &progress::output(Command::new("rustc").arg("-vV"))?,
    );
    key.text("profile", profile(debug));
    for path in ["Cargo.toml", "Cargo.lock", "charts", "rust-toolchain.toml"] {
        if root.join(path).exists() {
            key.path(root, &root.join(path))?;
        }
    }
    for path in crates(root)? {
        key.path(root, &path)?;
    }
    Ok(key.finish())
}

/// Directories of the crates that may be part of a binary, sorted.
fn crates(root: &Path) -> Result<Vec<PathBuf>> {
    let dir = root.join("crates");
    let mut all = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry
            .with_context(|| format!("list {}", dir.display()))?
            .path();
        if !OTHERS.iter().any(|name| path.ends_with(name)) {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}

fn profile(debug: bool) -> &'static str {
    if debug { "dev" } else { "release" }
}

fn compile(root: &Path, cache: &Cache, debug: bool, work: &Path) -> Result<()> {
    let given = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = given.unwrap_or_else(|| cache.root().join("target"));
    let profile = profile(debug);
    let mut command = crate::cargo::command();
    command.current_dir(root).args([
        "build",
        "--locked",
        "--profile",
        profile,
        "--target",
        TARGET,
    ]);
    for (package, binary) in BINARIES {
        command.args(["--package", package, "--bin", binary]);
    }
    command
        .env("RUSTFLAGS", FLAGS)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_TERM_PROGRESS_WHEN", "never");
    progress::run(
        "farplane",
        &format!("cargo build, {profile}"),
        &mut command,
        &cache.log("binaries"),
    )?;
    copy(
        &target
            .join(TARGET)
            .join(if debug { "debug" } else { "release" }),
        work,
    )
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for (_, binary) in BINARIES {
        let file = from.join(binary);
        fs::copy(&file, to.join(binary)).with_context(|| format!("copy {}", file.display()))?;
    }
    Ok(())
}
