//! Images that nodes pull when they need them: `dist/registry`, a folder in OCI layout.
//!
//! Layers are compressed, and each is a cache entry of its own, so that images share what
//! they have in common. Nothing of this is imported anywhere: the artifact server serves the
//! folder as it is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ring::digest::{Context as Hash, SHA256};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cache::{Cache, Key, KeyBuilder};
use crate::dist;
use crate::oci::{self, Blob, Config};
use crate::progress;
use crate::tree::Tree;

const FORMAT: u32 = 1;
/// Layers are compressed once and pulled many times.
const ZSTD_LEVEL: i32 = 9;

/// A layer in the cache.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Digest of what it unpacks to.
    diff_id: String,
    /// The compressed file.
    blob: Blob,
    /// Where it is.
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Facts {
    diff_id: String,
    digest: String,
    size: u64,
}

impl Layer {
    /// A layer of these files.
    ///
    /// # Errors
    /// When a file cannot be read or the cache cannot be written.
    pub fn of_tree(cache: &Cache, name: &str, tree: &Tree) -> Result<Self> {
        let mut key = KeyBuilder::new("layer", FORMAT);
        tree.hash(&mut key, cache.root())?;
        Self::make(cache, name, key.finish(), |_, output| tree.write(output))
    }

    /// The layer with this key. `write` gets an empty directory and writes a tar stream when
    /// it is absent.
    ///
    /// # Errors
    /// What `write` gives, or when the cache cannot be written.
    pub fn make(
        cache: &Cache,
        name: &str,
        key: Key,
        write: impl FnOnce(&Path, &mut dyn Write) -> Result<()>,
    ) -> Result<Self> {
        let entry = cache.entry("layers", name, key, |work| {
            let file = File::create(work.join("layer.tar.zst")).context("make the layer")?;
            let file = BufWriter::with_capacity(1 << 16, file);
            let encoder = zstd::Encoder::new(file, ZSTD_LEVEL).context("start compression")?;
            let mut output = Hashing {
                hash: Hash::new(&SHA256),
                inner: encoder,
            };
            write(work, &mut output)?;
            let diff_id = format!("sha256:{}", hex::encode(output.hash.finish()));
            let file = output.inner.finish().context("end compression")?;
            file.into_inner().context("write the layer")?;
            let Blob { digest, size } = Blob::of_file(&work.join("layer.tar.zst"))?;
            progress::line(name, &format!("layer of {:.1} MB", size as f64 / 1e6));
            let facts = Facts {
                diff_id,
                digest,
                size,
            };
            let text = serde_json::to_vec(&facts).context("encode layer.json")?;
            fs::write(work.join("layer.json"), text).context("write layer.json")
        })?;
        let text = fs::read(entry.join("layer.json")).context("read layer.json")?;
        let facts: Facts = serde_json::from_slice(&text).context("parse layer.json")?;
        Ok(Self {
            diff_id: facts.diff_id,
            blob: Blob {
                digest: facts.digest,
                size: facts.size,
            },
            path: entry.join("layer.tar.zst"),
        })
    }

    /// Names the contents, for keys of what is made from them.
    pub fn digest(&self) -> &str {
        &self.diff_id
    }

    /// The tar stream.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(&self) -> Result<impl io::Read + use<>> {
        let file =
            File::open(&self.path).with_context(|| format!("open {}", self.path.display()))?;
        zstd::Decoder::new(file).context("start decompression")
    }
}

/// Hashes what goes through.
struct Hashing<W> {
    hash: Hash,
    inner: W,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// An image to be pulled.
pub struct Image {
    name: String,
    reference: String,
    manifest: Blob,
    blobs: BTreeMap<String, PathBuf>,
}

impl Image {
    /// An image of these layers, lowest first, named after what is in it.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub fn new(
        cache: &Cache,
        name: &str,
        version: &str,
        config: &Config,
        layers: &[Layer],
    ) -> Result<Self> {
        let listed: Vec<_> = layers
            .iter()
            .map(|layer| {
                let descriptor = layer.blob.descriptor(oci::LAYER_ZSTD);
                (layer.diff_id.clone(), descriptor)
            })
            .collect();
        let described = oci::describe(config, &listed)?;
        let manifest = Blob::of_bytes(&described.manifest);
        let config = Blob::of_bytes(&described.config);
        let mut key = KeyBuilder::new("pulled image", FORMAT);
        key.bytes("manifest", &described.manifest);
        let entry = cache.entry("pulled", name, key.finish(), |work| {
            fs::write(work.join("manifest.json"), &described.manifest)
                .context("write the manifest")?;
            fs::write(work.join("config.json"), &described.config)
                .context("write the configuration")
        })?;
        let tag = match version {
            "" => manifest.hex()[..8].to_owned(),
            version => format!("v{version}-{}", &manifest.hex()[..8]),
        };
        let mut blobs: BTreeMap<String, PathBuf> = layers
            .iter()
            .map(|layer| (layer.blob.hex().to_owned(), layer.path.clone()))
            .collect();
        blobs.insert(manifest.hex().to_owned(), entry.join("manifest.json"));
        blobs.insert(config.hex().to_owned(), entry.join("config.json"));
        Ok(Self {
            name: name.to_owned(),
            reference: format!("farplane.io/{name}:{tag}"),
            manifest,
            blobs,
        })
    }
}

