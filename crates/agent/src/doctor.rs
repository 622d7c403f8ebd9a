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
/// Oldest versions with which kube-proxy uses nftables.
const OLDEST_KERNEL: [u32; 3] = [5, 13, 0];
const OLDEST_NFT: [u32; 3] = [1, 0, 1];
/// Controllers of cgroup version 2 without which the kubelet ends.
const CONTROLLERS: &[&str] = &["cpu", "cpuset", "memory", "pids"];
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
    found.extend(versions());
    if !has_overlay() {
        found.push(blocking(
            "kernel file system overlay",
            "load it (`modprobe overlay`), or install the kernel's full set of modules",
        ));
    }
    let trial = std::thread::spawn(network_trials);
    // A panic in a trial has been reported; the rest is still good.
    found.extend(trial.join().unwrap_or_default());
    found.extend(cgroups(Path::new("/sys/fs/cgroup")));
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

/// kube-proxy's own bounds; it ends on anything older.
fn versions() -> Vec<Finding> {
    let mut found = Vec::new();
    let system = nix::sys::utsname::uname().ok();
    let release = system.map(|it| it.release().to_string_lossy().into_owned());
    if let Some(release) = release.filter(|it| is_older(it, OLDEST_KERNEL)) {
        found.push(blocking(
            format!("a kernel of version {} or newer", text(OLDEST_KERNEL)),
            format!("upgrade the machine; it runs {release}"),
        ));
    }
    let said = program("nft").and_then(|path| Command::new(path).arg("--version").output().ok());
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    if let Some(said) = said.filter(|it| is_older(it.trim_start_matches("nftables v"), OLDEST_NFT))
    {
        found.push(blocking(
            format!("nft of version {} or newer", text(OLDEST_NFT)),
            format!("upgrade package nftables; this is {}", said.trim()),
        ));
    }
    found
}

fn text(version: [u32; 3]) -> String {
    let [major, minor, patch] = version;
    match patch {
        0 => format!("{major}.{minor}"),
        _ => format!("{major}.{minor}.{patch}"),
    }
}

/// Whether the version at the front of a text is below the bound; an odd text is not.
fn is_older(version: &str, bound: [u32; 3]) -> bool {
    let numbers = version.split(|c: char| !c.is_ascii_digit()).take(3);
    let numbers: Vec<u32> = numbers.map_while(|it| it.parse().ok()).collect();
    !numbers.is_empty() && numbers[..] < bound[..]
}

/// What the kubelet needs of them.
fn cgroups(root: &Path) -> Option<Finding> {
    if !root.is_dir() {
        return Some(blocking("cgroups", "mount /sys/fs/cgroup, as systemd does"));
    }
    // Only version 2 has the list here; in version 1 each is a mount, and runc says what fails.
    let listed = fs::read_to_string(root.join("cgroup.controllers")).ok()?;
    let absent = CONTROLLERS
        .iter()
        .filter(|&name| !listed.split_whitespace().any(|it| it == *name));
    let absent: Vec<&str> = absent.copied().collect();
    (!absent.is_empty()).then(|| {
        let names = absent.join(", ");
        blocking(
            format!("cgroup controllers {names}"),
            "take cgroup_disable= off the kernel's command line, or use a kernel that has them",
        )
    })
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
    fn versions_are_compared_by_number() {
        for old in ["5.10.0-28-amd64", "4.19", "5.4.0", "1.0.1", "5"] {
            assert!(is_older(old, OLDEST_KERNEL), "{old}");
        }
        for fine in ["5.13.0", "5.15.0-1", "6.1.0-38-cloud-amd64", "10.0", "odd"] {
            assert!(!is_older(fine, OLDEST_KERNEL), "{fine}");
        }
        assert!(is_older("0.9.8 (E.D.S.)", OLDEST_NFT));
        assert!(!is_older("1.0.6 (Lester Gooch #5)", OLDEST_NFT));
        assert_eq!(text(OLDEST_KERNEL), "5.13");
        assert_eq!(text(OLDEST_NFT), "1.0.1");
    }

    #[test]
    fn a_controller_that_is_switched_off_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(cgroups(folder.path()), None, "version 1");
        let list = folder.path().join("cgroup.controllers");
        fs::write(&list, "cpuset cpu io memory hugetlb pids rdma\n").unwrap();
        assert_eq!(cgroups(folder.path()), None);
        fs::write(&list, "cpuset cpu io pids\n").unwrap();
        let found = cgroups(folder.path()).unwrap();
        assert_eq!(found.what, "cgroup controllers memory");
        assert!(cgroups(&folder.path().join("none")).is_some());
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
