//! RabbitMQ for tests: Debian's packages, unpacked into the cache and never installed, so no
//! service begins on the machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cache::{self, Cache, KeyBuilder};
use crate::progress;

const FORMAT: u32 = 1;
const NAME: &str = "rabbitmq";
/// The server and what it needs of Erlang. Libraries are those of the machine.
const PACKAGES: &[&str] = &[
    "erlang-asn1",
    "erlang-base",
    "erlang-crypto",
    "erlang-eldap",
    "erlang-inets",
    "erlang-mnesia",
    "erlang-os-mon",
    "erlang-parsetools",
    "erlang-public-key",
    "erlang-runtime-tools",
    "erlang-ssl",
    "erlang-syntax-tools",
    "erlang-tools",
    "erlang-xmerl",
    "rabbitmq-server",
];
/// Starts the server where it was unpacked. Debian's scripts name places below `/usr`.
///
/// Erlang finds other servers by a program `epmd`, which it would start as a daemon; this one
/// ends with the group of processes of the server. All listen on loopback only, beside the
/// server's own listeners, which its settings name.
const SCRIPT: &str = r#"#!/bin/sh
set -e
root=$(readlink -f "$(dirname "$(readlink -f "$0")")/../root")
export ROOTDIR="$root/usr/lib/erlang" EMU=beam PROGNAME=erl
for BINDIR in "$ROOTDIR"/erts-*/bin; do :; done
for ERL_LIBS in "$root"/usr/lib/rabbitmq/lib/rabbitmq_server-*/plugins; do :; done
export BINDIR ERL_LIBS ERL_EPMD_ADDRESS=127.0.0.1
"$BINDIR/epmd" &
until "$BINDIR/epmd" -names > /dev/null 2>&1; do
    kill -0 $!
    sleep 0.02
done
exec "$BINDIR/erlexec" -noinput -boot start_sasl -s rabbit boot -start_epmd false +W w +B i \
    -kernel inet_dist_use_interface '{127,0,0,1}' -kernel prevent_overlapping_partitions false \
    -syslog logger '[]' -syslog syslog_error_logger false
"#;

/// The folder with `rabbitmq-server`.
///
/// # Errors
/// When apt knows no such packages, or they cannot be fetched or unpacked.
pub fn unpack(cache: &Cache) -> Result<PathBuf> {
    let told = match list() {
        Ok(told) => told,
        // A new machine has no lists.
        Err(_) => {
            let mut update = Command::new("apt-get");
            update.args(["update", "-q"]);
            progress::run(NAME, "apt-get update", &mut update, &cache.log(NAME))?;
            list().context("ask apt for RabbitMQ's packages")?
        }
    };
    let files = files(&told);
    ensure!(
        files.len() == PACKAGES.len(),
        "apt knows {} of RabbitMQ's {} packages: {files:?}",
        files.len(),
        PACKAGES.len()
    );
    let mut key = KeyBuilder::new("debian rabbitmq", FORMAT);
    key.text("files", &files.join(" ")).text("script", SCRIPT);
    let entry = cache.entry("debian-programs", NAME, key.finish(), |work| {
        fetch(cache, work).context("fetch RabbitMQ; apt-get update brings apt's lists up to date")
    })?;
    Ok(entry.join("bin"))
}

fn list() -> Result<String> {
    let mut list = Command::new("apt-get");
    list.args(["download", "--print-uris", "-q"]).args(PACKAGES);
    progress::output(&mut list)
}

/// Names of the files that apt would fetch: name, version and machine of each package.
fn files(told: &str) -> Vec<&str> {
    let mut files: Vec<&str> = told
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter(|name| name.ends_with(".deb"))
        .collect();
    files.sort_unstable();
    files
}

fn fetch(cache: &Cache, work: &Path) -> Result<()> {
    let (packages, root, bin) = (work.join("packages"), work.join("root"), work.join("bin"));
    for folder in [&packages, &root, &bin] {
        fs::create_dir(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let mut download = Command::new("apt-get");
    // The user that apt takes otherwise may not write here.
    download
        .current_dir(&packages)
        .args(["download", "-q", "-o", "APT::Sandbox::User=root"])
        .args(PACKAGES);
    progress::run(NAME, "apt-get download", &mut download, &cache.log(NAME))?;
    let entries = fs::read_dir(&packages).context("list the packages")?;
    for entry in entries {
        let package = entry.context("list the packages")?.path();
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("--extract").arg(&package).arg(&root);
        progress::output(&mut unpack).with_context(|| format!("unpack {}", package.display()))?;
    }
    cache::remove(&packages)?;
    // Manuals and what services would begin.
    for folder in ["usr/share", "etc", "lib", "var"] {
        cache::remove(&root.join(folder))?;
    }
    let script = bin.join("rabbitmq-server");
    fs::write(&script, SCRIPT).context("write the script")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("set the mode")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_packages_are_found_in_what_apt_tells() {
        let told = "Reading package lists...\n\
                    'http://mirror/r_1-1_all.deb' rabbitmq-server_1-1_all.deb 9 SHA256:00\n\
                    'http://mirror/e_1%2b.deb' erlang-base_1%3a2+d_amd64.deb 7 SHA256:01\n";
        let expected = [
            "erlang-base_1%3a2+d_amd64.deb",
            "rabbitmq-server_1-1_all.deb",
        ];
        assert_eq!(files(told), expected);
    }

    #[test]
    #[ignore = "asks a mirror of Debian"]
    fn the_server_is_unpacked_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned()).unwrap();
        let bin = unpack(&cache).unwrap();
        let script = bin.join("rabbitmq-server");
        assert_eq!(cache::mode(&script).unwrap(), 0o755);
        assert!(bin.join("../root/usr/lib/rabbitmq/lib").is_dir());
        let made = fs::metadata(&script).unwrap().modified().unwrap();
        assert_eq!(unpack(&cache).unwrap(), bin);
        assert_eq!(fs::metadata(&script).unwrap().modified().unwrap(), made);
    }
}
