//! OCI image archives, written without a container daemon.
//!
//! A [`Tree`] becomes one uncompressed layer; layers and a [`Config`] become an
//! archive with `oci-layout`, `index.json` and blobs. The same content always
//! gives the same bytes.
//! Layers are not compressed, because archives are imported where they are made,
//! and because the digest of a blob is then the digest of the layer too.

use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ring::digest::{Context as Hash, SHA256, digest};
use serde_json::{Value, json};

use crate::tree::Tree;

const BLOCK: usize = 1 << 16;

/// A content by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

impl Blob {
    /// Of a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_file(path: &Path) -> Result<Self> {
        let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let (mut hash, mut size, mut block) = (Hash::new(&SHA256), 0, vec![0; BLOCK]);
        loop {
            let count = file
                .read(&mut block)
                .with_context(|| format!("read {}", path.display()))?;
            if count == 0 {
                break;
            }
            hash.update(&block[..count]);
            size += count as u64;
        }
        Ok(Self {
            digest: format!("sha256:{}", hex::encode(hash.finish())),
            size,
        })
    }

    /// Of what is in memory.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self {
            digest: format!("sha256:{}", hex::encode(digest(&SHA256, bytes))),
            size: bytes.len() as u64,
        }
    }

    /// The digest without `sha256:`.
    pub fn hex(&self) -> &str {
        self.digest.trim_start_matches("sha256:")
    }

    /// As others refer to it.
    pub fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.size })
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.hex())
    }
}

/// How a container of the image starts when a Pod does not say.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Program and fixed arguments.
    pub entrypoint: Vec<String>,
    /// `uid:gid`; root when empty.
    pub user: String,
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer compressed with zstd.
pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What `oci-layout` says.
pub const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// Configuration and manifest of an image, as bytes that are named by their digests.
pub struct Described {
    /// The configuration.
    pub config: Vec<u8>,
    /// The manifest.
    pub manifest: Vec<u8>,
}

/// Describes an image. Of each layer, lowest first: the digest of what it unpacks to, and the
/// descriptor of its blob.
///
/// # Errors
/// When JSON cannot be written.
pub fn describe(config: &Config, layers: &[(String, Value)]) -> Result<Described> {
    let diff_ids: Vec<_> = layers.iter().map(|(diff_id, _)| diff_id).collect();
    let blobs: Vec<_> = layers.iter().map(|(_, blob)| blob).collect();
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "User": config.user,
            "Entrypoint": config.entrypoint,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": layers.iter().map(|_| json!({ "created_by": "cargo xtask build" })).collect::<Vec<_>>(),
    }))
    .context("encode the image's configuration")?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": Blob::of_bytes(&config).descriptor(CONFIG),
        "layers": blobs,
    }))
    .context("encode the image's manifest")?;
    Ok(Described { config, manifest })
}

/// An index of images: of each its full reference, which has a tag, and its manifest.
///
/// # Errors
/// When a reference has no tag.
pub fn index<'a>(images: impl Iterator<Item = (&'a str, &'a Blob)>) -> Result<Vec<u8>> {
    let mut manifests = Vec::new();
    for (reference, manifest) in images {
        let tag = reference
            .rsplit_once(':')
            .map(|(_, tag)| tag)
            .filter(|tag| !tag.contains('/'));
        ensure!(tag.is_some(), "image reference {reference} has no tag");
        let mut entry = manifest.descriptor(MANIFEST);
        entry["platform"] = json!({ "architecture": "amd64", "os": "linux" });
        entry["annotations"] = json!({
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": tag,
        });
        manifests.push(entry);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    serde_json::to_vec(&index).context("encode the index")
}

/// Writes an archive of one image to `output` and gives its manifest. `layers`
/// are uncompressed tar files, lowest first.
///
/// # Errors
/// When the reference has no tag, a layer cannot be read, or the archive cannot
/// be written.
pub fn write_image(
    output: &Path,
    reference: &str,
    config: &Config,
    layers: &[PathBuf],
) -> Result<Blob> {
    let blobs = layers
        .iter()
        .map(|layer| Blob::of_file(layer))
        .collect::<Result<Vec<_>>>()?;
    // Not compressed: the digest of a blob is that of its contents too.
    let listed: Vec<_> = blobs
        .iter()
        .map(|blob| (blob.digest.clone(), blob.descriptor(LAYER)))
        .collect();
    let Described { config, manifest } = describe(config, &listed)?;
    let (config_blob, manifest_blob) = (Blob::of_bytes(&config), Blob::of_bytes(&manifest));
    let index = index([(reference, &manifest_blob)].into_iter())?;

    let mut tree = Tree::default();
    tree.text("oci-layout", LAYOUT, 0o644)
        .text("index.json", index, 0o644)
        .text(&config_blob.path(), config, 0o644)
        .text(&manifest_blob.path(), manifest, 0o644);
    for (blob, layer) in blobs.iter().zip(layers) {
        tree.file(&blob.path(), layer.clone(), 0o644);
    }
    let file = File::create(output).with_context(|| format!("make {}", output.display()))?;
    tree.write(BufWriter::with_capacity(BLOCK, file))?;
    Ok(manifest_blob)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;

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

    fn read(archive: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(File::open(archive).unwrap());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            assert_eq!(
                (
                    entry.header().mtime().unwrap(),
                    entry.header().uid().unwrap()
                ),
                (0, 0)
            );
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        });
        entries.collect()
    }

    fn image(dir: &Path, reference: &str) -> Result<(PathBuf, Blob)> {
        let archive = dir.join("image.tar");
        let config = Config {
            entrypoint: vec!["/usr/local/bin/program".into()],
            user: "65532:65532".into(),
        };
        let manifest = write_image(&archive, reference, &config, &[layer(dir)])?;
        Ok((archive, manifest))
    }

    #[test]
    fn every_blob_is_named_by_its_own_digest_and_size() {
        let dir = tempfile::tempdir().unwrap();
        let (archive, manifest) = image(dir.path(), "farplane.io/test:v1").unwrap();
        let files = read(&archive);
        for (path, content) in &files {
            if let Some(name) = path
                .strip_prefix("blobs/sha256/")
                .filter(|name| !name.is_empty())
            {
                assert_eq!(hex::encode(digest(&SHA256, content)), name);
            }
        }
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let entry = &index["manifests"][0];
        assert_eq!(entry["digest"], manifest.digest);
        assert_eq!(
            entry["annotations"]["io.containerd.image.name"],
            "farplane.io/test:v1"
        );
        assert_eq!(
            entry["annotations"]["org.opencontainers.image.ref.name"],
            "v1"
        );
        let manifest: Value = serde_json::from_slice(&files[&manifest.path()]).unwrap();
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"]
                .as_str()
                .unwrap()
                .trim_start_matches("sha256:")
                .to_owned();
            let content = files[&format!("blobs/sha256/{digest}")].clone();
            assert_eq!(descriptor["size"], content.len());
            content
        };
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            manifest["layers"][0]["digest"]
        );
        assert_eq!(config["config"]["User"], "65532:65532");
        blob(&manifest["layers"][0]);
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (a, _) = image(first.path(), "farplane.io/test:v1").unwrap();
        let (b, _) = image(second.path(), "farplane.io/test:v1").unwrap();
        assert!(fs::read(a).unwrap() == fs::read(b).unwrap());
    }

    #[test]
    fn a_reference_without_a_tag_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(image(dir.path(), "localhost:5000/test").is_err());
    }
}
