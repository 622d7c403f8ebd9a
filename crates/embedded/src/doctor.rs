//! Finds out whether this machine can run a hub, and says what to do when it cannot.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::UpOptions;
use crate::cgroup;
use crate::command::{exists, run_with_input};
use crate::error::Error;

/// Space that images and databases of a small hub need, in MiB.
pub(crate) const NEEDED_MIB: u64 = 5 * 1024;

/// Programs of the machine and the Debian package that has each.
const TOOLS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("mount", "mount"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setsid", "util-linux"),
];

/// Programs of the distribution.
pub(crate) const PROGRAMS: &[&str] = &[
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "containerd",
    "containerd-shim-runc-v2",
    "runc",
    "ctr",
    "helm",
];

const CONTROLLERS: &[&str] = &["cpu", "memory", "pids", "cpuset"];

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A hub does not start.
    Error,
    /// A hub starts, with less.
    Warning,
}

/// One check and its outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// True when nothing needs to be done.
    pub ok: bool,
    /// What follows when it is not.
    pub severity: Severity,
    /// What was found.
    pub message: String,
    /// What to do; empty when nothing.
    pub fix: String,
}

impl Finding {
    fn new(check: &str, severity: Severity, found: Result<String, (String, String)>) -> Self {
        let ok = found.is_ok();
        let (message, fix) = match found {
            Ok(message) => (message, String::new()),
            Err(both) => both,
        };
        Self {
            check: check.to_owned(),
            ok,
            severity,
            message,
            fix,
        }
    }
}

/// Checks what a hub needs of the machine. Changes nothing that stays.
pub fn doctor(options: &UpOptions) -> Vec<Finding> {
    use Severity::{Error, Warning};
    let mut findings = vec![Finding::new("root", Error, root())];
    for (program, package) in TOOLS {
        findings.push(Finding::new(
            &format!("program {program}"),
            Error,
            tool(program, package),
        ));
    }
    findings.extend([
        Finding::new("distribution", Error, distribution(&options.dist)),
        Finding::new("overlay file system", Error, overlay()),
        Finding::new("network namespace, veth and nftables", Error, networking()),
        Finding::new("cgroup controllers", Error, controllers()),
        Finding::new("disk space", Error, disk(&options.state_dir)),
        Finding::new("clock", Warning, clock()),
        Finding::new("resource limits", Warning, files_limit()),
    ]);
    if let Some(address) = options.listen {
        findings.push(Finding::new("address for clients", Error, port(address)));
    }
    findings
}

/// The checks that take no time, before `up` changes anything.
pub(crate) fn preflight(options: &UpOptions) -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    for (program, package) in TOOLS {
        if !exists(program) {
            return Err(Error::MissingTool { program, package });
        }
    }
    for path in programs(&options.dist) {
        if !path.is_file() {
            return Err(Error::MissingProgram { path });
        }
    }
    Ok(())
}

/// Refuses to begin on a disk that is nearly full.
pub(crate) fn enough_space(state: &Path) -> Result<(), Error> {
    match free_mib(state) {
        Some(free_mib) if free_mib < NEEDED_MIB => Err(Error::DiskFull {
            path: state.to_owned(),
            free_mib,
            needed_mib: NEEDED_MIB,
        }),
        _ => Ok(()),
    }
}

fn programs(dist: &Path) -> impl Iterator<Item = PathBuf> {
    let cni = ["ptp", "host-local", "loopback"].map(|name| dist.join("cni").join(name));
    let bin = PROGRAMS.iter().map(|name| dist.join("bin").join(name));
    bin.chain(cni).collect::<Vec<_>>().into_iter()
}

type Found = Result<String, (String, String)>;

fn problem(message: impl Into<String>, fix: impl Into<String>) -> Found {
    Err((message.into(), fix.into()))
}

fn root() -> Found {
    if nix::unistd::geteuid().is_root() {
        Ok("running as root".to_owned())
    } else {
        problem("not running as root", "repeat the command with sudo")
    }
}

fn tool(program: &str, package: &str) -> Found {
    if exists(program) {
        Ok("installed".to_owned())
    } else {
        problem("not installed", format!("apt-get install {package}"))
    }
}

fn distribution(dist: &Path) -> Found {
    let missing: Vec<String> = programs(dist)
        .filter(|path| !path.is_file())
        .map(|path| path.display().to_string())
        .collect();
    if missing.is_empty() {
        Ok(format!("complete in {}", dist.display()))
    } else {
        problem(
            format!("missing: {}", missing.join(", ")),
            "run `make build`",
        )
    }
}

