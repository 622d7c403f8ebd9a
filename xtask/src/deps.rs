//! `cargo xtask deps`: the Debian packages that building and running need.
//!
//! Does nothing, and asks no mirror, when all are installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::progress;

/// Packages, each with a program it brings where one is called by name here.
const PACKAGES: &[(&str, Option<&str>)] = &[
    ("ca-certificates", None),
    ("conntrack", Some("conntrack")),
    ("gcc", Some("gcc")),
    ("iproute2", Some("ip")),
    ("iptables", Some("iptables")),
    ("kmod", Some("modprobe")),
    ("libc6-dev", None),
    ("libseccomp-dev", None),
    ("mmdebstrap", Some("mmdebstrap")),
    ("mount", Some("mount")),
    ("nftables", Some("nft")),
    ("pkg-config", Some("pkg-config")),
    ("procps", Some("ps")),
    ("util-linux", Some("nsenter")),
    ("zstd", Some("zstd")),
];

/// Where a program comes from, for the error that says it is missing.
pub fn package_of(program: &str) -> Option<String> {
    if program == "go" {
        return Some("Go 1.26.6 or newer (Debian 12's own package is older)".into());
    }
    let (package, _) = PACKAGES
        .iter()
        .find(|(_, brings)| *brings == Some(program))?;
    Some(format!(
        "the Debian package {package} (apt-get install {package}, or cargo xtask deps)"
    ))
}

/// Installs what is missing.
///
/// # Errors
/// When the machine is not Debian, or apt-get fails.
pub fn run(root: &Path) -> Result<()> {
    let missing = missing(root)?;
    if missing.is_empty() {
        progress::line("deps", "all Debian packages present");
        return Ok(());
    }
    progress::line("deps", &format!("installing {}", missing.join(" ")));
    apt_get(&["update", "-q"])?;
    let install = ["install", "-q", "-y", "--no-install-recommends"];
    let arguments: Vec<&str> = install
        .into_iter()
        .chain(missing.iter().map(String::as_str))
        .collect();
    apt_get(&arguments)?;
    Ok(())
}

fn missing(root: &Path) -> Result<Vec<String>> {
    let mut wanted: BTreeSet<String> = languages(root)?;
    wanted.extend(PACKAGES.iter().map(|(package, _)| (*package).to_owned()));
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
        .args(&wanted)
        .stderr(Stdio::null())
        .output()
        .context("ask dpkg-query; packages are only installed on Debian")?;
    let installed = String::from_utf8_lossy(&output.stdout).into_owned();
    let has = |package: &String| {
        let line = format!("{package} installed");
        installed.lines().any(|known| known == line)
    };
    wanted.retain(|package| !has(package));
    Ok(wanted.into_iter().collect())
}

/// Packages that run the languages of functions: their servers are tested here as processes.
fn languages(root: &Path) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Environment {
        packages: Vec<String>,
    }
    let mut all = BTreeSet::new();
    let folder = root.join("environments");
    let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries {
        let path = entry
            .context("read a folder")?
            .path()
            .join("environment.json");
        let Ok(text) = fs::read(&path) else { continue };
        let environment: Environment =
            serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
        all.extend(environment.packages);
    }
    Ok(all)
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(std::io::stderr())
        .status()
        .context("start apt-get")?;
    if !status.success() {
        bail!(
            "apt-get {} failed: {status}; are you root?",
            arguments.join(" ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        assert!(package_of("nft").unwrap().contains("nftables"));
        assert_eq!(package_of("no-such-program"), None);
    }
}
