//! Images that nodes of the hub's clusters pull: the distribution's, and those of the
//! distributions before it.
//!
//! Environments and Pods name an image by its content for as long as they live, so a new
//! distribution must not take away what they name. Blobs are links to those of the
//! distribution where that is possible. They come before the index that names them and go
//! after it, so whatever is killed, what the index names is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;
use crate::files::{Files, make_dir, write};

/// Images of one name that are kept beside the present one.
const KEPT: usize = 8;
const BLOBS: &str = "blobs/sha256";
const INDEX: &str = "index.json";
const IMAGE_NAME: &str = "io.containerd.image.name";

/// `index.json` of a folder in OCI layout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Index {
    manifests: Vec<Entry>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl Entry {
    fn reference(&self) -> &str {
        self.annotations.get(IMAGE_NAME).map_or("", String::as_str)
    }

    /// The reference without its tag.
    fn name(&self) -> &str {
        let reference = self.reference();
        reference
            .rsplit_once(':')
            .map_or(reference, |(name, _)| name)
    }
}

/// What a manifest needs.
#[derive(Deserialize)]
struct Manifest {
    config: Blob,
    layers: Vec<Blob>,
}

#[derive(Deserialize)]
struct Blob {
    digest: String,
}

/// Makes the hub's folder hold the distribution's images, and the last ones of those before.
/// A distribution without images changes nothing.
pub(crate) fn bring(dist: &Path, files: &Files) -> Result<(), Error> {
    let (from, to) = (dist.join("registry"), files.registry());
    for dir in [to.clone(), to.join("blobs"), to.join(BLOBS)] {
        make_dir(&dir, 0o755)?;
    }
    let damaged = |path, source| Error::ImageIndex { path, source };
    let Some(new) = read::<Index>(&from.join(INDEX), damaged)? else {
        return Ok(());
    };
    let damaged = |path, source| Error::DamagedRecord { path, source };
    let old = read::<Index>(&to.join(INDEX), damaged)?.unwrap_or_default();
    let mut wanted = BTreeSet::new();
    for entry in &new.manifests {
        let path = blob(&from, &entry.digest);
        for digest in needs(entry, &path)?.ok_or_else(|| missing(&path))? {
            place(&blob(&from, &digest), &blob(&to, &digest))?;
            wanted.insert(digest);
        }
    }
    let mut manifests = new.manifests.clone();
    for entry in superseded(&new.manifests, old.manifests) {
        let Some(digests) = needs(&entry, &blob(&to, &entry.digest))? else {
            continue;
        };
        if digests.iter().all(|digest| blob(&to, digest).is_file()) {
            wanted.extend(digests);
            manifests.push(entry);
        }
    }
    let index = Index { manifests, ..new };
    // An index that was read can be written.
    let text = serde_json::to_vec(&index).unwrap_or_default();
    write(
        &to.join("oci-layout"),
        br#"{"imageLayoutVersion":"1.0.0"}"#,
        0o644,
    )?;
    write(&to.join(INDEX), &text, 0o644)?;
    remove_others(&to.join(BLOBS), &wanted)
}

/// Which images of an earlier index stay: those that are not there any more, the last few of
/// each name. The newest come first in an index.
fn superseded(new: &[Entry], old: Vec<Entry>) -> Vec<Entry> {
    let present: BTreeSet<&str> = new.iter().map(Entry::reference).collect();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut kept = Vec::new();
    for entry in old {
        if present.contains(entry.reference()) {
            continue;
        }
        let count = counts.entry(entry.name().to_owned()).or_default();
        *count += 1;
        if *count <= KEPT {
            kept.push(entry);
        }
    }
    kept
}

/// Digests of everything that an image is made of; `None` without its manifest.
fn needs(entry: &Entry, path: &Path) -> Result<Option<Vec<String>>, Error> {
    let damaged = |path, source| Error::ImageIndex { path, source };
    let Some(manifest) = read::<Manifest>(path, damaged)? else {
        return Ok(None);
    };
    let blobs = manifest.layers.into_iter().chain([manifest.config]);
    let own = std::iter::once(entry.digest.clone());
    Ok(Some(own.chain(blobs.map(|blob| blob.digest)).collect()))
}

fn read<T: serde::de::DeserializeOwned>(
    path: &Path,
    damaged: impl FnOnce(PathBuf, serde_json::Error) -> Error,
) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| damaged(path.to_owned(), source)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

fn missing(path: &Path) -> Error {
    Error::file("find", path)(io::Error::from(ErrorKind::NotFound))
}

fn blob(folder: &Path, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    folder.join(BLOBS).join(hex)
}

