//! `cargo xtask deps`: the Debian packages that building and running need.
//!
//! Does nothing, and asks no mirror, when all are installed.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

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
    ("nodejs", Some("node")),
    ("pkg-config", Some("pkg-config")),
    ("procps", Some("ps")),
    ("python3", Some("python3")),
    ("python3-flask", None),
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
pub fn run() -> Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        progress::line("deps", "all Debian packages present");
        return Ok(());
    }
    progress::line("deps", &format!("installing {}", missing.join(" ")));
    apt_get(&["update", "-q"])?;
    apt_get(
        &[
            &["install", "-q", "-y", "--no-install-recommends"],
            missing.as_slice(),
        ]
        .concat(),
    )?;
    Ok(())
}

fn missing() -> Result<Vec<&'static str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
        .args(PACKAGES.iter().map(|(package, _)| package))
        .stderr(Stdio::null())
        .output()
        .context("ask dpkg-query; packages are only installed on Debian")?;
    let installed = String::from_utf8_lossy(&output.stdout).into_owned();
    let has = |package: &str| {
        installed
            .lines()
            .any(|line| line == format!("{package} installed"))
    };
    Ok(PACKAGES
        .iter()
        .map(|(package, _)| *package)
        .filter(|package| !has(package))
        .collect())
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
