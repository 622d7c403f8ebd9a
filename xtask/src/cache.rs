//! The content-addressed cache that every build step goes through.
//!
//! An entry is a directory `<kind>/<name>-<key>`, where the key is the SHA-256 of
//! everything that goes into it. It is made under `work/` and moved into place by
//! one rename, so an entry is either whole or absent, whatever was interrupted,
//! and two builds at once cost time but never harm. Entries do not depend on
//! where the tree is checked out: a fresh clone with a warm cache builds nothing.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ring::digest::{Context as Hash, SHA256};
use walkdir::WalkDir;

use crate::progress;

/// Hashes named inputs. The length of each part is hashed too, so that no two
/// different lists of inputs give the same key.
pub struct KeyBuilder(Hash);

impl KeyBuilder {
    /// Starts a key for one step. `format` changes when the step's own code
    /// changes what it makes from the same inputs.
    pub fn new(step: &str, format: u32) -> Self {
        let mut builder = Self(Hash::new(&SHA256));
        builder.text("step", step);
        builder.text("format", &format.to_string());
        builder
    }

    /// Adds bytes under a label.
    pub fn bytes(&mut self, label: &str, value: &[u8]) -> &mut Self {
        for part in [label.as_bytes(), value] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// Adds text under a label.
    pub fn text(&mut self, label: &str, value: &str) -> &mut Self {
        self.bytes(label, value.as_bytes())
    }

    /// Adds a file, or every file below a directory, by path below `base`, mode
    /// and content. Hidden files and build output are left out.
    ///
    /// # Errors
    /// When the path or a file below it cannot be read.
    pub fn path(&mut self, base: &Path, path: &Path) -> Result<&mut Self> {
        let walk = WalkDir::new(path).sort_by_file_name().into_iter();
        for entry in walk.filter_entry(|e| !is_hidden(e.file_name()) && e.file_name() != "target") {
            let entry = entry.with_context(|| format!("list {}", path.display()))?;
            if !entry.file_type().is_file() {
                continue;
            }
            let content = fs::read(entry.path())
                .with_context(|| format!("read {}", entry.path().display()))?;
            let label = entry.path().strip_prefix(base).unwrap_or(entry.path());
            let executable = mode(entry.path())? & 0o111 != 0;
            self.text("executable", if executable { "yes" } else { "no" });
            self.bytes(&label.to_string_lossy(), &content);
        }
        Ok(self)
    }

    /// The key as 64 hexadecimal digits.
    pub fn finish(self) -> Key {
        Key(hex::encode(self.0.finish()))
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with('.')
}

/// Permission bits of a file.
pub fn mode(path: &Path) -> Result<u32> {
    use std::os::unix::fs::PermissionsExt;
    let metadata =
        fs::metadata(path).with_context(|| format!("read the mode of {}", path.display()))?;
    Ok(metadata.permissions().mode() & 0o7777)
}

/// Name of one content in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 8 digits, for file names and image tags.
    pub fn short(&self) -> &str {
        &self.0[..8]
    }
}

/// The cache directory.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens `$FARPLANE_CACHE`, else `farplane` below the user's cache directory,
    /// and removes what builds that no longer run left under `work/`.
    ///
    /// # Errors
    /// When no place for it is known or it cannot be made.
    pub fn open() -> Result<Self> {
        let variable = |name| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let root = variable("FARPLANE_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("farplane")))
            .or_else(|| variable("HOME").map(|dir| dir.join(".cache/farplane")))
            .context("no cache directory: set FARPLANE_CACHE or HOME")?;
        Self::at(std::path::absolute(root)?)
    }

    /// Opens a cache at a given place.
    pub fn at(root: PathBuf) -> Result<Self> {
        let cache = Self { root };
        for dir in ["work", "log"] {
            let dir = cache.root.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        }
        cache.sweep()?;
        Ok(cache)
    }

    /// Directory of the cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Log file of a step.
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("log").join(format!("{name}.log"))
    }

