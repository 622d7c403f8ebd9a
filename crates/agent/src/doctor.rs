//! What the machine lacks to be a host, each with what to do about it.
//!
//! Kernel features are tried, not looked up: a module may be built in, and a list of modules may
//! be out of sight in a container. Trials happen in a network namespace of a thread that ends
//! with them, so nothing of them is ever seen on the machine.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

/// Program, and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("mount", "mount"),
    ("umount", "mount"),
    ("conntrack", "conntrack"),
];
/// Directories in which programs are looked for beside `PATH`.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What kube-proxy needs of nftables: sets with concatenations, and verdict maps.
const NFT_TRIAL: &str = "add table ip farplane-trial
add chain ip farplane-trial c { type nat hook prerouting priority 0 ; }
add chain ip farplane-trial d { type nat hook postrouting priority 0 ; }
add set ip farplane-trial s { type ipv4_addr . inet_proto . inet_service ; }
add map ip farplane-trial m { type ipv4_addr . inet_proto . inet_service : verdict ; }
add rule ip farplane-trial c ip daddr . meta l4proto . th dport vmap @m
add rule ip farplane-trial d masquerade
";

/// One thing that the machine lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is missing.
    pub what: String,
    /// What to do.
    pub todo: String,
    /// Whether Pods cannot run without it.
    pub blocking: bool,
}

fn blocking(what: impl Into<String>, todo: impl Into<String>) -> Finding {
    Finding {
        what: what.into(),
        todo: todo.into(),
        blocking: true,
    }
}

/// Looks at everything. Blocks for some tens of milliseconds.
pub fn examine() -> Vec<Finding> {
    let mut found = programs(|name| program(name).is_some());
    if !nix::unistd::geteuid().is_root() {
        found.push(blocking("root", "run the agent as root"));
        return found;
    }
    if !has_overlay() {
        found.push(blocking(
            "kernel file system overlay",
            "load it (`modprobe overlay`), or install the kernel's full set of modules",
        ));
    }
    let trial = std::thread::spawn(network_trials);
    // A panic in a trial has been reported; the rest is still good.
    found.extend(trial.join().unwrap_or_default());
    if !Path::new("/sys/fs/cgroup").is_dir() {
        found.push(blocking("cgroups", "mount /sys/fs/cgroup, as systemd does"));
    }
    found.extend(clean_port());
    found
}

/// What of the findings keeps Pods from running, in words for the hub.
pub fn missing(findings: &[Finding]) -> Vec<String> {
    let blocking = findings.iter().filter(|finding| finding.blocking);
    blocking
        .map(|finding| format!("{} ({})", finding.what, finding.todo))
        .collect()
}

fn programs(has: impl Fn(&str) -> bool) -> Vec<Finding> {
    let absent = PROGRAMS.iter().filter(|(name, _)| !has(name));
    absent
        .map(|(name, package)| {
            blocking(
                format!("program {name}"),
                format!("install it: apt-get install {package}"),
            )
        })
        .collect()
}

/// Full path of a program.
pub fn program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = path.split(':').chain(SYSTEM_PATH.split(':'));
    let mut found = places.filter(|place| !place.is_empty());
    found.find_map(|place| {
        let file = Path::new(place).join(name);
        file.is_file().then_some(file)
    })
}

fn has_overlay() -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known
        .lines()
        .any(|line| line.trim_start_matches("nodev").trim() == "overlay")
        || run("modprobe", &["--dry-run", "--quiet", "overlay"], "").is_ok()
}

/// Another kubelet on the machine would fight for its port.
fn clean_port() -> Option<Finding> {
    let busy = std::net::TcpListener::bind(("0.0.0.0", 10250)).is_err();
    let ours = Path::new("/var/lib/farplane/plane").exists();
    (busy && !ours).then(|| {
        blocking(
            "TCP port 10250",
            "stop what listens there; a machine can be a node of one cluster only",
        )
    })
}

fn network_trials() -> Vec<Finding> {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        return vec![blocking(
            "the right to make network namespaces",
            format!("run the agent with CAP_SYS_ADMIN; the kernel says: {error}"),
        )];
    }
    let mut found = Vec::new();
    let modules = "use a kernel with it, or install the full set of modules of this one";
    for (kind, words) in [
        ("veth", &["peer", "name", "fp-trial-1"][..]),
        ("vxlan", &["id", "1", "dstport", "4789"]),
    ] {
        let arguments = [&["link", "add", "fp-trial-0", "type", kind][..], words].concat();
        if program("ip").is_some()
            && let Err(reason) = run("ip", &arguments, "")
        {
            found.push(blocking(
                format!("kernel interfaces of type {kind}"),
                format!("{modules}; ip says: {reason}"),
            ));
        }
        // The next trial uses the same name.
        _ = run("ip", &["link", "delete", "fp-trial-0"], "");
    }
    if program("nft").is_some()
        && let Err(reason) = run("nft", &["-f", "-"], NFT_TRIAL)
    {
        found.push(blocking(
            "nftables with sets and maps in the kernel",
            format!("{modules}; nft says: {reason}"),
        ));
    }
    found
}

/// Runs a program; what it says when it fails.
fn run(name: &str, arguments: &[&str], input: &str) -> Result<(), String> {
    let path = program(name).ok_or_else(|| format!("there is no {name}"))?;
    let mut child = Command::new(path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that reads nothing says why by its exit.
        _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().next().unwrap_or("nothing").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_program_comes_with_its_package() {
        let all = programs(|_| false);
        assert_eq!(all.len(), PROGRAMS.len());
        assert!(all.iter().all(|it| it.todo.contains("apt-get install")));
        assert_eq!(programs(|_| true), []);
        let words = missing(&programs(|name| name != "nft"));
        assert_eq!(
            words,
            ["program nft (install it: apt-get install nftables)"]
        );
    }

    #[test]
    fn only_what_stops_pods_is_told_to_the_hub() {
        let advice = Finding {
            what: "a".into(),
            todo: "b".into(),
            blocking: false,
        };
        assert!(missing(&[advice]).is_empty());
    }

    #[test]
    fn a_failing_program_is_quoted() {
        assert_eq!(run("true", &[], ""), Ok(()));
        assert!(
            run("ls", &["/nonexistent"], "")
                .unwrap_err()
                .contains("nonexistent")
        );
        assert!(run("no-such-program", &[], "").is_err());
    }
}
