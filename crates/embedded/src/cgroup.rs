//! The hub's part of the cgroup tree, in whichever version the machine has.
//!
//! The kubelet wants its root to exist in every hierarchy of version 1, the one named
//! `systemd` too. The hub's own processes join a leaf `hub` of one hierarchy only, by
//! which they are found again; their accounting stays where it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::name::HubName;

const ROOT: &str = "/sys/fs/cgroup";

/// Every mounted hierarchy; one when the machine has version 2 alone.
pub(crate) fn hierarchies() -> Vec<PathBuf> {
    let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else {
        return Vec::new();
    };
    parse_hierarchies(&mounts)
}

/// Every mounted hierarchy of either version: container runtimes leave directories in
/// that of version 2 even where it has no controllers.
fn every_hierarchy() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut all = parse_hierarchies(&mounts);
    let second = mounted(&mounts)
        .into_iter()
        .filter(|(_, kind)| *kind == "cgroup2");
    all.extend(second.map(|(place, _)| PathBuf::from(place)));
    all.sort();
    all.dedup();
    all
}

fn mounted(mounts: &str) -> Vec<(&str, &str)> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(place, _)| Path::new(place).starts_with(ROOT))
        .collect()
}

fn parse_hierarchies(mounts: &str) -> Vec<PathBuf> {
    let rows = mounted(mounts);
    let first = rows.iter().filter(|(_, kind)| *kind == "cgroup");
    let mut all: Vec<PathBuf> = first.map(|(place, _)| PathBuf::from(place)).collect();
    if all.is_empty() {
        all = rows
            .iter()
            .filter(|(_, kind)| *kind == "cgroup2")
            .map(|(place, _)| PathBuf::from(place))
            .collect();
    }
    all.sort();
    all.dedup();
    all
}

/// True when the machine has version 2 alone.
pub(crate) fn is_v2() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The `cgroup.procs` that the hub's own processes write themselves into.
pub(crate) fn members_file(name: &HubName) -> Option<PathBuf> {
    let all = hierarchies();
    let chosen = all
        .iter()
        .find(|path| path.ends_with("systemd"))
        .or_else(|| all.iter().find(|path| path.ends_with("pids")))
        .or_else(|| all.first())?;
    Some(chosen.join(&name.cgroup()[1..]).join("hub/cgroup.procs"))
}

/// Makes the hub's subtree.
pub(crate) fn ensure(name: &HubName) -> Result<(), Error> {
    for hierarchy in hierarchies() {
        let mut path = hierarchy.clone();
        for part in name.cgroup()[1..].split('/') {
            if is_v2() {
                delegate(&path);
            }
            let parent = path.clone();
            path.push(part);
            fs::create_dir_all(&path).map_err(Error::file("make the cgroup", &path))?;
            inherit_cpuset(&parent, &path)?;
        }
        if is_v2() {
            delegate(&path);
        }
    }
    if let Some(file) = members_file(name)
        && let Some(leaf) = file.parent()
    {
        fs::create_dir_all(leaf).map_err(Error::file("make the cgroup", leaf))?;
        inherit_cpuset(leaf.parent().unwrap_or(leaf), leaf)?;
    }
    Ok(())
}

/// Hands every controller to the children. One that cannot be handed on is missed by
/// the kubelet, which names it.
fn delegate(path: &Path) {
    let controllers = fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        let _ = fs::write(
            path.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
}

/// A new cpuset of version 1 is empty and takes no process.
fn inherit_cpuset(parent: &Path, child: &Path) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(file), child.join(file));
        if is_v2() || !to.exists() {
            continue;
        }
        let now = fs::read_to_string(&to).map_err(Error::file("read", &to))?;
        if now.trim().is_empty() {
            let value = fs::read_to_string(&from).map_err(Error::file("read", &from))?;
            fs::write(&to, value.trim()).map_err(Error::file("write", &to))?;
        }
    }
    Ok(())
}

/// Removes the subtree, whose processes must be gone, and the parent of all hubs when
/// it is empty.
pub(crate) async fn remove(name: &HubName) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(10);
    for hierarchy in every_hierarchy() {
        let top = hierarchy.join(&name.cgroup()[1..]);
        loop {
            let left = remove_tree(&top);
            match left {
                Ok(()) => break,
                Err((path, error)) if Instant::now() > deadline => {
                    return Err(Error::Leftover {
                        what: format!("the cgroup {}", path.display()),
                        state: error.to_string(),
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        // Other hubs may be below it.
        let _ = fs::remove_dir(hierarchy.join("farplane"));
    }
    Ok(())
}

fn remove_tree(path: &Path) -> Result<(), (PathBuf, std::io::Error)> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err((path.to_owned(), error)),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err((path.to_owned(), error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_one_wins_on_a_hybrid_machine() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let all = parse_hierarchies(hybrid);
        assert_eq!(
            all,
            [
                PathBuf::from("/sys/fs/cgroup/cpu"),
                "/sys/fs/cgroup/systemd".into()
            ]
        );
        let pure = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(parse_hierarchies(pure), [PathBuf::from(ROOT)]);
    }
}
