//! Files by path, as the layers of images and artifacts have them.
//!
//! The same content always gives the same bytes: entries are sorted, times are zero, owners
//! are root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::KeyBuilder;
use crate::oci::Blob;

/// What a path in a [`Tree`] holds.
#[derive(Clone, Debug)]
enum Node {
    File { source: PathBuf, mode: u32 },
    Text { content: Vec<u8>, mode: u32 },
    Link { target: String },
}

/// Files of a layer or an artifact, by path without a leading slash. Parent
/// directories come into being by themselves.
#[derive(Clone, Debug, Default)]
pub struct Tree(BTreeMap<String, Node>);

impl Tree {
    /// Adds a file with the content of `source`.
    pub fn file(&mut self, path: &str, source: PathBuf, mode: u32) -> &mut Self {
        self.put(path, Node::File { source, mode })
    }

    /// Adds a file with this content.
    pub fn text(&mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> &mut Self {
        self.put(
            path,
            Node::Text {
                content: content.into(),
                mode,
            },
        )
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.put(
            path,
            Node::Link {
                target: target.to_owned(),
            },
        )
    }

    /// Adds a directory with everything in it; what may be executed there may be here.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn directory(&mut self, path: &str, dir: &Path) -> Result<&mut Self> {
        for entry in walkdir::WalkDir::new(dir) {
            let entry = entry.with_context(|| format!("list {}", dir.display()))?;
            if !entry.file_type().is_file() {
                continue;
            }
            let below = entry.path().strip_prefix(dir).unwrap_or(entry.path());
            let place = Path::new(path).join(below);
            let executable = crate::cache::mode(entry.path())? & 0o111 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            self.file(&place.to_string_lossy(), entry.path().to_owned(), mode);
        }
        Ok(self)
    }

    /// Adds every file of a directory, executable, with links kept as links.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn programs(&mut self, path: &str, dir: &Path) -> Result<&mut Self> {
        for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
            let entry = entry.with_context(|| format!("list {}", dir.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let place = if path.is_empty() {
                name
            } else {
                format!("{path}/{name}")
            };
            if entry
                .file_type()
                .context("read a file's type")?
                .is_symlink()
            {
                let target = fs::read_link(entry.path()).context("read a link")?;
                self.link(&place, &target.to_string_lossy());
            } else {
                self.file(&place, entry.path(), 0o755);
            }
        }
        Ok(self)
    }

    /// Adds the tree to a key. Files in the `components` and `images` of the cache
    /// are named by what they were made from already; others count by content.
    ///
    /// # Errors
    /// When a source cannot be read.
    pub fn hash(&self, key: &mut KeyBuilder, cache: &Path) -> Result<()> {
        for (path, node) in &self.0 {
            let Node::File { source, mode } = node else {
                key.text(path, &format!("{node:?}"));
                continue;
            };
            let known = source
                .strip_prefix(cache)
                .ok()
                .filter(|p| p.starts_with("components") || p.starts_with("images"));
            let content = match known {
                Some(place) => place.display().to_string(),
                None => Blob::of_file(source)?.digest,
            };
            key.text(path, &format!("{mode:o} {content}"));
        }
        Ok(())
    }

    fn put(&mut self, path: &str, node: Node) -> &mut Self {
        self.0.insert(path.to_owned(), node);
        self
    }

    /// Writes the tree as a tar stream.
    ///
    /// # Errors
    /// When a source cannot be read or the stream cannot be written.
    pub fn write(&self, output: impl Write) -> Result<()> {
        let mut tar = tar::Builder::new(output);
        let mut made = BTreeSet::new();
        for (path, node) in &self.0 {
            for (end, _) in path.match_indices('/') {
                let parent = &path[..end];
                if !self.0.contains_key(parent) && made.insert(parent.to_owned()) {
                    append(
                        &mut tar,
                        &format!("{parent}/"),
                        tar::EntryType::Directory,
                        0o755,
                        0,
                        io::empty(),
                    )?;
                }
            }
            match node {
                Node::File { source, mode } => {
                    let file =
                        File::open(source).with_context(|| format!("open {}", source.display()))?;
                    let size = file
                        .metadata()
                        .with_context(|| format!("measure {}", source.display()))?
                        .len();
                    append(&mut tar, path, tar::EntryType::Regular, *mode, size, file)
                }
                Node::Text { content, mode } => append(
                    &mut tar,
                    path,
                    tar::EntryType::Regular,
                    *mode,
                    content.len() as u64,
                    content.as_slice(),
                ),
                Node::Link { target } => {
                    let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                    tar.append_link(&mut header, path, target)
                        .context("append a link")
                }
            }
            .with_context(|| format!("write {path} to the archive"))?;
        }
        tar.into_inner()
            .context("end the archive")?
            .flush()
            .context("flush the archive")
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    size: u64,
    data: impl Read,
) -> Result<()> {
    tar.append_data(&mut header(kind, mode, size), path, data)
        .context("append an entry")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(dir: &Path) -> PathBuf {
        let mut tree = Tree::default();
        fs::write(dir.join("program"), "content").unwrap();
        tree.file("usr/local/bin/program", dir.join("program"), 0o755);
        tree.link("usr/local/bin/other", "program")
            .text("etc/passwd", "root", 0o644);
        let path = dir.join("layer.tar");
        tree.write(File::create(&path).unwrap()).unwrap();
        path
    }

    #[test]
    fn a_layer_lists_parents_before_what_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = tar::Archive::new(File::open(layer(dir.path())).unwrap());
        let paths: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().display().to_string())
            .collect();
        let expected = [
            "etc/",
            "etc/passwd",
            "usr/",
            "usr/local/",
            "usr/local/bin/",
            "usr/local/bin/other",
            "usr/local/bin/program",
        ];
        assert_eq!(paths, expected);
    }
}
