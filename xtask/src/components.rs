//! Upstream programs, linked from their Go modules with pinned checksums.
//!
//! Flow: render `go.mod.in` with `versions.toml` -> take the checksums in
//! `locks/<module>-<version>.sum`, or write them when this version is new ->
//! build into the cache. The rendered `go.mod` names one release; everything
//! below it follows from that release's own requirements, so the checksums pin
//! the whole build. A build that needs a checksum the lock lacks is refused.
//!
//! Release binaries somebody downloaded (`--components DIR`) take the place of a
//! component when all its programs are there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::cache::{self, Cache, KeyBuilder};
use crate::progress;
use crate::recipe::{self, CSource, Program, Recipe};
use crate::versions::Versions;

const FORMAT: u32 = 1;
const WORKERS: usize = 2;

/// A built component: `<dir>/bin/` holds its programs and links to them.
#[derive(Clone, Debug)]
pub struct Component {
    /// Version without `v`; `local` for downloaded binaries.
    pub version: String,
    /// Its directory in the cache.
    pub dir: PathBuf,
}

impl Component {
    /// Directory with the programs.
    pub fn bin(&self) -> PathBuf {
        self.dir.join("bin")
    }
}

/// All components by name.
pub type Components = BTreeMap<String, Component>;

/// One build of all components.
struct Build<'a> {
    root: &'a Path,
    cache: &'a Cache,
    versions: Versions,
    recipes: BTreeMap<String, Recipe>,
    go: OnceLock<String>,
}

/// Builds every component but those on request, or the `only` ones.
///
/// # Errors
/// When a recipe is wrong, a tool or library is missing, or a build fails.
pub fn build(
    root: &Path,
    cache: &Cache,
    downloaded: Option<&Path>,
    only: &[String],
) -> Result<Components> {
    let recipes = recipe::read(root)?;
    for name in only {
        ensure!(
            recipes.contains_key(name),
            "no component {name}; there are {:?}",
            recipes.keys()
        );
    }
    let build = Build {
        root,
        cache,
        versions: Versions::read(root)?,
        recipes,
        go: OnceLock::new(),
    };
    build.all(downloaded, only)
}