/// A blob's name says what is in it, so one that is there is the same.
fn place(source: &Path, target: &Path) -> Result<(), Error> {
    if target.exists() || fs::hard_link(source, target).is_ok() {
        return Ok(());
    }
    let fresh = target.with_extension("new");
    fs::copy(source, &fresh).map_err(Error::file("copy", source))?;
    fs::rename(&fresh, target).map_err(Error::file("replace", target))
}

fn remove_others(dir: &Path, wanted: &BTreeSet<String>) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::file("list", dir))? {
        let entry = entry.map_err(Error::file("list", dir))?;
        let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
        if !wanted.contains(&digest) {
            fs::remove_file(entry.path()).map_err(Error::file("remove", entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(reference: &str, digest: &str) -> Entry {
        Entry {
            digest: digest.into(),
            annotations: BTreeMap::from([(IMAGE_NAME.into(), reference.into())]),
            rest: BTreeMap::new(),
        }
    }

    /// A distribution with these images: reference, manifest, layer.
    fn distribution(dist: &Path, images: &[(&str, &str, &str)]) {
        let registry = dist.join("registry");
        let _ = fs::remove_dir_all(&registry);
        fs::create_dir_all(registry.join(BLOBS)).unwrap();
        let put = |name: &str, text: &str| fs::write(blob(&registry, name), text).unwrap();
        for (_, manifest, layer) in images {
            let text = json!({ "config": { "digest": "sha256:c" },
                "layers": [{ "digest": format!("sha256:{layer}") }] });
            put(manifest, &text.to_string());
            put(layer, layer);
        }
        put("c", "{}");
        let manifests: Vec<_> = images
            .iter()
            .map(|(reference, manifest, _)| entry(reference, &format!("sha256:{manifest}")))
            .collect();
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(registry.join(INDEX), index.to_string()).unwrap();
    }

    fn references(files: &Files) -> Vec<String> {
        let text = fs::read(files.registry().join(INDEX)).unwrap();
        let index: Index = serde_json::from_slice(&text).unwrap();
        assert_eq!(index.rest["schemaVersion"], 2);
        let all = index.manifests.iter();
        all.map(|entry| entry.reference().to_owned()).collect()
    }

    fn blobs(files: &Files) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(files.registry().join(BLOBS))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_image_that_was_replaced_stays() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().join("state"));
        distribution(dir.path(), &[("r/a:1", "m1", "l1"), ("r/b:1", "n1", "l9")]);
        bring(dir.path(), &files).unwrap();
        distribution(dir.path(), &[("r/a:2", "m2", "l2"), ("r/b:1", "n1", "l9")]);
        for _ in 0..2 {
            bring(dir.path(), &files).unwrap();
            assert_eq!(references(&files), ["r/a:2", "r/b:1", "r/a:1"]);
            assert_eq!(blobs(&files), ["c", "l1", "l2", "l9", "m1", "m2", "n1"]);
        }
        let layer = fs::read(blob(&files.registry(), "l1")).unwrap();
        assert_eq!(layer, b"l1");
    }

    #[test]
    fn old_images_end_when_there_are_many_or_when_they_are_not_whole() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().join("state"));
        for number in 0..=KEPT + 2 {
            let (reference, manifest, layer) = (
                format!("r/a:{number:02}"),
                format!("m{number:02}"),
                format!("l{number:02}"),
            );
            distribution(dir.path(), &[(&reference, &manifest, &layer)]);
            bring(dir.path(), &files).unwrap();
        }
        assert_eq!(references(&files).len(), KEPT + 1);
        assert_eq!(blobs(&files).len(), 2 * (KEPT + 1) + 1);
        assert!(!blobs(&files).contains(&"m01".to_owned()));
        fs::remove_file(blob(&files.registry(), "l05")).unwrap();
        bring(dir.path(), &files).unwrap();
        assert!(!references(&files).contains(&"r/a:05".to_owned()));
        assert!(!blobs(&files).contains(&"m05".to_owned()));
    }

    #[test]
    fn a_distribution_without_images_takes_none_away() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().join("state"));
        bring(dir.path(), &files).unwrap();
        assert!(blobs(&files).is_empty());
        distribution(dir.path(), &[("r/a:1", "m1", "l1")]);
        bring(dir.path(), &files).unwrap();
        fs::remove_dir_all(dir.path().join("registry")).unwrap();
        bring(dir.path(), &files).unwrap();
        assert_eq!(references(&files), ["r/a:1"]);
    }

    #[test]
    fn a_distribution_that_is_not_whole_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().join("state"));
        distribution(dir.path(), &[("r/a:1", "m1", "l1")]);
        fs::remove_file(blob(&dir.path().join("registry"), "l1")).unwrap();
        let error = bring(dir.path(), &files).unwrap_err().to_string();
        assert!(error.contains("l1"), "{error}");
        assert!(!files.registry().join(INDEX).exists());
    }
}