/// Makes `dir` hold exactly these images.
///
/// Beside the layout's own `index.json` there is `images.json`, with references by name, as
/// in `dist/images`.
///
/// # Errors
/// When it cannot be written.
pub fn lay_out(dir: &Path, images: &[Image]) -> Result<()> {
    let blobs = images.iter().flat_map(|image| image.blobs.clone());
    dist::fill(&dir.join("blobs/sha256"), blobs.collect(), None)?;
    let named: BTreeMap<&str, _> = images
        .iter()
        .map(|image| {
            let entry = json!({ "ref": image.reference, "digest": image.manifest.digest });
            (image.name.as_str(), entry)
        })
        .collect();
    let named = serde_json::to_vec_pretty(&named).context("encode the list of images")?;
    let all = images.iter();
    let index = oci::index(all.map(|image| (image.reference.as_str(), &image.manifest)))?;
    for (name, content) in [
        ("oci-layout", oci::LAYOUT.as_bytes()),
        ("images.json", &named),
        ("index.json", &index),
    ] {
        let path = dir.join(name);
        if fs::read(&path).is_ok_and(|present| present == content) {
            continue;
        }
        let fresh = dir.join(format!(".{name}.new"));
        fs::write(&fresh, content).with_context(|| format!("write {}", fresh.display()))?;
        fs::rename(&fresh, &path).with_context(|| format!("replace {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::io::Read as _;

    fn layer(cache: &Cache, path: &str, content: &str) -> Layer {
        let mut tree = Tree::default();
        tree.text(path, content, 0o644);
        Layer::of_tree(cache, path, &tree).unwrap()
    }

    fn image(cache: &Cache, name: &str, version: &str, layers: &[Layer]) -> Image {
        let config = Config {
            entrypoint: vec!["/x".into()],
            user: "65532:65532".into(),
        };
        Image::new(cache, name, version, &config, layers).unwrap()
    }

    fn blobs(dir: &Path) -> BTreeSet<String> {
        fs::read_dir(dir.join("blobs/sha256"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn json(path: &Path) -> serde_json::Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn images_share_layers_and_every_blob_is_named_by_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache")).unwrap();
        let out = dir.path().join("registry");
        let base = layer(&cache, "base", "shared");
        let one = image(&cache, "one", "3", &[base.clone(), layer(&cache, "a", "1")]);
        let two = image(&cache, "two", "", std::slice::from_ref(&base));
        assert!(one.reference.starts_with("farplane.io/one:v3-"));
        lay_out(&out, &[one, two]).unwrap();
        // Two layers, and of each image a manifest and a configuration.
        assert_eq!(blobs(&out).len(), 6);
        for name in blobs(&out) {
            let content = fs::read(out.join("blobs/sha256").join(&name)).unwrap();
            assert_eq!(Blob::of_bytes(&content).hex(), name);
        }
        let (index, names) = (
            json(&out.join("index.json")),
            json(&out.join("images.json")),
        );
        let entries = index["manifests"].as_array().unwrap();
        for (entry, name) in entries.iter().zip(["one", "two"]) {
            let reference = &entry["annotations"]["io.containerd.image.name"];
            assert_eq!(
                (&names[name]["ref"], &names[name]["digest"]),
                (reference, &entry["digest"])
            );
        }

        let alone = image(&cache, "two", "", std::slice::from_ref(&base));
        lay_out(&out, &[alone]).unwrap();
        assert_eq!(blobs(&out).len(), 3);
        assert!(json(&out.join("images.json")).get("one").is_none());
    }

    #[test]
    fn a_layer_says_what_it_unpacks_to() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned()).unwrap();
        let layer = layer(&cache, "a", "content");
        let mut tar = Vec::new();
        layer.open().unwrap().read_to_end(&mut tar).unwrap();
        assert_eq!(Blob::of_bytes(&tar).digest, layer.digest());
        assert_eq!(Blob::of_file(&layer.path).unwrap(), layer.blob);
        let described = image(&cache, "i", "", std::slice::from_ref(&layer));
        let manifest = json(&described.blobs[described.manifest.hex()]);
        assert_eq!(manifest["layers"][0]["digest"], layer.blob.digest);
        assert_eq!(manifest["layers"][0]["mediaType"], oci::LAYER_ZSTD);
        let config = manifest["config"]["digest"].as_str().unwrap();
        let config = json(&described.blobs[config.trim_start_matches("sha256:")]);
        assert_eq!(config["rootfs"]["diff_ids"][0], layer.digest());
    }

    #[test]
    fn an_image_is_named_by_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned()).unwrap();
        let of = |content| image(&cache, "i", "1", &[layer(&cache, "a", content)]).reference;
        assert_eq!(of("x"), of("x"));
        assert_ne!(of("x"), of("y"));
    }
}
