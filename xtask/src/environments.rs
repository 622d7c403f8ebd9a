//! Images of the function platform: its program, and a runtime and a builder per language.
//!
//! A language is a folder `environments/<name>` with `environment.json`; nothing here knows
//! one. Its runtime is the shared Debian base, the language's packages and its own files in
//! `/opt/environment`; its builder has further packages and the language's `build` as a command.
//! Our program, which runs that for the platform, is brought to builders by the platform.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;

use crate::cache::Cache;
use crate::images::{BIN, NONROOT, PASSWD};
use crate::oci::Config;
use crate::registry::{Image, Layer};
use crate::roots::Debian;
use crate::tree::Tree;
use crate::versions::Versions;

/// Languages at a time: one installs while another downloads.
const WORKERS: usize = 2;
/// Where the files of an environment are.
const PLACE: &str = "opt/environment";
const PROGRAM: &str = "farplane-functions";

/// `environment.json`, as far as images go.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Environment {
    /// Of the language, and of the folder.
    name: String,
    /// Of the contract that it keeps.
    version: u32,
    /// Debian packages.
    packages: Vec<String>,
    /// Further ones of the builder; without them there is none.
    #[serde(default)]
    builder_packages: Option<Vec<String>>,
    /// What is started.
    command: Vec<String>,
    /// Files and directories of the folder.
    files: Vec<PathBuf>,
}

impl Environment {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("environment.json");
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let environment: Self =
            serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?;
        ensure!(
            folder
                .file_name()
                .is_some_and(|name| name == environment.name.as_str()),
            "{} is of {}, not of its folder",
            path.display(),
            environment.name
        );
        for file in &environment.files {
            let is_plain = file
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            ensure!(is_plain, "{} names {}", path.display(), file.display());
        }
        let has_build = environment.files.iter().any(|it| it == Path::new("build"));
        ensure!(
            environment.builder_packages.is_none() || has_build,
            "{} has builderPackages, but no file build for its builder to run",
            path.display()
        );
        Ok(environment)
    }

    fn tree(&self, folder: &Path) -> Result<Tree> {
        let mut tree = Tree::default();
        for file in &self.files {
            let source = folder.join(file);
            let place = Path::new(PLACE).join(file);
            let place = place.to_string_lossy();
            if source.is_dir() {
                tree.directory(&place, &source)?;
            } else {
                let mode = crate::cache::mode(&source)?;
                let mode = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
                tree.file(&place, source, mode);
            }
        }
        Ok(tree)
    }
}

/// A language that is installed, as layers of its images.
struct Language {
    environment: Environment,
    runtime: Vec<Layer>,
    builder: Option<Vec<Layer>>,
    files: Layer,
}

/// Every language, by name.
pub struct Languages(BTreeMap<String, Language>);

/// Installs the packages of every language. Takes none of our programs, so it can go on while
/// they are built.
///
/// # Errors
/// When an environment is described wrongly or a root cannot be made.
pub fn install(root: &Path, cache: &Cache) -> Result<Languages> {
    let versions = Versions::read(root)?;
    let debian = Debian::new(cache, versions.get("debian")?);
    let queue = Mutex::new(folders(&root.join("environments"))?);
    let next = || queue.lock().ok().and_then(|mut queue| queue.pop());
    let base = debian.base()?;
    let work = || {
        let mut made = BTreeMap::new();
        while let Some(folder) = next() {
            let language = Language::install(cache, &debian, &base, &folder)
                .with_context(|| format!("install what {} asks for", folder.display()))?;
            made.insert(language.environment.name.clone(), language);
        }
        Ok(made)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        let mut all = BTreeMap::new();
        for worker in workers {
            let made: Result<BTreeMap<_, _>> = worker
                .join()
                .map_err(|_| anyhow!("a worker of the images panicked"))?;
            all.extend(made?);
        }
        Ok(Languages(all))
    })
}

