//! Mounts, interfaces and nftables in namespaces of their own, so that the machine of
//! whoever runs this is left alone.

use std::path::Path;
use std::process::Command;

use farplane_types::Unit;

use super::support::{World, applied, clean, cleanup, failure, file, plan, until, wanted};
use crate::units::{State, Wanted, kernel, removal};

const INSIDE: &str = "FARPLANE_TEST_INSIDE";

/// True in namespaces of our own; else runs the named test there and checks it.
pub fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let output = Command::new("unshare")
        .args(["--mount", "--net", "--propagation", "private"])
        // Ends all that is in it, whatever fails.
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        // The first process has to wait for orphans.
        .args(["/bin/sh", "-c", "\"$0\" \"$@\"; exit $?"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("units::tests::{test}"),
            "--include-ignored",
        ])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{output:?}"
    );
    false
}

/// What a command prints; it has to succeed.
pub fn run(command: &[&str]) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Mounts an empty file system.
pub fn tmpfs(path: &Path) {
    std::fs::create_dir_all(path).unwrap();
    run(&["mount", "-t", "tmpfs", "none", path.to_str().unwrap()]);
}

#[test]
fn what_is_mounted_is_unmounted_and_never_emptied() {
    if !is_inside("machine::what_is_mounted_is_unmounted_and_never_emptied") {
        return;
    }
    let world = World::new();
    let volume = world.path("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("precious"), "data").unwrap();
    let top = world.path("kubelet");
    // A bind mount on the same file system, stacked mounts, and odd names.
    for below in ["pods/a/volume", "pods/b c/vol\tume", "pods/a/volume"] {
        std::fs::create_dir_all(top.join(below)).unwrap();
        run(&[
            "mount",
            "--bind",
            volume.to_str().unwrap(),
            top.join(below).to_str().unwrap(),
        ]);
    }
    tmpfs(&top.join("pods/secret"));
    tmpfs(&top.join("pods/secret/nested"));
    std::fs::write(top.join("pods/secret/nested/key"), "key").unwrap();
    // In use: a mount that is busy goes as well.
    let _open = std::fs::File::open(top.join("pods/secret/nested/key")).unwrap();
    removal::remove(&top, &world.state_dir()).unwrap();
    assert!(!top.exists());
    assert_eq!(
        std::fs::read_to_string(volume.join("precious")).unwrap(),
        "data"
    );
    removal::remove(&top, &world.state_dir()).unwrap();
}

#[test]
fn a_directory_that_is_the_owners_mount_or_link_is_emptied_and_stays() {
    if !is_inside("machine::a_directory_that_is_the_owners_mount_or_link_is_emptied_and_stays") {
        return;
    }
    let world = World::new();
    let (mount, disk, link) = (world.path("mount"), world.path("disk"), world.path("link"));
    tmpfs(&mount);
    std::fs::create_dir_all(mount.join("deep/er")).unwrap();
    removal::remove(&mount, &world.state_dir()).unwrap();
    assert_eq!(std::fs::read_dir(&mount).unwrap().count(), 0);
    run(&["umount", mount.to_str().unwrap()]);
    std::fs::create_dir_all(disk.join("deep/er")).unwrap();
    std::os::unix::fs::symlink(&disk, &link).unwrap();
    removal::remove(&link, &world.state_dir()).unwrap();
    assert!(link.is_symlink());
    assert_eq!(std::fs::read_dir(&disk).unwrap().count(), 0);
    let system = world.path("system");
    std::os::unix::fs::symlink("/usr/lib", &system).unwrap();
    let error = removal::remove(&system, &world.state_dir()).unwrap_err();
    assert!(matches!(error, removal::Error::Refused { .. }), "{error}");
}

#[test]
fn names_of_mounts_are_read_as_the_kernel_writes_them() {
    let read = |text: &[u8]| removal::unescaped(text).to_str().unwrap().to_owned();
    assert_eq!(read(br"/a\040b\011c\134d"), "/a b\tc\\d");
    assert_eq!(read(br"/plain\"), "/plain\\");
    assert_eq!(read(br"/short\04"), "/short\\04");
}

#[tokio::test(flavor = "multi_thread")]
async fn interfaces_and_tables_go_with_the_plan() {
    if !is_inside("machine::interfaces_and_tables_go_with_the_plan") {
        return;
    }
    let world = World::new();
    let engine = world.engine();
    let mut clean_up = cleanup();
    if let Unit::Cleanup {
        interfaces,
        tables,
        directories,
        ..
    } = &mut clean_up
    {
        interfaces.push("fp-test0".to_owned());
        tables.extend(["ip fp-test".to_owned(), "ip6 fp-absent".to_owned()]);
        directories.push(world.text("left"));
    }
    engine.want(wanted(1, &plan("small", vec![clean_up])));
    applied(&engine, 1).await;
    run(&[
        "ip", "link", "add", "fp-test0", "type", "veth", "peer", "name", "fp-test1",
    ]);
    run(&["nft", "add", "table", "ip", "fp-test"]);
    run(&["nft", "add", "table", "ip", "fp-other"]);
    tmpfs(&world.path("left/mounted"));
    engine.want(Wanted::Nothing);
    clean(&engine).await;
    assert!(!run(&["ip", "-o", "link"]).contains("fp-test"));
    assert_eq!(run(&["nft", "list", "tables"]).trim(), "table ip fp-other");
    assert!(!world.path("left").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_go_is_reported_and_tried_until_it_does() {
    if !is_inside("machine::what_does_not_go_is_reported_and_tried_until_it_does") {
        return;
    }
    let world = World::new();
    let engine = world.engine();
    let mut clean_up = cleanup();
    if let Unit::Cleanup { directories, .. } = &mut clean_up {
        directories.push(world.text("left"));
    }
    engine.want(wanted(1, &plan("small", vec![clean_up])));
    applied(&engine, 1).await;
    std::os::unix::fs::symlink("/usr/lib", world.path("left")).unwrap();
    engine.want(Wanted::Nothing);
    until(&engine, "failed", |state| {
        matches!(state, State::Report(report) if report.units.iter().any(|unit| unit.message.contains("leads elsewhere")))
    })
    .await;
    std::fs::remove_file(world.path("left")).unwrap();
    clean(&engine).await;
}

#[test]
fn kernel_settings_are_compared_and_written() {
    if !is_inside("machine::kernel_settings_are_compared_and_written") {
        return;
    }
    let path = "/proc/sys/net/ipv4/ip_forward";
    std::fs::write(path, "0").unwrap();
    kernel::sysctl("net.ipv4.ip_forward", "1").unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap().trim(), "1");
    kernel::sysctl("net/ipv4/ip_local_port_range", "20000 60000").unwrap();
    kernel::sysctl("net.ipv4.ip_local_port_range", "20000\t60000").unwrap();
    let error = kernel::sysctl("net.ipv4.ip_forward", "text").unwrap_err();
    assert!(matches!(error, kernel::Error::Set { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_room_is_enough_to_go_on() {
    if !is_inside("machine::a_full_disk_is_named_and_room_is_enough_to_go_on") {
        return;
    }
    let world = World::new();
    let state_dir = world.state_dir();
    tmpfs(&state_dir);
    let resize = |size: &str| {
        run(&[
            "mount",
            "-o",
            &format!("remount,size={size}"),
            state_dir.to_str().unwrap(),
        ]);
    };
    resize("1m");
    let engine = world.engine();
    let zeros = vec![0; 4 << 20];
    let large = world.artifact("large", &[file("zeros", &zeros, 0o644)]);
    let fine = world.artifact("fine", &[file("text", b"fine", 0o644)]);
    engine.want(wanted(1, &plan("small", vec![large.unit(), fine.unit()])));
    let message = failure(&engine, "artifact/large").await;
    assert!(message.contains("is full: 0 MiB are free"), "{message}");

    std::fs::write(state_dir.join("filler"), vec![1; 4 << 20]).unwrap_err();
    engine.want(wanted(2, &plan("small", vec![fine.unit()])));
    // Of the plan before it may have been told that it found the disk full, too.
    let words = "failed to record the plan, the disk is full";
    until(&engine, words, |state| {
        matches!(state, State::Report(report) if report.units.iter().any(|unit| unit.message.contains(words)))
    })
    .await;
    std::fs::remove_file(state_dir.join("filler")).unwrap();
    applied(&engine, 2).await;

    resize("16m");
    engine.want(wanted(3, &plan("small", vec![large.unit(), fine.unit()])));
    applied(&engine, 3).await;
    engine.want(Wanted::Nothing);
    clean(&engine).await;
    engine.stop().await;
    run(&["umount", state_dir.to_str().unwrap()]);
}
