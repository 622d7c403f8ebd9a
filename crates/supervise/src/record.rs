//! Which process a program has, on disk.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::process::ProcessId;

/// The content of one record.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub process: ProcessId,
    /// Names command and environment: a process with others is another program.
    pub digest: String,
    /// Start times count from here.
    boot: String,
}

impl Record {
    pub fn new(process: ProcessId, digest: &str) -> Self {
        Self {
            process,
            digest: digest.to_owned(),
            boot: boot(),
        }
    }

    /// The record of a process that is alive.
    pub fn live(records: &Path, name: &str) -> Option<Self> {
        let text = fs::read(path(records, name)).ok()?;
        let record: Self = serde_json::from_slice(&text).ok()?;
        (record.boot == boot() && record.process.is_alive()).then_some(record)
    }

    /// Replaces the record at once: a crash leaves the old or the new.
    pub fn save(&self, records: &Path, name: &str) -> Result<(), Error> {
        let path = path(records, name);
        let temporary = records.join(format!("{name}.json.new"));
        let text =
            serde_json::to_vec(self).map_err(|error| Error::file("encode", &path)(error.into()))?;
        // One left by an interrupted write may have another mode.
        let _ = fs::remove_file(&temporary);
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_data()))
            .map_err(Error::file("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(Error::file("replace", &path))
    }
}

fn path(records: &Path, name: &str) -> PathBuf {
    records.join(format!("{name}.json"))
}

/// Removes a record. One that stays names a dead process and does no harm.
pub(crate) fn remove(records: &Path, name: &str) {
    let _ = fs::remove_file(path(records, name));
}

/// Names that have a record.
pub(crate) fn names(records: &Path) -> Vec<String> {
    let entries = fs::read_dir(records).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let file = entry.file_name();
            Some(file.to_str()?.strip_suffix(".json")?.to_owned())
        })
        .collect()
}

/// Makes a directory for records or logs, readable by its owner only.
pub(crate) fn make_dir(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::file("make", path))
}

/// Changes with every start of the machine.
fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> ProcessId {
        ProcessId::of(std::process::id() as i32).unwrap()
    }

    #[test]
    fn a_record_leads_to_its_process_only() {
        let dir = tempfile::tempdir().unwrap();
        Record::new(me(), "d").save(dir.path(), "a").unwrap();
        assert_eq!(Record::live(dir.path(), "a"), Some(Record::new(me(), "d")));
        let mut reused = Record::new(me(), "d");
        reused.process.start -= 1;
        reused.save(dir.path(), "a").unwrap();
        assert_eq!(Record::live(dir.path(), "a"), None);
        let mut other = Record::new(me(), "d");
        other.boot = "another".to_owned();
        other.save(dir.path(), "a").unwrap();
        assert_eq!(Record::live(dir.path(), "a"), None);
    }

    #[test]
    fn a_torn_write_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.json.new"), "{").unwrap();
        assert!(names(dir.path()).is_empty());
        Record::new(me(), "d").save(dir.path(), "a").unwrap();
        assert_eq!(names(dir.path()), ["a"]);
        remove(dir.path(), "a");
        assert!(names(dir.path()).is_empty());
    }
}
