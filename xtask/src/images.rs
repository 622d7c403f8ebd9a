//! Container images: what is in each, and when it has to be made again.
//!
//! An image is named after what is in it (`farplane.io/<name>:<version>-<key>`),
//! so a reference never means two things and nothing is ever pulled. Control
//! plane images hold static programs and no operating system. The root of the lab
//! host is a layer of its own, so that a changed agent makes a thin layer only.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, KeyBuilder};
use crate::components::Components;
use crate::oci::{self, Config};
use crate::progress;
use crate::tree::Tree;
use crate::versions::Versions;

const FORMAT: u32 = 2;
/// Where programs are.
pub const BIN: &str = "usr/local/bin";
/// User and group of what needs no rights.
pub const NONROOT: &str = "65532:65532";
/// Users of images without an operating system.
pub const PASSWD: &str =
    "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n";

/// What a lab host has beside the agent: what people find on a Debian server.
const LAB_PACKAGES: &[&str] = &[
    "ca-certificates",
    "conntrack",
    "iproute2",
    "iptables",
    "kmod",
    "mount",
    "nftables",
    "procps",
    "tini",
    "util-linux",
];

/// Left out of the lab host's root.
const LAB_WITHOUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
];

/// One image as `dist/images/index.json` lists it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Image {
    /// Full reference.
    #[serde(rename = "ref")]
    pub reference: String,
    /// File name of the archive.
    pub file: String,
    /// Digest of the manifest.
    pub digest: String,
    /// Where the archive is in the cache.
    #[serde(skip)]
    pub archive: PathBuf,
}

/// All images by name.
pub type Images = BTreeMap<String, Image>;

/// What goes into one image.
struct Recipe {
    name: &'static str,
    version: String,
    base: Option<PathBuf>,
    layers: Vec<Tree>,
    config: Config,
}

impl Recipe {
    fn new(name: &'static str, entrypoint: &[&str], user: &str) -> Self {
        let entrypoint = entrypoint.iter().map(|&word| word.to_owned()).collect();
        let config = Config {
            entrypoint,
            user: user.to_owned(),
        };
        Self {
            name,
            version: String::new(),
            base: None,
            layers: vec![Tree::default()],
            config,
        }
    }

    /// The topmost layer.
    fn tree(&mut self) -> &mut Tree {
        let top = self.layers.len() - 1; // `new` makes one
        &mut self.layers[top]
    }

    /// An image of one upstream component.
    fn upstream(components: &Components, name: &'static str, entrypoint: &[&str]) -> Result<Self> {
        let component = components
            .get(name)
            .with_context(|| format!("component {name} was not built"))?;
        let mut recipe = Self::new(name, entrypoint, NONROOT);
        recipe.version.clone_from(&component.version);
        recipe.tree().programs(BIN, &component.bin())?;
        recipe.tree().text("etc/passwd", PASSWD, 0o644);
        Ok(recipe)
    }

    /// An image of one of our own programs.
    fn own(binaries: &Path, name: &'static str, program: &str) -> Self {
        let mut recipe = Self::new(name, &[&format!("/{BIN}/{program}")], NONROOT);
        recipe
            .tree()
            .file(&format!("{BIN}/{program}"), binaries.join(program), 0o755);
        recipe.tree().text("etc/passwd", PASSWD, 0o644);
        recipe
    }

    fn build(self, cache: &Cache) -> Result<(String, Image)> {
        let mut key = KeyBuilder::new("image", FORMAT);
        key.text("name", self.name)
            .text("version", &self.version)
            .text("config", &format!("{:?}", self.config));
        if let Some(base) = &self.base {
            let place = base.strip_prefix(cache.root()).unwrap_or(base);
            key.text("base", &place.to_string_lossy());
        }
        for layer in &self.layers {
            layer.hash(&mut key, cache.root())?;
            key.text("end of layer", "");
        }
        let key = key.finish();
        let tag = match self.version.as_str() {
            "" => key.short().to_owned(),
            "local" => format!("local-{}", key.short()),
            version => format!("v{version}-{}", key.short()),
        };
        let reference = format!("farplane.io/{}:{tag}", self.name);
        let entry = cache.entry("images", self.name, key, |work| {
            self.write(&reference, work)
        })?;
        let text = fs::read(entry.join("image.json")).context("read image.json")?;
        let image: Image = serde_json::from_slice(&text).context("parse image.json")?;
        let archive = entry.join("image.tar");
        Ok((self.name.to_owned(), Image { archive, ..image }))
    }

