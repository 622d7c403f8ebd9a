//! House rules that no compiler or linter checks: length of files, a module
//! comment in each, and no name of a package registry anywhere in the tree.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::progress;

const MAX_LINES: usize = 500;

/// Registries in two halves, so that this file passes its own check.
const REGISTRIES: &[(&str, &str)] = &[
    ("crates", ".io"),
    ("deb.", "debian.org"),
    ("docker", ".io/"),
    ("gcr", ".io"),
    ("ghcr", ".io"),
    ("proxy.", "golang.org"),
    ("pypi", ".org"),
    ("quay", ".io"),
    ("registry.", "k8s.io"),
    ("registry.", "npmjs.org"),
    ("sum.", "golang.org"),
];

/// Checks every file that git knows or would add.
///
/// # Errors
/// Lists every breach.
pub fn run(root: &Path) -> Result<()> {
    let list = progress::output(Command::new("git").current_dir(root).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let mut breaches = Vec::new();
    let mut count = 0;
    for file in list.lines() {
        // Deleted but not yet committed, or not text: nothing to check.
        let Ok(text) = fs::read(root.join(file)).map(String::from_utf8) else {
            continue;
        };
        let Ok(text) = text else { continue };
        count += 1;
        breaches.extend(
            breaches_of(file, &text)
                .into_iter()
                .map(|breach| format!("{file}: {breach}")),
        );
    }
    if count == 0 {
        bail!("no file to check below {}", root.display());
    }
    if !breaches.is_empty() {
        bail!(
            "{} breaches of the house rules:\n{}",
            breaches.len(),
            breaches.join("\n")
        );
    }
    progress::line("check", &format!("{count} files keep the house rules"));
    Ok(())
}

fn breaches_of(file: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    let ours = file.starts_with("crates/") || file.starts_with("xtask/");
    if ours && file.ends_with(".rs") {
        let lines = text.lines().count();
        if lines >= MAX_LINES {
            breaches.push(format!("{lines} lines; split it below {MAX_LINES}"));
        }
        if file.contains("/src/") && !text.trim_start().starts_with("//!") {
            breaches.push("opens without a module comment (//!)".into());
        }
    }
    // Lock files are written by tools, which name the registry they asked.
    if !file.ends_with(".lock") && !file.ends_with(".sum") {
        for (start, end) in REGISTRIES {
            if let Some(line) = text
                .lines()
                .position(|line| line.contains(&format!("{start}{end}")))
            {
                breaches.push(format!(
                    "line {}: names the registry {start}{end}",
                    line + 1
                ));
            }
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_can_be_broken() {
        let long = format!("//! Doc.\n{}", "x\n".repeat(MAX_LINES));
        assert_eq!(breaches_of("crates/a/src/lib.rs", &long).len(), 1);
        assert_eq!(
            breaches_of("crates/a/src/lib.rs", "fn main() {}\n").len(),
            1
        );
        assert_eq!(
            breaches_of("README.md", &format!("from {}{}", "quay", ".io/etcd")).len(),
            1
        );
        assert_eq!(
            breaches_of("Cargo.lock", &format!("{}{}", "crates", ".io")).len(),
            0
        );
        assert_eq!(
            breaches_of("crates/a/src/lib.rs", "//! Doc.\n"),
            Vec::<String>::new()
        );
    }
}
