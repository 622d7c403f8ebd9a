//! `cargo xtask build`: everything, laid out in `dist/`.
//!
//! Files are hard links into the cache where the file system allows. A file is
//! replaced by a rename, so programs that run from `dist/` are not disturbed, and
//! what no longer belongs there is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::components::Components;
use crate::environments::Languages;
use crate::images::Images;
use crate::progress;
use crate::{artifacts, environments, images, registry};

/// Components whose programs a person or the embedded hub runs on the machine.
const PROGRAMS: &[&str] = &[
    "containerd",
    "etcd",
    "helm",
    "kubernetes-node",
    "kubernetes-server",
    "runc",
];
const OWN: &[&str] = &["farplane", "farplane-agent", "farplane-hub"];

/// Builds images and artifacts of these programs and lays out `dist/`.
///
/// # Errors
/// The first step that fails.
pub fn build(
    root: &Path,
    cache: &Cache,
    components: &Components,
    own: &Path,
    languages: &Languages,
) -> Result<()> {
    let mut images = images::build(root, cache, components, own)?;
    let artifacts = artifacts::build(cache, components, &images)?;
    let index = serde_json::to_vec_pretty(&artifacts).context("encode the index of artifacts")?;
    let files: Vec<(String, PathBuf)> = artifacts
        .into_iter()
        .map(|artifact| (artifact.file, artifact.path))
        .collect();
    images.extend([images::artifact_server(cache, own, &files, &index)?]);

    let pulled = environments::images(cache, own, languages)?;

    let dist = root.join("dist");
    registry::lay_out(&dist.join("registry"), &pulled)?;
    fill(&dist.join("bin"), programs(components, own)?, None)?;
    fill(
        &dist.join("cni"),
        component_files(components, &["cni"])?,
        None,
    )?;
    fill(
        &dist.join("artifacts"),
        files.into_iter().collect(),
        Some(&index),
    )?;
    let index = serde_json::to_vec_pretty(&images).context("encode the index of images")?;
    fill(&dist.join("images"), archives(&images), Some(&index))?;
    progress::line("dist", &format!("complete in {}", dist.display()));
    Ok(())
}

fn programs(components: &Components, own: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = component_files(components, PROGRAMS)?;
    files.extend(OWN.iter().map(|name| ((*name).to_owned(), own.join(name))));
    Ok(files)
}

fn component_files(components: &Components, names: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for name in names {
        let dir = components
            .get(*name)
            .with_context(|| format!("component {name} was not built"))?
            .bin();
        for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let entry = entry.with_context(|| format!("list {}", dir.display()))?;
            files.insert(
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            );
        }
    }
    Ok(files)
}

fn archives(images: &Images) -> BTreeMap<String, PathBuf> {
    images
        .values()
        .map(|image| (image.file.clone(), image.archive.clone()))
        .collect()
}

/// Makes `dir` hold exactly these files, and `index.json` when there is one.
///
/// # Errors
/// When it cannot be written.
pub fn fill(dir: &Path, files: BTreeMap<String, PathBuf>, index: Option<&[u8]>) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    for (name, source) in &files {
        place(source, &dir.join(name))?;
    }
    let mut wanted: BTreeSet<&str> = files.keys().map(String::as_str).collect();
    if let Some(index) = index {
        wanted.insert("index.json");
        let fresh = dir.join(".index.json.new");
        fs::write(&fresh, index).with_context(|| format!("write {}", fresh.display()))?;
        fs::rename(&fresh, dir.join("index.json")).context("replace index.json")?;
    }
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        if !wanted.contains(entry.file_name().to_string_lossy().as_ref()) {
            fs::remove_file(entry.path())
                .with_context(|| format!("remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn place(source: &Path, target: &Path) -> Result<()> {
    let source = fs::canonicalize(source).with_context(|| format!("find {}", source.display()))?;
    if let (Ok(a), Ok(b)) = (fs::metadata(&source), fs::symlink_metadata(target))
        && (a.dev(), a.ino()) == (b.dev(), b.ino())
    {
        return Ok(());
    }
    let name = target
        .file_name()
        .context("a target has a name")?
        .to_string_lossy()
        .into_owned();
    let fresh = target.with_file_name(format!(".{name}.new"));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).context("remove an old file");
        }
        _ => {}
    }
    if fs::hard_link(&source, &fresh).is_err() {
        fs::copy(&source, &fresh).with_context(|| format!("copy {}", source.display()))?;
    }
    fs::rename(&fresh, target).with_context(|| format!("replace {}", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_to_hold_exactly_the_files() {
        let root = tempfile::tempdir().unwrap();
        let (source, dir) = (root.path().join("source"), root.path().join("dist"));
        fs::write(&source, "new").unwrap();
        std::os::unix::fs::symlink("source", root.path().join("name")).unwrap();
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("etcd"), "old").unwrap();
        fs::write(dir.join("stale"), "old").unwrap();
        for _ in 0..2 {
            let files = [("etcd", &source), ("etcdctl", &root.path().join("name"))];
            let files = files
                .map(|(name, path)| (name.to_owned(), path.clone()))
                .into();
            fill(&dir, files, Some(b"[]")).unwrap();
            let mut names: Vec<_> = fs::read_dir(&dir)
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            names.sort();
            assert_eq!(names, ["etcd", "etcdctl", "index.json"]);
            assert_eq!(fs::read_to_string(dir.join("etcd")).unwrap(), "new");
            assert_eq!(fs::read_to_string(dir.join("etcdctl")).unwrap(), "new");
        }
    }
}
