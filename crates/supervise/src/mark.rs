//! The mark in a process's environment, by which it is found without a record.
//!
//! ```text
//! FARPLANE_SUPERVISED=<records directory>/<name>
//! FARPLANE_SUPERVISED_DIGEST=<command and environment>
//! FARPLANE_SUPERVISED_PID=<pid>     set by the process itself just before it becomes the program
//! ```
//!
//! What a program starts inherits its environment: containerd's shims carry the mark of
//! containerd. The pid tells them apart, as only the program itself has the pid that its
//! mark names. A mark without a pid is on a process that is about to become the program.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::process::{ProcessId, find};

pub(crate) const OWNER: &str = "FARPLANE_SUPERVISED";
pub(crate) const DIGEST: &str = "FARPLANE_SUPERVISED_DIGEST";
/// Runs "$@" as a process that names its own pid.
pub(crate) const SCRIPT: &str = r#"export FARPLANE_SUPERVISED_PID=$$; exec "$@""#;
const PID: &str = "FARPLANE_SUPERVISED_PID";

/// A process that a supervisor started.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Survivor {
    pub process: ProcessId,
    pub name: String,
    pub digest: String,
}

/// The value of the mark of a program.
pub(crate) fn owner(records: &Path, name: &str) -> PathBuf {
    absolute(records).join(name)
}

/// Every process that was started with this directory of records.
pub(crate) fn survivors(records: &Path) -> Vec<Survivor> {
    let records = absolute(records);
    let Ok(namespace) = fs::read_link("/proc/self/ns/pid") else {
        return Vec::new();
    };
    let read = |process: ProcessId| {
        let proc = PathBuf::from(format!("/proc/{}", process.pid));
        let environment = fs::read(proc.join("environ")).ok()?;
        let (name, digest) = parse(&environment, &records, process.pid)?;
        // Read of another process, if that one ended meanwhile.
        process.is_alive().then_some(Survivor {
            process,
            name,
            digest,
        })
    };
    // A container may well use the same paths for its own.
    let here = |proc: &Path| fs::read_link(proc.join("ns/pid")).is_ok_and(|its| its == namespace);
    find(here).into_iter().filter_map(read).collect()
}

/// Name and digest, when the environment marks the process with this pid.
fn parse(environment: &[u8], records: &Path, pid: i32) -> Option<(String, String)> {
    let value = |wanted: &str| {
        environment.split(|byte| *byte == 0).find_map(|variable| {
            let rest = variable.strip_prefix(wanted.as_bytes())?;
            rest.strip_prefix(b"=")
        })
    };
    let owner = Path::new(OsStr::from_bytes(value(OWNER)?));
    if owner.parent() != Some(records) {
        return None;
    }
    let text = |bytes| std::str::from_utf8(bytes).ok();
    if let Some(marked) = value(PID)
        && text(marked)?.parse() != Ok(pid)
    {
        return None;
    }
    let name = owner.file_name()?.to_str()?.to_owned();
    let digest = text(value(DIGEST)?)?.to_owned();
    Some((name, digest))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(environment: &str) -> Option<(String, String)> {
        let environment = environment.replace(' ', "\0");
        parse(environment.as_bytes(), Path::new("/r/s"), 7)
    }

    #[test]
    fn a_marked_process_is_known_and_what_inherited_its_mark_is_not() {
        let found = Some(("a".to_owned(), "d".to_owned()));
        let mark = "PATH=/bin FARPLANE_SUPERVISED=/r/s/a FARPLANE_SUPERVISED_DIGEST=d";
        assert_eq!(parsed(&format!("{mark} FARPLANE_SUPERVISED_PID=7 ")), found);
        assert_eq!(parsed(mark), found, "about to become the program");
        assert_eq!(parsed(&format!("{mark} FARPLANE_SUPERVISED_PID=8")), None);
        assert_eq!(parsed(&format!("{mark} FARPLANE_SUPERVISED_PID=")), None);
    }

    #[test]
    fn marks_of_other_places_are_not_ours() {
        for owner in ["/r/s", "/r/s/b/a", "/r/sa/a", "a", ""] {
            let mark = format!("FARPLANE_SUPERVISED={owner} FARPLANE_SUPERVISED_DIGEST=d");
            assert_eq!(parsed(&mark), None, "{owner}");
        }
        assert_eq!(parsed("XFARPLANE_SUPERVISED=/r/s/a"), None);
        assert_eq!(parsed(""), None);
    }
}
