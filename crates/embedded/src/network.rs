//! The hub's network namespace and the veth pair that joins it to the machine.
//!
//! Everything here can be repeated: what exists already is kept, what is half made is
//! made whole. On the machine only two things appear: one interface, and one nftables
//! table with the hub's name that lets the hub reach out.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use farplane_supervise::ProcessId;

use crate::command::{exists, run, run_with_input};
use crate::error::Error;
use crate::files::Files;
use crate::name::HubName;
use crate::record::{Record, others};

/// Addresses of Pods at the hub.
pub(crate) const POD_RANGE: &str = "10.201.0.0/16";
/// Addresses of Services at the hub.
pub(crate) const SERVICE_RANGE: &str = "10.202.0.0/16";
/// The Service `kubernetes`: the first of [`SERVICE_RANGE`].
pub(crate) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 202, 0, 1);

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Set to `off`, the hub cannot send beyond this machine, and neither nftables nor the
/// forwarding switch of the machine are touched.
const OUTBOUND_VARIABLE: &str = "FARPLANE_HUB_OUTBOUND";

/// The file by which the namespace is entered.
pub(crate) fn namespace_file(name: &HubName) -> PathBuf {
    PathBuf::from("/run/netns").join(name.network_namespace())
}

/// A range 100.100.x.0/30 that neither an interface, a route nor another hub uses.
pub(crate) async fn choose_range(name: &HubName, files: &Files) -> Result<u8, Error> {
    let routes = run("ip", &["-4", "route", "show", "table", "all"]).await?;
    let addresses = run("ip", &["-4", "-o", "address", "show"]).await?;
    let taken: Vec<u8> = others(files).iter().map(|record| record.range).collect();
    free_range(
        name.preferred_range(),
        &format!("{routes}\n{addresses}"),
        &taken,
    )
    .ok_or(Error::NoFreeRange)
}

fn free_range(preferred: u8, in_use: &str, taken: &[u8]) -> Option<u8> {
    (0..=255u8)
        .map(|step| preferred.wrapping_add(step))
        .find(|range| !taken.contains(range) && !in_use.contains(&format!("100.100.{range}.")))
}

/// Makes namespace and interfaces, unless they are there.
pub(crate) async fn ensure(record: &Record, files: &Files) -> Result<(), Error> {
    let name = record.name.clone();
    let namespace = name.network_namespace();
    if !namespace_exists(&namespace).await? {
        run("ip", &["netns", "add", &namespace]).await?;
    }
    let (outer, inner) = (name.machine_interface(), name.hub_interface());
    let joined = run("ip", &["-n", &namespace, "link", "show", &inner])
        .await
        .is_ok()
        && run("ip", &["link", "show", &outer]).await.is_ok();
    if !joined {
        // Half a pair is left by an interrupted run; both ends go together.
        let _ = run("ip", &["link", "delete", &outer]).await;
        run(
            "ip",
            &[
                "link", "add", &outer, "type", "veth", "peer", "name", &inner, "netns", &namespace,
            ],
        )
        .await?;
    }
    let machine = format!("{}/30", record.machine_address());
    let hub = format!("{}/30", record.hub_address());
    let via = record.machine_address().to_string();
    run("ip", &["address", "replace", &machine, "dev", &outer]).await?;
    run("ip", &["link", "set", &outer, "up"]).await?;
    let batch = format!(
        "link set lo up\naddress replace {hub} dev {inner}\nlink set {inner} up\nroute replace default via {via}\n"
    );
    run_with_input("ip", &["-n", &namespace, "-batch", "-"], Some(&batch)).await?;
    inside(&name, &inner).await?;
    outbound(record, files).await
}