    /// Gives the directory of an entry, calling `make` with an empty directory when it is absent.
    ///
    /// # Errors
    /// What `make` gives, or when the cache cannot be written.
    pub fn entry(
        &self,
        kind: &str,
        name: &str,
        key: Key,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let dir = self
            .root
            .join(kind)
            .join(format!("{name}-{}", key.as_str()));
        if dir.is_dir() {
            progress::cached(name, key.short());
            return Ok(dir);
        }
        let work = self.work(name)?;
        make(&work)?;
        fs::create_dir_all(self.root.join(kind))
            .context("make the kind's directory in the cache")?;
        // A second build that was faster made the same content.
        if let Err(error) = fs::rename(&work, &dir) {
            if !dir.is_dir() {
                return Err(error)
                    .with_context(|| format!("move {} into the cache", dir.display()));
            }
            remove(&work)?;
        }
        Ok(dir)
    }

    /// A new empty directory, removed by a later [`Cache::open`] if left behind.
    pub fn work(&self, name: &str) -> Result<PathBuf> {
        let pid = std::process::id();
        for number in 0.. {
            let dir = self
                .root
                .join("work")
                .join(format!("{pid}-{number}-{name}"));
            match fs::create_dir(&dir) {
                Ok(()) => return Ok(dir),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("make {}", dir.display())),
            }
        }
        bail!("no free name below {}", self.root.join("work").display())
    }

    fn sweep(&self) -> Result<()> {
        for entry in
            fs::read_dir(self.root.join("work")).context("list the cache's work directory")?
        {
            let entry = entry.context("list the cache's work directory")?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name.split('-').next().unwrap_or_default();
            let own = pid == std::process::id().to_string();
            if !own && !Path::new("/proc").join(pid).is_dir() {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Removes a directory tree; absent is success.
pub fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: &[(&str, &str)]) -> Key {
        let mut builder = KeyBuilder::new("test", 1);
        for (label, value) in parts {
            builder.text(label, value);
        }
        builder.finish()
    }

    #[test]
    fn a_key_depends_on_where_one_input_ends() {
        assert_eq!(key(&[("a", "bc")]), key(&[("a", "bc")]));
        assert_ne!(key(&[("a", "bc")]), key(&[("ab", "c")]));
        assert_ne!(key(&[("a", "b"), ("c", "d")]), key(&[("a", "bcd")]));
        assert_ne!(
            key(&[("a", "b"), ("c", "d")]),
            key(&[("c", "d"), ("a", "b")])
        );
    }

    #[test]
    fn a_key_follows_content_name_and_mode_but_not_place() {
        let tree = |file: &str, content: &str, mode: u32| {
            use std::os::unix::fs::PermissionsExt;
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("src")).unwrap();
            let path = dir.path().join("src").join(file);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let mut builder = KeyBuilder::new("test", 1);
            builder.path(dir.path(), &dir.path().join("src")).unwrap();
            builder.finish()
        };
        let first = tree("a", "x", 0o644);
        assert_eq!(first, tree("a", "x", 0o600));
        assert_ne!(first, tree("a", "x", 0o755));
        assert_ne!(first, tree("b", "x", 0o644));
        assert_ne!(first, tree("a", "y", 0o644));
    }

    #[test]
    fn an_entry_is_made_once_and_a_failed_one_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path().to_owned()).unwrap();
        let failed = cache.entry("kind", "name", key(&[]), |dir| {
            fs::write(dir.join("half"), "x").unwrap();
            bail!("interrupted")
        });
        assert!(failed.is_err());
        assert!(!root.path().join("kind").exists());

        let make = |dir: &Path| Ok(fs::write(dir.join("whole"), "x")?);
        let made = cache.entry("kind", "name", key(&[]), make).unwrap();
        assert!(made.join("whole").is_file() && !made.join("half").exists());
        let again = cache
            .entry("kind", "name", key(&[]), |_| bail!("made twice"))
            .unwrap();
        assert_eq!(again, made);
    }

    #[test]
    fn work_of_a_build_that_is_gone_is_swept() {
        let root = tempfile::tempdir().unwrap();
        Cache::at(root.path().to_owned()).unwrap();
        let dead = root.path().join("work/4194305-0-etcd");
        fs::create_dir(&dead).unwrap();
        let cache = Cache::at(root.path().to_owned()).unwrap();
        let own = cache.work("etcd").unwrap();
        Cache::at(root.path().to_owned()).unwrap();
        assert!(!dead.exists() && own.exists());
    }
}