fn overlay() -> Found {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known
        .lines()
        .any(|line| line.trim() == "nodev\toverlay" || line.ends_with("\toverlay"))
    {
        return Ok("known to the kernel".to_owned());
    }
    problem("the kernel does not know overlay", "modprobe overlay")
}

/// Tries in a namespace of its own what the hub does later.
fn networking() -> Found {
    let script =
        "ip link set lo up && ip link add fpdoctor0 type veth peer name fpdoctor1 && exec nft -f -";
    let rules = "table ip farplane-doctor {\n\
        set known { type ipv4_addr . inet_proto . inet_service; }\n\
        map to { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
        chain nat { type nat hook prerouting priority dstnat; }\n\
        chain out { type nat hook postrouting priority srcnat; masquerade; }\n\
        }\n";
    let tried = blocking(async move {
        run_with_input("unshare", &["--net", "sh", "-c", script], Some(rules)).await
    });
    match tried {
        Ok(_) => Ok("work".to_owned()),
        Err(error) => problem(
            error.to_string(),
            "load the modules: modprobe -a veth nf_tables nft_nat nft_masq nft_ct; on a kernel without them a hub cannot run",
        ),
    }
}

fn controllers() -> Found {
    let missing: Vec<&str> = if cgroup::is_v2() {
        let have = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        let have: Vec<&str> = have.split_whitespace().collect();
        CONTROLLERS
            .iter()
            .filter(|one| !have.contains(one))
            .copied()
            .collect()
    } else {
        let have = cgroup::hierarchies();
        let has = |one: &str| {
            have.iter().any(|path| {
                let name = path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                name.split(',').any(|part| part == one)
            })
        };
        CONTROLLERS
            .iter()
            .filter(|one| !has(one))
            .copied()
            .collect()
    };
    if missing.is_empty() {
        return Ok(format!("version {}", if cgroup::is_v2() { 2 } else { 1 }));
    }
    problem(
        format!("missing: {}", missing.join(", ")),
        "switch them on with the kernel parameter cgroup_enable, or mount them below /sys/fs/cgroup",
    )
}

fn free_mib(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let stat = nix::sys::statvfs::statvfs(existing).ok()?;
    Some(stat.blocks_available() * stat.fragment_size() / (1 << 20))
}

fn disk(state: &Path) -> Found {
    match free_mib(state) {
        Some(free) if free < NEEDED_MIB => problem(
            format!(
                "{free} MiB are free for {}, {NEEDED_MIB} are needed",
                state.display()
            ),
            "free some space, or move the directory to another disk",
        ),
        Some(free) => Ok(format!("{free} MiB free")),
        None => problem("cannot be measured", "look at the disk by hand"),
    }
}

/// Certificates of a machine whose clock is years behind are refused everywhere.
fn clock() -> Found {
    const BUILT_AFTER: u64 = 1_767_225_600; // 2026-01-01
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    if now < BUILT_AFTER {
        return problem(
            "the clock is before the release of this program",
            "set it, for example with timedatectl set-ntp true",
        );
    }
    Ok("plausible".to_owned())
}

fn files_limit() -> Found {
    let read = |path| {
        let text = std::fs::read_to_string(path).ok()?;
        text.trim().parse::<u64>().ok()
    };
    match read("/proc/sys/fs/inotify/max_user_instances") {
        Some(instances) if instances < 512 => problem(
            format!(
                "only {instances} inotify instances per user: enough for a hub with a few lab hosts"
            ),
            "sysctl fs.inotify.max_user_instances=8192",
        ),
        _ => Ok("enough inotify instances".to_owned()),
    }
}

fn port(address: std::net::SocketAddr) -> Found {
    match TcpListener::bind(address) {
        Ok(_) => Ok(format!("{address} is free")),
        Err(error) => problem(
            format!("{address} cannot be used: {error}"),
            "stop the other program, or choose another address with --listen",
        ),
    }
}

/// Runs a future on a thread of its own, since `doctor` may be called from one that
/// runs futures already.
fn blocking<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    let failed = |source| Error::StartProgram {
        program: "a check".to_owned(),
        source,
    };
    let thread = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?
            .block_on(work)
    });
    thread
        .join()
        .unwrap_or_else(|_| Err(failed(std::io::Error::other("the check broke off"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_found_and_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let (message, fix) = port(address).unwrap_err();
        assert!(message.contains(&address.to_string()));
        assert!(fix.contains("--listen"));
    }

    #[test]
    fn a_missing_distribution_names_every_file() {
        let dir = tempfile::tempdir().unwrap();
        let (message, _) = distribution(dir.path()).unwrap_err();
        for name in PROGRAMS.iter().chain(&["ptp"]) {
            assert!(message.contains(name), "{name}");
        }
    }
}
