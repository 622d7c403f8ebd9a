//! A program's log: appended to by the process itself, bounded from outside.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// A log that is longer becomes the old log, which holds this much at most.
pub(crate) const BYTES: u64 = 20 << 20;

/// Opens a log, so that a process may write to it.
pub(crate) fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// Moves a log that is longer than `bytes` to `<path>.old`, of which it keeps the end.
///
/// The process has the file open and appends, so it cannot be renamed, but emptied. What
/// is written between copy and emptying is lost.
pub(crate) fn bound(path: &Path, bytes: u64) -> std::io::Result<()> {
    let length = match path.metadata() {
        Ok(meta) => meta.len(),
        Err(_) => return Ok(()),
    };
    if length <= bytes {
        return Ok(());
    }
    let mut old = path.as_os_str().to_owned();
    old.push(".old");
    let mut from = File::open(path)?;
    from.seek(SeekFrom::Start(length - bytes))?;
    let copied =
        fs::File::create(&old).and_then(|mut to| std::io::copy(&mut from.take(bytes), &mut to));
    // A full disk is no reason to keep the long one.
    OpenOptions::new().write(true).truncate(true).open(path)?;
    copied.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_long_log_is_emptied_below_its_writer_and_its_end_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("a.log"), dir.path().join("a.log.old"));
        let mut writer = open(&path).unwrap();
        writer.write_all(b"12345").unwrap();
        bound(&path, 5).unwrap();
        assert!(!old.exists(), "not too long yet");
        writer.write_all(b"6789").unwrap();
        bound(&path, 5).unwrap();
        assert_eq!(fs::read(&old).unwrap(), b"56789");
        writer.write_all(b"next").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"next");
        bound(&dir.path().join("none.log"), 5).unwrap();
    }
}
