//! The process that holds the hub's mount namespace.
//!
//! Mounts of containers, volumes and Pods' network namespaces live in a mount namespace
//! that a sleeping process keeps open. The supervisor enters it, so a new supervisor
//! finds what the last one left; when the last process of the hub has ended, every
//! mount is gone by itself.
//!
//! Within it `/run` and `/var/log` are empty, and what is written to `/var/lib` outside
//! of the state directory stays in memory: upstream programs have paths of their own
//! there, and none of them shall be left on the machine.

use std::process::Stdio;
use std::time::Duration;

use farplane_supervise::ProcessId;
use tokio::process::Command;

use crate::error::Error;
use crate::files::{Files, tail};
use crate::network::namespace_file;
use crate::record::Record;

/// `$1` is the state directory, `$2` the file that says that all is done, `$3` the file
/// by which a process joins the hub's cgroup.
const SCRIPT: &str = r#"set -e
state=$1 ready=$2 members=$3
echo $$ >"$members"
# Namespaces of other hubs would stay for as long as this copy of their mounts.
for place in /run/netns/* /run/netns; do
    while umount -l "$place" 2>/dev/null; do :; done
done
mount -t tmpfs -o mode=0755,nosuid,nodev farplane-run /run
mkdir -p /run/netns /run/lock
mount -t tmpfs -o mode=0755,nosuid,nodev,noexec,size=16m farplane-log /var/log
case $state in
/var/lib/*)
    mkdir /run/.state /run/.lib
    mount --bind "$state" /run/.state
    mount -t tmpfs -o mode=0700,nodev farplane-lib /run/.lib
    mkdir /run/.lib/upper /run/.lib/work
    if mount -t overlay -o lowerdir=/var/lib,upperdir=/run/.lib/upper,workdir=/run/.lib/work farplane-lib /var/lib; then
        mkdir -p "$state"
        mount --bind /run/.state "$state"
    fi
    umount /run/.state
    umount -l /run/.lib
    rmdir /run/.state /run/.lib
    ;;
esac
mount --make-rshared /
echo $$ >"$ready"
exec sleep infinity
"#;

/// Starts the anchor in the hub's network namespace, unless it lives.
pub(crate) async fn ensure(record: &mut Record, files: &Files) -> Result<ProcessId, Error> {
    if let Some(anchor) = record.anchor.filter(|anchor| anchor.is_alive()) {
        return Ok(anchor);
    }
    let now = k8s_openapi::jiff::Timestamp::now();
    let ready = files.anchor_ready();
    let _ = std::fs::remove_file(&ready);
    let log_path = files.logs().join("anchor.log");
    let log = std::fs::File::create(&log_path).map_err(Error::file("make", &log_path))?;
    let members = crate::cgroup::members_file(&record.name).unwrap_or_else(|| "/dev/null".into());
    let mut child = Command::new("setsid")
        .arg("nsenter")
        .arg(format!("--net={}", namespace_file(&record.name).display()))
        .args([
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            SCRIPT,
            "farplane-hub",
        ])
        .args([&files.state, &ready, &members])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|source| Error::StartProgram {
            program: "the namespace anchor".to_owned(),
            source,
        })?;
    let started = tokio::time::Instant::now();
    while !ready.exists() {
        let ended = child.try_wait().ok().flatten();
        if ended.is_some() || started.elapsed() > Duration::from_secs(20) {
            let _ = child.start_kill();
            return Err(Error::Namespaces {
                message: tail(&log_path, 3),
            });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let anchor = pid
        .and_then(ProcessId::of)
        .ok_or_else(|| Error::Namespaces {
            message: tail(&log_path, 3),
        })?;
    record.anchor = Some(anchor);
    record.anchored_at = now.as_second();
    record.save(files)?;
    Ok(anchor)
}

/// Arguments of `nsenter` for a program in the mount namespace of the hub and in the
/// network namespace of the caller.
pub(crate) fn enter_mounts(anchor: ProcessId) -> String {
    format!("--mount=/proc/{}/ns/mnt", anchor.pid)
}
