//! What the agent tells the hub of its machine. Cheap to read, so it is read anew now and then.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use farplane_types::HostFacts;
use nix::sched::sched_getaffinity;
use nix::unistd::Pid;
use tokio::time::timeout;

use crate::address::HubAddress;

/// Number of CAP_SYS_RESOURCE in a capability set.
const CAP_SYS_RESOURCE: u32 = 24;
/// Longest time for the hub's name: there is another way to know the address.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);

/// Everything that is known right now.
pub fn collect(node_address: Option<IpAddr>, missing: Vec<String>) -> HostFacts {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let system = nix::sys::utsname::uname();
    let word = |pick: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        let names = system.as_ref().ok();
        names.map_or_else(String::new, |it| pick(it).to_string_lossy().into_owned())
    };
    HostFacts {
        agent_version: crate::VERSION.to_owned(),
        operating_system: pretty_name(&text("/etc/os-release")),
        kernel: word(|it| it.release()),
        architecture: word(|it| it.machine()),
        vcpus: vcpus(),
        memory_bytes: memory_bytes(&text("/proc/meminfo")),
        node_address: node_address.map_or_else(String::new, |it| it.to_string()),
        cgroup_version: cgroup_version(),
        has_sys_resource: has_capability(&text("/proc/self/status"), CAP_SYS_RESOURCE),
        has_systemd: has_systemd(),
        missing,
    }
}

/// Whether systemd is the init of this machine, as sd_booted(3) tells.
pub fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn pretty_name(os_release: &str) -> String {
    let value = |name: &str| {
        let mut lines = os_release.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    };
    let name = value("PRETTY_NAME")
        .or_else(|| value("NAME"))
        .unwrap_or("Linux");
    name.trim_matches(['"', '\'']).to_owned()
}

fn vcpus() -> u32 {
    let usable = sched_getaffinity(Pid::from_raw(0)).map(|set| {
        let all = 0..nix::sched::CpuSet::count();
        all.filter(|cpu| set.is_set(*cpu).unwrap_or(false)).count()
    });
    u32::try_from(usable.unwrap_or(1).max(1)).unwrap_or(1)
}

fn memory_bytes(meminfo: &str) -> u64 {
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
    kibibytes.unwrap_or(0u64) * 1024
}

fn cgroup_version() -> u8 {
    // The unified hierarchy at the top means version 2; below a directory it is a hybrid.
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        2
    } else {
        1
    }
}

fn has_capability(status: &str, capability: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    set.is_some_and(|set| set >> capability & 1 == 1)
}

/// Address of this machine on the way to `target`, unless that is a loopback.
///
/// A datagram socket that is connected sends nothing; the kernel chooses the route.
pub fn source_towards(target: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// As [`node_address`], with the hub's name resolved. Behind a proxy that may not be possible.
pub async fn find_node_address(configured: Option<IpAddr>, hub: &HubAddress) -> Option<IpAddr> {
    if configured.is_some() {
        return configured;
    }
    let name = (hub.host.as_str(), hub.port);
    let found = timeout(RESOLVE_DEADLINE, tokio::net::lookup_host(name)).await;
    let hub = found.ok().and_then(Result::ok).and_then(|mut it| it.next());
    node_address(None, hub)
}

/// By which address other hosts reach this one: as configured, else that on the way to the
/// hub, else that of the default route.
pub fn node_address(configured: Option<IpAddr>, hub: Option<SocketAddr>) -> Option<IpAddr> {
    // Documentation range: nobody has a route of its own for it.
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 9));
    configured
        .or_else(|| source_towards(hub?))
        .or_else(|| source_towards(elsewhere))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let facts = collect(Some([192, 168, 0, 7].into()), vec!["x".into()]);
        assert!(facts.vcpus >= 1);
        assert!(facts.memory_bytes > 1 << 20);
        assert!(!facts.kernel.is_empty());
        assert_eq!(facts.architecture, std::env::consts::ARCH);
        assert_eq!(facts.node_address, "192.168.0.7");
        assert_eq!(facts.missing, ["x"]);
    }

    #[test]
    fn texts_of_the_kernel_are_read() {
        assert_eq!(
            memory_bytes("MemFree: 1 kB\nMemTotal:  2048 kB\n"),
            2048 * 1024
        );
        assert_eq!(memory_bytes(""), 0);
        assert!(has_capability(
            "CapEff:\t0000000001000000\n",
            CAP_SYS_RESOURCE
        ));
        assert!(!has_capability(
            "CapEff:\t0000000000ffffff\n",
            CAP_SYS_RESOURCE
        ));
        assert!(!has_capability("", CAP_SYS_RESOURCE));
        let debian = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(pretty_name(debian), "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(pretty_name("NAME=Arch\n"), "Arch");
    }

    #[test]
    fn a_loopback_is_no_address_for_others() {
        assert_eq!(source_towards(([127, 0, 0, 1], 1).into()), None);
        let own = Some(IpAddr::from([10, 1, 2, 3]));
        assert_eq!(node_address(own, Some(([127, 0, 0, 1], 1).into())), own);
    }
}
