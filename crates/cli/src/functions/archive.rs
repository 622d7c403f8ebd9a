//! Makes archives of code.
//!
//! A directory becomes a zip whose bytes depend on nothing but names, contents and which files
//! may be executed: made twice, it has the same digest, and an unchanged function stays as it is.

use std::fs;
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// Largest archive, as storage takes it.
pub(crate) const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// How zip archives begin.
const ZIP: &[u8] = b"PK\x03\x04";
/// What no function needs.
const LEFT_OUT: [&str; 5] = [".git", ".hg", ".svn", "__pycache__", ".DS_Store"];

/// Why an archive could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("failed to read {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("there is no file or directory {}", path.display())]
    Missing { path: PathBuf },
    #[error("{} has no files: there is no code in it", path.display())]
    Empty { path: PathBuf },
    #[error("{} leads out of {}: copy the file there", path.display(), root.display())]
    Outside { path: PathBuf, root: PathBuf },
    #[error("{} has a name that is not UTF-8: rename it", path.display())]
    Name { path: PathBuf },
    #[error("{} has {} MiB, archives have {} MiB at most: leave out what is built, or put dependencies into the environment's image", path.display(), bytes >> 20, MAX_BYTES >> 20)]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("failed to pack {name}")]
    Pack {
        name: String,
        source: zip::result::ZipError,
    },
}

/// A file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Path below the archive's root, with `/`.
    pub name: String,
    /// May be executed.
    pub executable: bool,
    /// Content.
    pub bytes: Vec<u8>,
}

/// The code at a path: a file as it is, a directory as a zip.
pub(crate) fn code(path: &Path) -> Result<Vec<u8>, Error> {
    let found = fs::metadata(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::Missing {
            path: path.to_owned(),
        },
        _ => read(path, source),
    })?;
    if !found.is_dir() {
        limit(path, found.len())?;
        return fs::read(path).map_err(|source| read(path, source));
    }
    let entries = walk(path, |_| true)?;
    if entries.is_empty() {
        return Err(Error::Empty {
            path: path.to_owned(),
        });
    }
    pack(entries)
}

/// The source at a path, for a builder: always a zip, of one file too. A zip stays as it is.
pub(crate) fn source(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = code(path)?;
    if path.is_dir() || bytes.starts_with(ZIP) {
        return Ok(bytes);
    }
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Error::Name {
        path: path.to_owned(),
    })?;
    let executable = is_executable(path).map_err(|source| read(path, source))?;
    pack(vec![Entry {
        name: name.to_owned(),
        executable,
        bytes,
    }])
}

fn read(path: &Path, source: std::io::Error) -> Error {
    let path = path.to_owned();
    Error::Read { path, source }
}

fn limit(path: &Path, bytes: u64) -> Result<(), Error> {
    match bytes {
        bytes if bytes > MAX_BYTES => Err(Error::TooLarge {
            path: path.to_owned(),
            bytes,
        }),
        _ => Ok(()),
    }
}

/// The files below a directory that `wanted` takes, by their names below it. Links are followed
/// as long as they stay below it.
pub(crate) fn walk(root: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<Entry>, Error> {
    let real = root.canonicalize().map_err(|source| read(root, source))?;
    let mut entries = Vec::new();
    let mut total = 0;
    let files = walkdir::WalkDir::new(&real)
        .follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| {
            entry.depth() == 0 || !LEFT_OUT.iter().any(|name| entry.file_name() == *name)
        });
    for file in files {
        let file = file.map_err(|error| {
            let path = error.path().unwrap_or(root).to_owned();
            read(&path, error.into())
        })?;
        if !file.file_type().is_file() {
            continue;
        }
        let name = name(&real, file.path())?;
        if !wanted(&name) {
            continue;
        }
        let target = file
            .path()
            .canonicalize()
            .map_err(|source| read(file.path(), source))?;
        if !target.starts_with(&real) {
            return Err(Error::Outside {
                path: file.path().to_owned(),
                root: root.to_owned(),
            });
        }
        let bytes = fs::read(&target).map_err(|source| read(file.path(), source))?;
        total += bytes.len() as u64;
        limit(root, total)?;
        let executable = is_executable(&target).map_err(|source| read(file.path(), source))?;
        entries.push(Entry {
            name,
            executable,
            bytes,
        });
    }
    Ok(entries)
}

