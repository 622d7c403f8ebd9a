//! `cargo xtask deny`: licences and sources of what we link, by cargo-deny, which
//! is installed beside the cache when it is missing.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::cache::Cache;

const VERSION: &str = "0.20.2";

/// Checks against `deny.toml`. The list of known vulnerabilities is not asked for:
/// it changes by the day, and a build must not.
///
/// # Errors
/// When cargo-deny cannot be installed or finds something.
pub fn run(root: &Path, cache: &Cache) -> Result<()> {
    let program = crate::cargo::tool(cache, "cargo-deny", VERSION)?;
    let status = Command::new(program)
        .current_dir(root)
        .args(["--locked", "check", "bans", "licenses", "sources"])
        .status()?;
    if !status.success() {
        bail!("cargo-deny found what deny.toml forbids");
    }
    Ok(())
}
