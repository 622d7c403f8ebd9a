//! Processes by pid and start time, read from `/proc`.
//!
//! A pid alone says nothing after its process ended; with the start time it names one
//! process for as long as the machine runs.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// One process, now or in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it was started, in clock ticks after boot.
    pub start: u64,
}

impl ProcessId {
    /// The process that has this pid now. A zombie does not count.
    pub fn of(pid: i32) -> Option<Self> {
        let (start, ended) = read(pid)?;
        (!ended).then_some(Self { pid, start })
    }

    /// A child that was not waited for, which may have ended already.
    pub(crate) fn of_child(pid: i32) -> Option<Self> {
        read(pid).map(|(start, _)| Self { pid, start })
    }

    /// True when it runs; a zombie does not.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, unless the process is gone.
    pub fn signal(self, signal: Signal) {
        if self.is_alive() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

fn read(pid: i32) -> Option<(u64, bool)> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Start time, and whether it ended already, from the text of a `stat`.
fn parse(stat: &str) -> Option<(u64, bool)> {
    // The command is in parentheses and may hold blanks and parentheses itself.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let ended = matches!(fields.next()?, "Z" | "X");
    Some((fields.nth(18)?.parse().ok()?, ended))
}

/// Every process of the machine for whose `/proc` directory `wanted` holds.
pub fn find(wanted: impl Fn(&Path) -> bool) -> Vec<ProcessId> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| wanted(Path::new(&format!("/proc/{pid}"))))
        .filter_map(ProcessId::of)
        .collect()
}

/// True when the process with this `/proc` directory is in the cgroup or below it, in
/// any hierarchy.
pub fn in_cgroup(proc: &Path, cgroup: &str) -> bool {
    fs::read_to_string(proc.join("cgroup")).is_ok_and(|text| cgroup_listed(&text, cgroup))
}

fn cgroup_listed(text: &str, cgroup: &str) -> bool {
    text.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .any(|path| {
            path.strip_prefix(cgroup)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_survives_odd_command_names() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(parse(&format!("7 (a) b (c)) {tail}")), Some((4242, false)));
        let zombie = format!("7 (x) Z{}", &tail[1..]);
        assert_eq!(parse(&zombie), Some((4242, true)));
        assert_eq!(parse("7 (x"), None);
    }

    #[test]
    fn this_process_is_alive_and_another_start_is_not() {
        let me = ProcessId::of(std::process::id() as i32).unwrap();
        assert!(me.is_alive());
        assert!(
            !ProcessId {
                start: me.start + 1,
                ..me
            }
            .is_alive()
        );
    }

    #[test]
    fn a_cgroup_with_the_same_beginning_is_another_one() {
        let text = "9:name=systemd:/farplane/one/hub\n0::/\n";
        assert!(cgroup_listed(text, "/farplane/one"));
        assert!(!cgroup_listed(text, "/farplane/on"));
        assert!(!cgroup_listed(text, "/farplane/one/h"));
    }
}
