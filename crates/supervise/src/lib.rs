//! Keeps programs running, across the death of whoever does so.
//!
//! ```text
//! adopt or start ─> starting ─(check answers)─> ready ─┬─(ends)─> ended, pause ─> start
//!                                                      ├─(stop)─> SIGTERM ─> SIGKILL ─> stopped
//!                                                      └─(detach, drop, death)─> runs on
//! ```
//!
//! One task owns one process and is the only one to change its state. Two directories
//! hold all there is to know ([`Places`]): a record and a log per program. The caller
//! sees to it that one supervisor works with them at a time, and starts a name once.
//!
//! Promises:
//! - A supervised process is in a session of its own and writes straight to its log, so
//!   it does not notice the end of its supervisor. The next one adopts it, when command
//!   and environment are the same; else it ends it first.
//! - A process is known by pid *and* start time *and* boot: a record never leads to a
//!   stranger. One that was started but not recorded yet is found by a mark in its
//!   environment. So at no moment can a supervisor die and leave a process that
//!   [`Child::start`] and [`end_recorded`] do not find again.
//! - Signals go to the one process, never to its group or session: what it started may
//!   be meant to outlive it, as the shims of containerd are. Ending those is the
//!   caller's, who knows them ([`find`], [`in_cgroup`]).
//!
//! Needs `setsid` of util-linux and `/bin/sh` on the machine.

mod check;
mod child;
mod error;
mod launch;
mod log;
mod mark;
mod pause;
mod process;
mod record;
mod running;
mod status;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

pub use check::{Check, Probe};
pub use child::Child;
pub use nix::sys::signal::Signal;
pub use process::{ProcessId, find, in_cgroup};
pub use status::{Exit, State, Status};

/// A program to keep running.
#[derive(Clone, Debug)]
pub struct Program {
    /// Names its record and its log; a file name.
    pub name: String,
    /// The program by its absolute path, then its arguments.
    pub command: Vec<String>,
    /// Its whole environment, beside a usual `PATH` when it names none. Names are those
    /// that a shell takes: letters, digits and underscores.
    pub environment: BTreeMap<String, String>,
    /// How to find out whether it is ready. Without one it is once it was started.
    pub check: Option<Check>,
    /// Between the request to end and the end.
    pub grace: Duration,
}

/// Where records and logs are. Both directories are made when they are missing.
#[derive(Clone, Debug)]
pub struct Places {
    /// A file `<name>.json` for each process.
    pub records: PathBuf,
    /// A file `<name>.log` for each program, and `<name>.log.old` once it was long.
    pub logs: PathBuf,
}

/// Names of the processes that are recorded, or run unrecorded; whether they still live
/// or not.
pub fn recorded(places: &Places) -> BTreeSet<String> {
    let marked = mark::survivors(&places.records);
    let marked = marked.into_iter().map(|survivor| survivor.name);
    record::names(&places.records)
        .into_iter()
        .chain(marked)
        .collect()
}

/// Ends every process that is [`recorded`] but not in `keep`, all at the same time, and
/// removes their records: for processes whose program nobody knows any more.
///
/// Each gets SIGTERM, and SIGKILL after `grace`. The record of one that does not end even
/// then stays, so it is found again.
pub async fn end_recorded(places: &Places, keep: &BTreeSet<String>, grace: Duration) {
    let names = recorded(places);
    let ends = names
        .difference(keep)
        .map(|name| running::end_former(places, name, grace));
    futures::future::join_all(ends).await;
}
