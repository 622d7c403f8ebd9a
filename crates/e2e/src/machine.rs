//! What a hub could leave behind on a machine, as comparable text.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::run::run;

/// Lines that describe mounts, interfaces, namespaces, tables, cgroups and processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    lines: BTreeSet<String>,
}

impl Machine {
    /// Looks at the machine; processes are those whose command line has `marker` in it.
    pub fn look(marker: &str) -> Result<Self> {
        let mut lines = BTreeSet::new();
        let mut add = |kind: &str, text: &str| {
            lines.extend(
                text.lines()
                    .filter(|line| !line.trim().is_empty())
                    .map(|line| format!("{kind}: {}", line.trim())),
            );
        };
        let second = Duration::from_secs(10);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let targets: Vec<&str> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .collect();
        add("mount", &targets.join("\n"));
        let links = std::fs::read_dir("/sys/class/net")?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        add("interface", &links.collect::<Vec<_>>().join("\n"));
        // A name, and a number that changes with the other namespaces.
        let namespaces = run(Path::new("/sbin/ip"), &["netns", "list"], None, second)?.stdout;
        let names: Vec<&str> = namespaces
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        add("netns", &names.join("\n"));
        if let Ok(tables) = run(
            Path::new("/usr/sbin/nft"),
            &["list", "tables"],
            None,
            second,
        ) {
            add("table", &tables.stdout);
        }
        add("cgroup", &cgroups().join("\n"));
        add("process", &processes(marker).join("\n"));
        Ok(Self { lines })
    }

    /// What `self` has that `before` had not.
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        self.lines.difference(&before.lines).cloned().collect()
    }
}

fn cgroups() -> Vec<String> {
    let mut found = Vec::new();
    let Ok(hierarchies) = std::fs::read_dir("/sys/fs/cgroup") else {
        return found;
    };
    for hierarchy in hierarchies.flatten() {
        let Ok(children) = std::fs::read_dir(hierarchy.path()) else {
            continue;
        };
        found.extend(
            children
                .flatten()
                .filter(|child| child.path().is_dir())
                .map(|child| child.path().display().to_string()),
        );
        let nested = hierarchy.path().join("farplane");
        if let Ok(children) = std::fs::read_dir(nested) {
            found.extend(
                children
                    .flatten()
                    .filter(|child| child.path().is_dir())
                    .map(|child| child.path().display().to_string()),
            );
        }
    }
    found
}

fn processes(marker: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let own = std::process::id().to_string();
    entries
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
        })
        .filter(|entry| entry.file_name().to_string_lossy() != own)
        .filter_map(|entry| {
            let command = std::fs::read(entry.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            command
                .contains(marker)
                .then(|| format!("{} {command}", entry.file_name().to_string_lossy()))
        })
        .collect()
}