/// Images of our program and of every language.
///
/// # Errors
/// When a program is missing or the cache cannot be written.
pub fn images(cache: &Cache, binaries: &Path, languages: &Languages) -> Result<Vec<Image>> {
    let (mut program, mut users, mut build) = (Tree::default(), Tree::default(), Tree::default());
    program.file(&format!("{BIN}/{PROGRAM}"), binaries.join(PROGRAM), 0o755);
    users.text("etc/passwd", PASSWD, 0o644);
    // What builders run unless an Environment says another command.
    build.link(&format!("{BIN}/build"), &format!("/{PLACE}/build"));
    let program = Layer::of_tree(cache, PROGRAM, &program)?;
    let users = Layer::of_tree(cache, "users", &users)?;
    let build = Layer::of_tree(cache, "build", &build)?;

    let start = [format!("/{BIN}/{PROGRAM}")];
    let layers = [users, program];
    let mut images = vec![Image::new(
        cache,
        "functions",
        "",
        &config(&start),
        &layers,
    )?];
    for (name, language) in &languages.0 {
        let version = language.environment.version.to_string();
        let mut layers = language.runtime.clone();
        layers.push(language.files.clone());
        images.push(Image::new(
            cache,
            &format!("{name}-env"),
            &version,
            &config(&language.environment.command),
            &layers,
        )?);
        if let Some(mut layers) = language.builder.clone() {
            layers.extend([build.clone(), language.files.clone()]);
            images.push(Image::new(
                cache,
                &format!("{name}-builder"),
                &version,
                &config(&[format!("/{BIN}/build")]),
                &layers,
            )?);
        }
    }
    Ok(images)
}

/// Folders of languages, sorted.
fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut folders = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry
            .with_context(|| format!("list {}", dir.display()))?
            .path();
        if path.join("environment.json").is_file() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

impl Language {
    fn install(cache: &Cache, debian: &Debian<'_>, base: &Layer, folder: &Path) -> Result<Self> {
        let environment = Environment::read(folder)?;
        let name = &environment.name;
        let add = |name: String, below: &[Layer], packages: &[String]| {
            let mut layers = below.to_vec();
            if !packages.is_empty() {
                layers.push(debian.add(&name, below, packages)?);
            }
            anyhow::Ok(layers)
        };
        let below = std::slice::from_ref(base);
        let runtime = add(format!("{name}-env"), below, &environment.packages)?;
        let builder = environment.builder_packages.as_ref();
        let builder = builder.map(|packages| add(format!("{name}-builder"), &runtime, packages));
        Ok(Self {
            builder: builder.transpose()?,
            runtime,
            files: Layer::of_tree(cache, name, &environment.tree(folder)?)?,
            environment,
        })
    }
}

fn config(command: &[String]) -> Config {
    Config {
        entrypoint: command.to_vec(),
        user: NONROOT.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_environment_can_be_read_and_has_its_files() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let folders = folders(&root.join("environments")).unwrap();
        assert!(!folders.is_empty());
        for folder in folders {
            let environment = Environment::read(&folder).unwrap();
            for file in &environment.files {
                assert!(folder.join(file).exists(), "{} {file:?}", folder.display());
            }
            assert!(!environment.command.is_empty(), "{}", folder.display());
        }
    }

    #[test]
    fn wrong_descriptions_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("odd");
        fs::create_dir(&folder).unwrap();
        let read = |name: &str, file: &str| {
            let text = serde_json::json!({ "name": name, "version": 3, "packages": [],
                "command": ["/x"], "files": [file] });
            fs::write(folder.join("environment.json"), text.to_string()).unwrap();
            Environment::read(&folder)
        };
        assert!(read("odd", "server").is_ok());
        assert!(read("odd", "../secret").is_err());
        assert!(read("odd", "/etc/passwd").is_err());
        assert!(read("other", "server").is_err());
        let text = fs::read_to_string(folder.join("environment.json")).unwrap();
        let text = text.replace("\"other\"", "\"odd\"");
        let builder = text.replacen('{', "{\"builderPackages\":[],", 1);
        fs::write(folder.join("environment.json"), &builder).unwrap();
        assert!(Environment::read(&folder).is_err(), "{builder}");
        let whole = builder.replace("\"server\"", "\"build\"");
        fs::write(folder.join("environment.json"), &whole).unwrap();
        assert!(Environment::read(&folder).is_ok(), "{whole}");
    }
}
