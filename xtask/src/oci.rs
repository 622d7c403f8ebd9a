//! OCI image archives, written without a container daemon.
//!
//! A [`Tree`] becomes one uncompressed layer; layers and a [`Config`] become an
//! archive with `oci-layout`, `index.json` and blobs. The same content always
//! gives the same bytes: entries are sorted, times are zero, owners are root.
//! Layers are not compressed, because archives are imported where they are made,
//! and because the digest of a blob is then the digest of the layer too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ring::digest::{Context as Hash, SHA256, digest};
use serde_json::{Value, json};

use crate::cache::KeyBuilder;

const BLOCK: usize = 1 << 16;

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

    fn of_bytes(bytes: &[u8]) -> Self {
        Self {
            digest: format!("sha256:{}", hex::encode(digest(&SHA256, bytes))),
            size: bytes.len() as u64,
        }
    }

    /// The digest without `sha256:`.
    pub fn hex(&self) -> &str {
        self.digest.trim_start_matches("sha256:")
    }

    fn descriptor(&self, media_type: &str) -> Value {
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
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

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
    let tag = reference
        .rsplit_once(':')
        .map(|(_, tag)| tag)
        .filter(|tag| !tag.contains('/'));
    ensure!(tag.is_some(), "image reference {reference} has no tag");
    let blobs = layers
        .iter()
        .map(|layer| Blob::of_file(layer))
        .collect::<Result<Vec<_>>>()?;
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "User": config.user,
            "Entrypoint": config.entrypoint,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": { "type": "layers", "diff_ids": blobs.iter().map(|blob| &blob.digest).collect::<Vec<_>>() },
        "history": blobs.iter().map(|_| json!({ "created_by": "cargo xtask build" })).collect::<Vec<_>>(),
    }))
    .context("encode the image's configuration")?;
    let config_blob = Blob::of_bytes(&config);
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config_blob.descriptor(CONFIG),
        "layers": blobs.iter().map(|blob| blob.descriptor(LAYER)).collect::<Vec<_>>(),
    }))
    .context("encode the image's manifest")?;
    let manifest_blob = Blob::of_bytes(&manifest);
    let mut entry = manifest_blob.descriptor(MANIFEST);
    entry["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    entry["annotations"] = json!({
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": tag,
    });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });

    let mut tree = Tree::default();
    tree.text("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#, 0o644);
    tree.text(
        "index.json",
        serde_json::to_vec(&index).context("encode the index")?,
        0o644,
    );
    tree.text(&config_blob.path(), config, 0o644)
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

    #[test]
    fn a_reference_without_a_tag_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(image(dir.path(), "localhost:5000/test").is_err());
    }
}