/// Settings within the namespace: forwarding, and masquerading of what Pods send out.
async fn inside(name: &HubName, interface: &str) -> Result<(), Error> {
    let net = format!("--net={}", namespace_file(name).display());
    run(
        "nsenter",
        &[&net, "sh", "-c", &format!("echo 1 >{FORWARDING}")],
    )
    .await?;
    let rules = format!(
        "add table ip farplane\n\
         delete table ip farplane\n\
         table ip farplane {{\n\
           chain outbound {{\n\
             type nat hook postrouting priority srcnat; policy accept;\n\
             ip saddr {POD_RANGE} oifname \"{interface}\" masquerade\n\
           }}\n\
         }}\n"
    );
    run_with_input("nsenter", &[&net, "nft", "-f", "-"], Some(&rules)).await?;
    Ok(())
}

/// Lets the hub reach beyond the machine, but no other hub through it.
async fn outbound(record: &Record, files: &Files) -> Result<(), Error> {
    let off = std::env::var(OUTBOUND_VARIABLE).is_ok_and(|value| value == "off");
    if off || !exists("nft") {
        return Ok(());
    }
    let table = record.name.table();
    let interface = record.name.machine_interface();
    let rules = format!(
        "add table ip {table}\n\
         delete table ip {table}\n\
         table ip {table} {{\n\
           chain between {{\n\
             type filter hook forward priority filter; policy accept;\n\
             iifname \"{interface}\" ip daddr 100.100.0.0/16 drop\n\
           }}\n\
           chain outbound {{\n\
             type nat hook postrouting priority srcnat; policy accept;\n\
             iifname \"{interface}\" oifname != \"{interface}\" masquerade\n\
           }}\n\
         }}\n"
    );
    run_with_input("nft", &["-f", "-"], Some(&rules)).await?;
    let now = fs::read_to_string(FORWARDING).map_err(Error::file("read", FORWARDING))?;
    if now.trim() == "0" {
        let note = forwarding_note(files);
        fs::write(&note, "").map_err(Error::file("write", note))?;
        fs::write(FORWARDING, "1").map_err(Error::file("write", FORWARDING))?;
    }
    Ok(())
}

/// Says that the first hub switched forwarding on, so that the last one switches it off.
fn forwarding_note(files: &Files) -> PathBuf {
    files.state.with_file_name("forwarding-was-off")
}

/// Removes table, interfaces and namespace; what is absent is fine.
pub(crate) async fn remove(name: &HubName, files: &Files) -> Result<(), Error> {
    if exists("nft")
        && run("nft", &["list", "table", "ip", &name.table()])
            .await
            .is_ok()
    {
        run("nft", &["delete", "table", "ip", &name.table()]).await?;
    }
    let outer = name.machine_interface();
    if run("ip", &["link", "show", &outer]).await.is_ok() {
        run("ip", &["link", "delete", &outer]).await?;
    }
    let namespace = name.network_namespace();
    if namespace_exists(&namespace).await? {
        run("ip", &["netns", "delete", &namespace]).await?;
    }
    // `ip netns` makes the directory a mount, and would make it again; neither call does
    // anything while there are other namespaces.
    let parent = namespace_file(name).with_file_name("");
    if fs::read_dir(&parent).is_ok_and(|mut entries| entries.next().is_none()) {
        let _ = nix::mount::umount(&parent);
        let _ = fs::remove_dir(&parent);
    }
    let note = forwarding_note(files);
    let others_run = others(files)
        .iter()
        .any(|other| other.anchor.is_some_and(ProcessId::is_alive));
    if note.exists() && !others_run {
        fs::write(FORWARDING, "0").map_err(Error::file("write", FORWARDING))?;
        fs::remove_file(&note).map_err(Error::file("remove", note))?;
    }
    Ok(())
}

async fn namespace_exists(namespace: &str) -> Result<bool, Error> {
    // A line is a name, or a name and an id.
    Ok(run("ip", &["netns", "list"])
        .await?
        .lines()
        .any(|line| line.split_whitespace().next() == Some(namespace)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_in_use_is_stepped_over() {
        let seen = "100.100.254.0/30 dev fpm1\n1: fpm2 inet 100.100.25.1/30";
        assert_eq!(free_range(254, seen, &[255]), Some(0));
        assert_eq!(free_range(2, seen, &[]), Some(2), "25 is not 2");
        assert_eq!(free_range(0, "", &(0..=255).collect::<Vec<_>>()), None);
    }
}
