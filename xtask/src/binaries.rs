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
    ("farplane-hub", "farplane-hub"),
    ("farplane-testing", "farplane-test-server"),
];

/// Builds them, unless this source was built before. Gives the directory
/// that holds the four files.
///
/// # Errors
/// When the tree cannot be read or cargo fails.
pub fn build(root: &Path, cache: &Cache) -> Result<PathBuf> {
    let key = key(root)?;
    cache.entry("binaries", "farplane", key.clone(), |work| {
        compile(root, cache, &key, work)
    })
}

fn key(root: &Path) -> Result<Key> {
    let mut key = KeyBuilder::new("binaries", FORMAT);
    key.text("target", TARGET)
        .text("flags", FLAGS)
        .text("binaries", &format!("{BINARIES:?}"));
    key.text(
        "toolchain",
        &progress::output(Command::new("rustc").arg("-vV"))?,
    );
    for path in [
        "Cargo.toml",
        "Cargo.lock",
        "crates",
        "charts",
        "rust-toolchain.toml",
    ] {
        if root.join(path).exists() {
            key.path(root, &root.join(path))?;
        }
    }
    Ok(key.finish())
}

fn compile(root: &Path, cache: &Cache, before: &Key, work: &Path) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let given = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = given.unwrap_or_else(|| cache.root().join("target"));
    let mut command = Command::new(cargo);
    command
        .current_dir(root)
        .args(["build", "--release", "--locked", "--target", TARGET]);
    for (package, binary) in BINARIES {
        command.args(["--package", package, "--bin", binary]);
    }
    command
        .env("RUSTFLAGS", FLAGS)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_TERM_PROGRESS_WHEN", "never");
    progress::run(
        "farplane",
        "cargo build --release",
        &mut command,
        &cache.log("binaries"),
    )?;
    for (_, binary) in BINARIES {
        let built = target.join(TARGET).join("release").join(binary);
        fs::copy(&built, work.join(binary)).with_context(|| format!("copy {}", built.display()))?;
    }
    ensure!(
        key(root)? == *before,
        "the sources changed while they were built: run it again"
    );
    Ok(())
}
