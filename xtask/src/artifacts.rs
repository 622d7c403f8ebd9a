//! What hosts download from the hub: archives of files, named by their content.
//!
//! `<name>-<version>-<key>.tar.zst`; the digest in the index is that of the
//! compressed file. An artifact `image-<name>` holds one `image.tar` to import.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, KeyBuilder};
use crate::components::Components;
use crate::images::Images;
use crate::oci::Blob;
use crate::progress;
use crate::tree::Tree;

const FORMAT: u32 = 1;
const ZSTD_LEVEL: i32 = 3;

/// Artifact and the components whose programs are in it.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("cni", &["cni"]),
    ("containerd", &["containerd", "runc"]),
    ("flannel", &["flannel"]),
    ("kubernetes-node", &["kubernetes-node"]),
];

/// Images that hosts need.
const IMAGES: &[&str] = &["coredns", "pause"];

/// One artifact as `index.json` lists it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Artifact {
    /// What it is.
    pub name: String,
    /// Version of the first component in it.
    pub version: String,
    /// File name.
    pub file: String,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Bytes of the file.
    pub size: u64,
    /// Full reference of the image in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Where it is in the cache.
    #[serde(skip)]
    pub path: PathBuf,
}

/// Builds every artifact, sorted by name.
///
/// # Errors
/// When a component or image is missing or the cache cannot be written.
pub fn build(cache: &Cache, components: &Components, images: &Images) -> Result<Vec<Artifact>> {
    let mut artifacts = Vec::new();
    for (name, parts) in PROGRAMS {
        let mut tree = Tree::default();
        let mut version = None;
        for part in *parts {
            let component = components
                .get(*part)
                .with_context(|| format!("component {part} was not built"))?;
            tree.programs("", &component.bin())?;
            version.get_or_insert_with(|| component.version.clone());
        }
        artifacts.push(pack(cache, name, &version.unwrap_or_default(), &tree)?);
    }
    for name in IMAGES {
        let image = images
            .get(*name)
            .with_context(|| format!("image {name} was not built"))?;
        let mut tree = Tree::default();
        tree.file("image.tar", image.archive.clone(), 0o644);
        let version = components
            .get(*name)
            .map_or("local", |component| component.version.as_str());
        let packed = pack(cache, &format!("image-{name}"), version, &tree)?;
        artifacts.push(Artifact {
            reference: Some(image.reference.clone()),
            ..packed
        });
    }
    artifacts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(artifacts)
}

fn pack(cache: &Cache, name: &str, version: &str, tree: &Tree) -> Result<Artifact> {
    let mut key = KeyBuilder::new("artifact", FORMAT);
    key.text("name", name).text("version", version);
    tree.hash(&mut key, cache.root())?;
    let key = key.finish();
    let file = format!("{name}-{version}-{}.tar.zst", key.short());
    let entry = cache.entry("artifacts", name, key, |work| {
        progress::line(name, "packing the artifact");
        let path = work.join(&file);
        compress(tree, &path)?;
        let Blob { digest, size } = Blob::of_file(&path)?;
        let sha256 = digest.trim_start_matches("sha256:").to_owned();
        let artifact = Artifact {
            name: name.into(),
            version: version.into(),
            file: file.clone(),
            sha256,
            size,
            reference: None,
            path: PathBuf::new(),
        };
        let text = serde_json::to_vec(&artifact).context("encode artifact.json")?;
        fs::write(work.join("artifact.json"), text).context("write artifact.json")
    })?;
    let text = fs::read(entry.join("artifact.json")).context("read artifact.json")?;
    let artifact: Artifact = serde_json::from_slice(&text).context("parse artifact.json")?;
    Ok(Artifact {
        path: entry.join(&file),
        ..artifact
    })
}

fn compress(tree: &Tree, path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("make {}", path.display()))?;
    let mut encoder = zstd::Encoder::new(file, ZSTD_LEVEL).context("start compression")?;
    encoder
        .include_checksum(true)
        .context("set up compression")?;
    tree.write(&mut encoder)?;
    encoder.finish().context("end compression")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_is_named_by_its_content_and_unpacks_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let pack_in = |cache: &str, content: &str| {
            let cache = Cache::at(dir.path().join(cache)).unwrap();
            let mut tree = Tree::default();
            tree.text("bridge", content, 0o755).link("other", "bridge");
            pack(&cache, "cni", "1.9.1", &tree).unwrap()
        };
        let (first, same, other) = (pack_in("a", "x"), pack_in("b", "x"), pack_in("a", "y"));
        assert_eq!((&first.file, &first.sha256), (&same.file, &same.sha256));
        assert!(first.file != other.file && first.sha256 != other.sha256);
        assert_eq!(Blob::of_file(&first.path).unwrap().hex(), first.sha256);

        let tar = zstd::decode_all(File::open(&first.path).unwrap()).unwrap();
        tar::Archive::new(tar.as_slice())
            .unpack(dir.path().join("out"))
            .unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("out/other")).unwrap(),
            "x"
        );
        assert_eq!(
            crate::cache::mode(&dir.path().join("out/bridge")).unwrap(),
            0o755
        );
    }
}