fn is_executable(path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::metadata(path)?.permissions().mode() & 0o111 != 0)
}

fn name(root: &Path, path: &Path) -> Result<String, Error> {
    let below = path.strip_prefix(root).unwrap_or(path);
    let parts: Option<Vec<&str>> = below.iter().map(|part| part.to_str()).collect();
    let parts = parts.ok_or_else(|| Error::Name {
        path: path.to_owned(),
    })?;
    Ok(parts.join("/"))
}

/// A zip of these files.
pub(crate) fn pack(mut entries: Vec<Entry>) -> Result<Vec<u8>, Error> {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries.dedup_by(|a, b| a.name == b.name);
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for entry in &entries {
        let failed = |source| Error::Pack {
            name: entry.name.clone(),
            source,
        };
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::default())
            .unix_permissions(if entry.executable { 0o755 } else { 0o644 });
        zip.start_file(entry.name.as_str(), options)
            .map_err(failed)?;
        zip.write_all(&entry.bytes)
            .map_err(|source| failed(source.into()))?;
    }
    let done = zip.finish().map_err(|source| Error::Pack {
        name: "the archive".to_owned(),
        source,
    })?;
    Ok(done.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn names(zip: &[u8]) -> BTreeMap<String, (u32, String)> {
        let mut archive = zip::ZipArchive::new(Cursor::new(zip)).unwrap();
        (0..archive.len())
            .map(|index| {
                let mut file = archive.by_index(index).unwrap();
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                let mode = file.unix_mode().unwrap() & 0o777;
                (file.name().unwrap().into_owned(), (mode, text))
            })
            .collect()
    }

    #[test]
    fn a_directory_packs_to_the_same_bytes_whenever_it_is_made() {
        let make = |reverse: bool| {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path();
            fs::create_dir_all(root.join("pkg")).unwrap();
            fs::create_dir_all(root.join(".git")).unwrap();
            let mut files = ["pkg/a.py", "main.py", ".git/config", "run.sh"];
            if reverse {
                files.reverse();
            }
            for file in files {
                fs::write(root.join(file), file).unwrap();
            }
            fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o700)).unwrap();
            code(root).unwrap()
        };
        let zip = make(false);
        assert_eq!(zip, make(true));
        let expected = BTreeMap::from([
            ("main.py".to_owned(), (0o644, "main.py".to_owned())),
            ("pkg/a.py".to_owned(), (0o644, "pkg/a.py".to_owned())),
            ("run.sh".to_owned(), (0o755, "run.sh".to_owned())),
        ]);
        assert_eq!(names(&zip), expected);
    }

    #[test]
    fn a_file_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello.py");
        fs::write(&path, "def main(): pass\n").unwrap();
        assert_eq!(code(&path).unwrap(), b"def main(): pass\n");
    }

    #[test]
    fn a_source_is_always_a_zip_and_one_that_is_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello.go");
        fs::write(&path, "package main").unwrap();
        let zip = source(&path).unwrap();
        assert_eq!(names(&zip)["hello.go"], (0o644, "package main".to_owned()));
        let packed = folder.path().join("source.zip");
        fs::write(&packed, &zip).unwrap();
        assert_eq!(source(&packed).unwrap(), zip);
    }

    #[test]
    fn what_is_no_code_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("code");
        assert!(matches!(code(&root), Err(Error::Missing { .. })));
        fs::create_dir(&root).unwrap();
        assert!(matches!(code(&root), Err(Error::Empty { .. })));
        let secret = folder.path().join("secret");
        fs::write(&secret, "s").unwrap();
        symlink(&secret, root.join("link")).unwrap();
        assert!(matches!(code(&root), Err(Error::Outside { .. })));
        fs::remove_file(root.join("link")).unwrap();
        fs::write(root.join("a"), "a").unwrap();
        symlink(root.join("a"), root.join("b")).unwrap();
        assert_eq!(names(&code(&root).unwrap()).len(), 2);
    }
}
