//! What a plan may not name, checked before anything of it is done.
//!
//! The hub is trusted by the host's owner; this keeps a mistake in a plan from becoming
//! the loss of a machine.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Component, Path};

use farplane_types::{HostPlanSpec, Readiness, Unit};

/// Directories of the system that nothing removes with their contents.
const SYSTEM: &[&str] = &[
    "/var/lib",
    "/var/log",
    "/var/run",
    "/var/cache",
    "/var/spool",
    "/var/tmp",
    "/run/lock",
    "/run/systemd",
    "/run/user",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local",
    "/usr/share",
    "/etc/systemd",
    "/etc/ssl",
    "/etc/ssh",
    "/lib/modules",
    "/sys/fs",
];

/// The units of a plan that are done.
pub fn accepted(plan: &HostPlanSpec, state_dir: &Path) -> Vec<Unit> {
    let units = plan.units.iter().zip(refusals(plan, state_dir));
    units
        .filter(|(_, refusal)| refusal.is_none())
        .map(|(unit, _)| unit.clone())
        .collect()
}

/// Why each unit is refused, by its place; the others are fine.
pub fn refusals(plan: &HostPlanSpec, state_dir: &Path) -> Vec<Option<String>> {
    let mut seen = BTreeSet::new();
    let units = plan.units.iter();
    units
        .map(|unit| {
            if !seen.insert(unit.key()) {
                return Some("another unit of the plan has the same key".to_owned());
            }
            unit_is_fine(unit, state_dir).err()
        })
        .collect()
}

fn unit_is_fine(unit: &Unit, state_dir: &Path) -> Result<(), String> {
    match unit {
        Unit::Artifact {
            name,
            sha256,
            size: _,
        } => {
            plain(name)?;
            let hex = sha256.len() == 64
                && sha256
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            if hex {
                Ok(())
            } else {
                Err(format!("{sha256:?} is not a SHA-256 in lower-case hex"))
            }
        }
        Unit::File {
            path,
            mode,
            content: _,
        } => {
            absolute(path)?;
            permission_bits(*mode)
        }
        Unit::Directory { path, mode } => {
            removable(Path::new(path), state_dir)?;
            permission_bits(*mode)
        }
        Unit::Link { path, target } => {
            absolute(path)?;
            if target.is_empty() {
                Err("the link has no target".to_owned())
            } else {
                Ok(())
            }
        }
        Unit::Sysctl { key, .. } => {
            let parts = key.split(['.', '/']);
            let fine = |part: &str| !part.is_empty() && part.bytes().all(is_plain_byte);
            if parts.clone().all(fine) {
                Ok(())
            } else {
                Err(format!("{key:?} is not a kernel setting"))
            }
        }
        Unit::KernelModule { name, .. } => plain(name),
        Unit::Image {
            reference,
            archive,
            ctr,
            socket,
        } => {
            if reference.is_empty() || reference.starts_with('-') {
                return Err(format!("{reference:?} is not an image reference"));
            }
            [archive, ctr, socket]
                .into_iter()
                .try_for_each(|path| absolute(path))
        }
        Unit::Process { .. } => process(unit, state_dir),
        Unit::Cleanup { .. } => cleanup(unit, state_dir),
    }
}

fn process(unit: &Unit, state_dir: &Path) -> Result<(), String> {
    let Unit::Process {
        name,
        command,
        wait_for,
        readiness,
        remove_after,
        environment,
        ..
    } = unit
    else {
        return Ok(());
    };
    plain(name)?;
    program(command)?;
    wait_for.iter().try_for_each(|path| absolute(path))?;
    remove_after
        .iter()
        .try_for_each(|path| removable(Path::new(path), state_dir))?;
    let proper = |key: &String| {
        !key.is_empty()
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if let Some(key) = environment.keys().find(|key| !proper(key)) {
        return Err(format!("{key:?} is no name of an environment variable"));
    }
    match readiness {
        Some(Readiness::Tcp(address)) if address.parse::<SocketAddr>().is_err() => {
            Err(format!("{address:?} is not ip:port"))
        }
        Some(Readiness::Http(url)) if !url.starts_with("http://") => {
            Err(format!("{url:?} is not an http:// address"))
        }
        Some(Readiness::UnixSocket(path) | Readiness::Path(path)) => absolute(path),
        _ => Ok(()),
    }
}

fn cleanup(unit: &Unit, state_dir: &Path) -> Result<(), String> {
    let Unit::Cleanup {
        name,
        commands,
        interfaces,
        tables,
        directories,
    } = unit
    else {
        return Ok(());
    };
    plain(name)?;
    commands.iter().try_for_each(|command| program(command))?;
    interfaces.iter().try_for_each(|name| plain(name))?;
    for table in tables {
        let parts: Vec<_> = table.split(' ').collect();
        let [family, name] = parts[..] else {
            return Err(format!("{table:?} is not an nftables family and name"));
        };
        plain(family)?;
        plain(name)?;
    }
    directories
        .iter()
        .try_for_each(|path| removable(Path::new(path), state_dir))
}

fn program(command: &[String]) -> Result<(), String> {
    let Some(program) = command.first() else {
        return Err("the command is empty".to_owned());
    };
    if command.iter().any(|part| part.contains('\0')) {
        return Err("the command holds a zero byte".to_owned());
    }
    absolute(program)
}

fn permission_bits(mode: u32) -> Result<(), String> {
    if mode <= 0o7777 {
        Ok(())
    } else {
        Err(format!("{mode:o} is not a set of permission bits"))
    }
}

fn plain(name: &str) -> Result<(), String> {
    let fine = !name.is_empty()
        && name.len() <= 128
        && name.bytes().all(is_plain_byte)
        && !name.starts_with(['.', '-']);
    if fine {
        Ok(())
    } else {
        Err(format!("{name:?} is not a plain name"))
    }
}

fn is_plain_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@' | b':')
}

/// An absolute path, without `..`, that is more than the root.
pub fn absolute(path: &str) -> Result<(), String> {
    let mut components = Path::new(path).components();
    let fine = components.next() == Some(Component::RootDir)
        && components.clone().next().is_some()
        && components.all(|part| matches!(part, Component::Normal(_)))
        && !path.contains('\0');
    if fine {
        Ok(())
    } else {
        Err(format!("{path:?} is not an absolute path without .."))
    }
}

/// A path that may be removed with everything in it.
pub fn removable(path: &Path, state_dir: &Path) -> Result<(), String> {
    absolute(&path.to_string_lossy())?;
    let shallow = path.components().count() < 3;
    let system = SYSTEM
        .iter()
        .any(|system| Path::new(system).starts_with(path));
    let ours = state_dir.starts_with(path) || path.starts_with(state_dir.join("agent"));
    if shallow || system || ours {
        return Err(format!(
            "{} holds more than a plan may remove",
            path.display()
        ));
    }
    Ok(())
}