impl Build<'_> {
    /// Builds modules side by side, so that one's downloads and linking fill the
    /// pauses of another. Components of one module follow each other, since they
    /// share what is compiled.
    fn all(&self, downloaded: Option<&Path>, only: &[String]) -> Result<Components> {
        let mut modules: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, recipe) in &self.recipes {
            let wanted = only.contains(name) || only.is_empty() && !recipe.on_request;
            if wanted {
                modules.entry(&recipe.module).or_default().push(name);
            }
        }
        let mut queue: Vec<Vec<&str>> = modules.into_values().collect();
        queue.sort_by_key(Vec::len); // taken from the end: the largest first
        let queue = Mutex::new(queue);
        let failed = AtomicBool::new(false);
        let next = || queue.lock().ok().and_then(|mut queue| queue.pop());
        let work = || {
            let mut built = Components::new();
            while let Some(names) = next().filter(|_| !failed.load(Ordering::Relaxed)) {
                for name in names {
                    let component = self.one(name, downloaded);
                    if let Err(error) = &component {
                        failed.store(true, Ordering::Relaxed);
                        progress::line(name, &format!("failed: {}", first_line(error)));
                    }
                    built.insert(name.to_owned(), component?);
                }
            }
            Ok(built)
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
            let mut components = Components::new();
            for worker in workers {
                let built: Result<Components> =
                    worker.join().map_err(|_| anyhow!("a builder panicked"))?;
                components.extend(built?);
            }
            Ok(components)
        })
    }

    fn one(&self, name: &str, downloaded: Option<&Path>) -> Result<Component> {
        let recipe = &self.recipes[name];
        let given = downloaded.map(|dir| self.take(name, recipe, dir));
        match given.transpose()?.flatten() {
            Some(component) => Ok(component),
            None => self.link(name, recipe),
        }
    }

    /// Asked only when something is to be built, so that a machine with all
    /// release binaries needs no Go.
    fn go_version(&self) -> Result<&str> {
        if self.go.get().is_none() {
            let version = progress::output(
                Command::new("go")
                    .args(["env", "GOVERSION"])
                    .env("GOTOOLCHAIN", "local"),
            )?;
            return Ok(self.go.get_or_init(|| version.trim().to_owned()));
        }
        self.go
            .get()
            .map(String::as_str)
            .context("the version of Go is not known")
    }

    fn module_dir(&self, recipe: &Recipe) -> PathBuf {
        self.root.join("upstream").join(&recipe.module)
    }

    fn lock(&self, recipe: &Recipe) -> Result<PathBuf> {
        let version = self.versions.get(&recipe.module)?;
        Ok(self
            .root
            .join("upstream/locks")
            .join(format!("{}-{version}.sum", recipe.module)))
    }

    /// Copies downloaded release binaries into the cache, by content.
    fn take(&self, name: &str, recipe: &Recipe, dir: &Path) -> Result<Option<Component>> {
        let files: Vec<&str> = recipe
            .programs
            .iter()
            .flat_map(Program::released_as)
            .collect();
        let found = files.iter().filter(|file| dir.join(file).is_file()).count();
        if found == 0 {
            return Ok(None);
        }
        ensure!(
            found == files.len(),
            "{} has some programs of {name}, but all are needed: {}",
            dir.display(),
            files.join(", ")
        );
        let mut key = KeyBuilder::new("downloaded component", FORMAT);
        for file in &files {
            key.path(dir, &dir.join(file))?;
        }
        let entry = self.cache.entry("components", name, key.finish(), |work| {
            progress::line(name, &format!("taken from {}", dir.display()));
            let bin = work.join("bin");
            fs::create_dir(&bin).context("make bin/")?;
            for file in &files {
                fs::copy(dir.join(file), bin.join(file)).with_context(|| format!("copy {file}"))?;
                fs::set_permissions(bin.join(file), fs::Permissions::from_mode(0o755))
                    .context("set the mode")?;
            }
            Ok(())
        })?;
        Ok(Some(Component {
            version: "local".into(),
            dir: entry,
        }))
    }

    fn link(&self, name: &str, recipe: &Recipe) -> Result<Component> {
        let lock = self.lock(recipe)?;
        if !lock.is_file() {
            self.write_lock(recipe, &lock)?;
        }
        let mut key = KeyBuilder::new("component", FORMAT);
        key.text("go", self.go_version()?)
            .text("go.mod", &self.go_mod(recipe)?);
        key.bytes(
            "go.sum",
            &fs::read(&lock).with_context(|| format!("read {}", lock.display()))?,
        );
        key.text("arguments", &self.arguments(recipe)?.join("\n"))
            .text("cgo", if recipe.cgo { "1" } else { "0" });
        key.text("c", &format!("{:?}", recipe.c));
        for program in &recipe.programs {
            key.text("program", &format!("{program:?}"));
            if program.package.starts_with("./") {
                let dir = self.module_dir(recipe);
                key.path(&dir, &dir.join(&program.package))?;
            }
        }
        if recipe.cgo {
            key.text("debian", self.versions.get("debian")?);
        }
        let entry = self.cache.entry("components", name, key.finish(), |work| {
            self.compile(name, recipe, &lock, work)
        })?;
        Ok(Component {
            version: self.versions.get(&recipe.module)?.to_owned(),
            dir: entry,
        })
    }

    fn go_mod(&self, recipe: &Recipe) -> Result<String> {
        let file = self.module_dir(recipe).join("go.mod.in");
        let template =
            fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        self.versions
            .render(&template)
            .with_context(|| format!("fill in {}", file.display()))
    }

    /// Arguments of `go build` but for the packages and the place of the output.
    fn arguments(&self, recipe: &Recipe) -> Result<Vec<String>> {
        let mut flags = vec!["-s -w".to_owned()];
        if recipe.cgo {
            flags.push("-linkmode external -extldflags -static".into());
        }
        for package in &recipe.stamp {
            let version = self.versions.get(&recipe.module)?;
            let part = |part: &str| self.versions.get(&format!("{}.{part}", recipe.module));
            flags.push(format!(
                "-X {package}.gitVersion=v{version} -X {package}.gitCommit=v{version}"
            ));
            flags.push(format!(
                "-X {package}.gitMajor={} -X {package}.gitMinor={}",
                part("major")?,
                part("minor")?
            ));
            flags.push(format!(
                "-X {package}.gitTreeState=clean -X {package}.buildDate=1970-01-01T00:00:00Z"
            ));
        }
        for flag in &recipe.ldflags {
            flags.push(self.versions.render(flag)?);
        }
        let tags = format!("-tags={}", recipe.tags.join(","));
        Ok(vec![
            "-mod=mod".into(),
            "-trimpath".into(),
            "-buildvcs=false".into(),
            tags,
            format!("-ldflags={}", flags.join(" ")),
        ])
    }

    /// Lays out the module in `work/module`.
    fn lay_out(&self, recipe: &Recipe, lock: Option<&Path>, work: &Path) -> Result<PathBuf> {
        let module = work.join("module");
        fs::create_dir(&module).context("make the module's directory")?;
        fs::write(module.join("go.mod"), self.go_mod(recipe)?).context("write go.mod")?;
        if let Some(lock) = lock {
            fs::copy(lock, module.join("go.sum")).context("copy the lock to go.sum")?;
        }
        self.lay_out_packages(recipe, &module)?;
        Ok(module)
    }

    fn lay_out_packages(&self, recipe: &Recipe, module: &Path) -> Result<()> {
        for package in recipe
            .programs
            .iter()
            .filter_map(|p| p.package.strip_prefix("./"))
        {
            fs::create_dir_all(module.join(package)).context("make the package's directory")?;
            let main = self.module_dir(recipe).join(package).join("main.go");
            fs::copy(&main, module.join(package).join("main.go"))
                .with_context(|| format!("copy {}", main.display()))?;
        }
        Ok(())
    }

    fn go(&self, recipe: &Recipe, module: &Path) -> Command {
        let mut command = Command::new("go");
        command
            .current_dir(module)
            .env("CGO_ENABLED", if recipe.cgo { "1" } else { "0" });
        command
            .env("GOFLAGS", "")
            .env("GOWORK", "off")
            .env("GOTOOLCHAIN", "local")
            .env("GOOS", "linux");
        command
    }

    fn compile(&self, name: &str, recipe: &Recipe, lock: &Path, work: &Path) -> Result<()> {
        check_packages(name, &recipe.packages)?;
        let module = self.lay_out(recipe, Some(lock), work)?;
        let bin = work.join("bin");
        fs::create_dir(&bin).context("make bin/")?;
        if let Some(c) = &recipe.c {
            self.compile_c(name, recipe, c, &module, &bin)?;
            return cache::remove(&module);
        }
        let mut go = self.go(recipe, &module);
        go.arg("build")
            .args(self.arguments(recipe)?)
            .arg("-o")
            .arg(format!("{}/", bin.display()));
        go.args(recipe.programs.iter().map(|program| &program.package));
        let version = self.versions.get(&recipe.module)?;
        progress::run(
            name,
            &format!("go build {version}"),
            &mut go,
            &self.cache.log(name),
        )?;
        let used = fs::read(module.join("go.sum")).context("read go.sum after the build")?;
        if used != fs::read(lock).context("read the lock")? {
            bail!(
                "{name}: the build needs checksums that {} lacks; remove that file to have it written anew",
                lock.display()
            );
        }
        for program in &recipe.programs {
            if program.file() != program.built_as() {
                fs::rename(bin.join(program.built_as()), bin.join(program.file()))
                    .context("rename the program")?;
            }
            for link in &program.names {
                symlink(program.file(), bin.join(link)).with_context(|| format!("link {link}"))?;
            }
        }
        cache::remove(&module)
    }

    fn compile_c(
        &self,
        name: &str,
        recipe: &Recipe,
        c: &CSource,
        module: &Path,
        bin: &Path,
    ) -> Result<()> {
        let mut download = self.go(recipe, module);
        download.args(["mod", "download", "-json", &c.module]);
        let answer: serde_json::Value = serde_json::from_str(&progress::output(&mut download)?)
            .context("parse the module's place")?;
        let source = answer["Dir"]
            .as_str()
            .with_context(|| format!("module {} has no directory", c.module))?;
        let mut gcc = Command::new("gcc");
        for flag in &c.flags {
            gcc.arg(self.versions.render(flag)?);
        }
        gcc.arg("-o")
            .arg(bin.join(recipe.programs[0].file()))
            .arg(Path::new(source).join(&c.file));
        progress::run(name, "gcc", &mut gcc, &self.cache.log(name))
    }

    /// Writes the checksums of a version seen for the first time, for all
    /// components of the module, so that the lock serves each of them.
    fn write_lock(&self, recipe: &Recipe, lock: &Path) -> Result<()> {
        let name = &recipe.module;
        let work = self.cache.work(name)?;
        let all: Vec<&Recipe> = self
            .recipes
            .values()
            .filter(|other| other.module == *name && other.c.is_none())
            .collect();
        let module = self.lay_out(recipe, None, &work)?;
        for other in &all {
            self.lay_out_packages(other, &module)?;
        }
        let mut go = self.go(recipe, &module);
        go.args([
            "list",
            "-mod=mod",
            "-deps",
            "-f",
            "{{\"\"}}",
            &format!("-tags={}", recipe.tags.join(",")),
        ]);
        go.args(
            all.iter()
                .flat_map(|r| &r.programs)
                .map(|program| &program.package),
        );
        progress::run(
            name,
            "resolving a new version",
            &mut go,
            &self.cache.log(name),
        )?;
        fs::create_dir_all(self.root.join("upstream/locks")).context("make upstream/locks")?;
        fs::copy(module.join("go.sum"), lock)
            .with_context(|| format!("write {}", lock.display()))?;
        progress::line(name, &format!("wrote {}; commit it", lock.display()));
        cache::remove(&work)
    }
}

fn first_line(error: &anyhow::Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn check_packages(name: &str, packages: &[String]) -> Result<()> {
    for package in packages {
        let found = Command::new("dpkg").args(["--status", package]).output();
        if found.is_ok_and(|output| !output.status.success()) {
            bail!(
                "{name} needs the Debian package {package}: apt-get install {package}, or cargo xtask deps"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_has_a_version_and_a_template_that_renders() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let versions = Versions::read(root).unwrap();
        let recipes = recipe::read(root).unwrap();
        for recipe in recipes.values() {
            let template =
                fs::read_to_string(root.join("upstream").join(&recipe.module).join("go.mod.in"))
                    .unwrap();
            let text = versions.render(&template).unwrap();
            assert!(
                text.contains(&format!("v{}", versions.get(&recipe.module).unwrap())),
                "{text}"
            );
        }
    }
}
