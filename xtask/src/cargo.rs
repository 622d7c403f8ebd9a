//! Cargo, started as by a person.
//!
//! Cargo tells a program that it runs about its package, and so does `cargo xtask`. A Cargo that
//! inherits this takes it for a change of what some build scripts depend on (ring's do, on
//! `CARGO_MANIFEST_DIR` and others): everything above ring, which is most, would be built anew in
//! each clone, and again whenever Cargo is used without `xtask` in between.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::cache::Cache;
use crate::progress;

/// What Cargo tells of a package.
const TOLD: &[&str] = &[
    "CARGO_PKG_",
    "CARGO_MANIFEST_",
    "CARGO_BIN_",
    "CARGO_CRATE_",
];

/// The Cargo that runs this program, or the one in `PATH`, without what it told this one.
pub fn command() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_told(name)) {
        command.env_remove(name);
    }
    command
}

/// A program of the registry, installed beside the cache when it is missing.
///
/// # Errors
/// When it cannot be installed.
pub fn tool(cache: &Cache, name: &str, version: &str) -> Result<PathBuf> {
    let tools = cache.root().join("tools");
    let program = tools.join("bin").join(name);
    if !program.is_file() {
        let mut install = command();
        install.args(["install", "--locked", "--version", version, "--root"]);
        install
            .arg(&tools)
            .arg(name)
            .env("CARGO_TERM_PROGRESS_WHEN", "never");
        progress::run(name, "cargo install", &mut install, &cache.log(name))?;
    }
    Ok(program)
}

fn is_told(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    TOLD.iter().any(|prefix| name.starts_with(prefix)) || name == "OUT_DIR"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_told_this_test_is_not_passed_on() {
        let given = std::env::var_os("CARGO_MANIFEST_DIR");
        assert!(given.is_some(), "cargo runs this test");
        let command = command();
        let removed: Vec<_> = command
            .get_envs()
            .filter(|(_, value)| value.is_none())
            .collect();
        assert!(
            removed
                .iter()
                .any(|(name, _)| *name == "CARGO_MANIFEST_DIR")
        );
        assert!(removed.iter().any(|(name, _)| *name == "CARGO_PKG_NAME"));
        for kept in [
            "CARGO_TARGET_DIR",
            "CARGO_HOME",
            "CARGO_INCREMENTAL",
            "PATH",
        ] {
            assert!(!is_told(OsStr::new(kept)), "{kept}");
        }
    }
}