    fn write(&self, reference: &str, work: &Path) -> Result<()> {
        progress::line(self.name, "writing the image");
        let mut layers: Vec<PathBuf> = self.base.iter().cloned().collect();
        for (number, tree) in self.layers.iter().enumerate() {
            let layer = work.join(format!("layer-{number}.tar"));
            let file = File::create(&layer).with_context(|| format!("make {}", layer.display()))?;
            tree.write(BufWriter::with_capacity(1 << 16, file))?;
            layers.push(layer);
        }
        let manifest = oci::write_image(&work.join("image.tar"), reference, &self.config, &layers)?;
        for layer in layers.iter().filter(|layer| layer.starts_with(work)) {
            fs::remove_file(layer).context("remove a layer")?;
        }
        let image = Image {
            reference: reference.to_owned(),
            file: format!("{}.tar", self.name),
            digest: manifest.digest,
            archive: PathBuf::new(),
        };
        fs::write(
            work.join("image.json"),
            serde_json::to_vec(&image).context("encode image.json")?,
        )
        .context("write image.json")
    }
}

/// Builds every image but that of the artifact server.
///
/// # Errors
/// When a source is missing or a tool fails.
pub fn build(
    root: &Path,
    cache: &Cache,
    components: &Components,
    binaries: &Path,
) -> Result<Images> {
    let mut pause = Recipe::new("pause", &["/pause"], "65535:65535");
    let component = components
        .get("pause")
        .context("component pause was not built")?;
    pause.tree().programs("", &component.bin())?;

    let mut lab = Recipe::new(
        "lab-host",
        &["/usr/bin/tini", "--", "/usr/local/bin/lab-init"],
        "",
    );
    lab.base = Some(debian(root, cache)?);
    lab.tree().file(
        &format!("{BIN}/farplane-agent"),
        binaries.join("farplane-agent"),
        0o755,
    );
    lab.tree().file(
        &format!("{BIN}/lab-init"),
        root.join("images/lab-host/lab-init"),
        0o755,
    );

    [
        Recipe::upstream(components, "kubernetes-server", &[])?,
        Recipe::upstream(components, "etcd", &["/usr/local/bin/etcd"])?,
        Recipe::upstream(components, "coredns", &["/usr/local/bin/coredns"])?,
        pause,
        Recipe::own(binaries, "hub", "farplane-hub"),
        Recipe::own(binaries, "test-server", "farplane-test-server"),
        lab,
    ]
    .into_iter()
    .map(|recipe| recipe.build(cache))
    .collect()
}

/// Builds the image of the artifact server: the hub's program and what hosts
/// download from it.
///
/// # Errors
/// As [`build`].
pub fn artifact_server(
    cache: &Cache,
    binaries: &Path,
    files: &[(String, PathBuf)],
    index: &[u8],
) -> Result<(String, Image)> {
    let mut lower = Tree::default();
    lower.text("artifacts/index.json", index, 0o644);
    for (name, path) in files {
        lower.file(&format!("artifacts/{name}"), path.clone(), 0o644);
    }
    let mut recipe = Recipe::own(binaries, "artifacts", "farplane-hub");
    // Below the program, which changes more often.
    recipe.layers.insert(0, lower);
    recipe.build(cache)
}

/// The lab host's root as a layer.
fn debian(root: &Path, cache: &Cache) -> Result<PathBuf> {
    let versions = Versions::read(root)?;
    let suite = versions.get("debian")?;
    let mut key = KeyBuilder::new("debian", FORMAT);
    key.text("suite", suite)
        .text("packages", &LAB_PACKAGES.join(" "))
        .text("without", &LAB_WITHOUT.join(" "));
    let name = format!("debian-{suite}");
    let entry = cache.entry("roots", &name, key.finish(), |work| {
        let mut command = Command::new("mmdebstrap");
        command.args(["--variant=minbase", "--format=tar", "--skip=output/dev"]);
        command.arg(format!("--include={}", LAB_PACKAGES.join(",")));
        for pattern in LAB_WITHOUT {
            command.arg(format!("--dpkgopt=path-exclude={pattern}"));
        }
        command.arg("--customize-hook=rm -rf \"$1\"/var/lib/apt/lists/* \"$1\"/var/cache/* \"$1\"/var/log/* \"$1\"/etc/machine-id");
        command.arg(suite).arg(work.join("root.tar")).env("SOURCE_DATE_EPOCH", "0");
        progress::run(&name, "mmdebstrap", &mut command, &cache.log(&name))
    })?;
    Ok(entry.join("root.tar"))
}
