//! Debian roots as layers: one base that images share, and what packages add to it.
//!
//! A root is made in a directory: the layers below are unpacked, `mmdebstrap` installs on top,
//! and what is new, changed or gone since becomes the next layer. Times of files are kept, as
//! compiled Python names those of its source.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::Write;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use walkdir::WalkDir;

use crate::cache::{self, Cache, KeyBuilder};
use crate::progress;
use crate::registry::Layer;

const FORMAT: u32 = 1;
/// What any program may need: roots of trust, names of protocols, time zones.
const BASE: &[&str] = &["ca-certificates", "netbase", "tzdata"];
/// Never unpacked.
const WITHOUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];
/// Directories whose contents are of the machine that installed, or can be had again.
const EMPTIED: &[&str] = &[
    "dev",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/cache",
    LISTS,
    "var/log",
];
/// Where lists of packages are.
const LISTS: &str = "var/lib/apt/lists";
/// Left by installing.
const LEFT_OUT: &[&str] = &[
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/triggers/Lock",
];
/// Before and after installing. A root that a power cut leaves half made is made anew, so
/// nothing has to reach the disk. Some packages fail where there is no directory for the
/// manual page that they would link to.
const AROUND: [&str; 2] = [
    r#"mkdir -p "$1/etc/dpkg/dpkg.cfg.d" "$1/usr/share/man/man1"
echo force-unsafe-io > "$1/etc/dpkg/dpkg.cfg.d/haste""#,
    r#"rm "$1/etc/dpkg/dpkg.cfg.d/haste"
find "$1/usr/share/man" -mindepth 1 -delete"#,
];
/// A root whose directories are merged from the start needs no program to merge them, and
/// that program would bring all of Perl.
const MERGED: &str = r#"for dir in bin sbin lib lib64; do mkdir -p "$1/usr/$dir"; ln -s "usr/$dir" "$1/$dir"; done
mkdir -p "$1/etc/apt/preferences.d"
printf 'Package: usrmerge\nPin: release *\nPin-Priority: -1\n' > "$1/etc/apt/preferences.d/merged""#;
/// Languages look up who they run as.
const USERS: &str = r#"rm "$1/etc/apt/preferences.d/merged"
echo nonroot:x:65532:65532:nonroot:/tmp:/usr/sbin/nologin >> "$1/etc/passwd"
echo nonroot:x:65532: >> "$1/etc/group""#;
/// Before the name of a file that a layer takes away.
const WHITEOUT: &str = ".wh.";

/// Brings the lists of packages that were fetched before.
const WITH_LISTS: &str = r#"cp -a "$LISTS/." "$1/var/lib/apt/lists/""#;

/// Makes roots of one suite.
pub struct Debian<'a> {
    cache: &'a Cache,
    suite: &'a str,
    lists: Mutex<Option<PathBuf>>,
}

impl<'a> Debian<'a> {
    /// Roots of this suite, whose layers are kept in `cache`.
    pub fn new(cache: &'a Cache, suite: &'a str) -> Self {
        Self {
            cache,
            suite,
            lists: Mutex::default(),
        }
    }

    /// The layer that every root begins with.
    ///
    /// # Errors
    /// When `mmdebstrap` fails.
    pub fn base(&self) -> Result<Layer> {
        let mut key = KeyBuilder::new("debian base", FORMAT);
        key.text("suite", self.suite)
            .text("packages", &BASE.join(" "))
            .text("hooks", &format!("{MERGED}{USERS}"));
        self.add_to_key(&mut key);
        Layer::make(self.cache, "debian-base", key.finish(), |work, output| {
            let root = work.join("root");
            let mut command = self.mmdebstrap("essential", BASE);
            command
                .arg(format!("--setup-hook={MERGED}"))
                .arg(format!("--customize-hook={USERS}"));
            self.install("debian-base", command, &root)?;
            write_difference(&root, &HashMap::new(), output)?;
            cache::remove(&root)
        })
    }

    /// The layer that these packages add to those below, which begin with the base.
    ///
    /// # Errors
    /// When a layer cannot be unpacked or `mmdebstrap` fails.
    pub fn add(&self, name: &str, below: &[Layer], packages: &[String]) -> Result<Layer> {
        let mut key = KeyBuilder::new("debian packages", FORMAT);
        key.text("suite", self.suite)
            .text("packages", &packages.join(" "));
        self.add_to_key(&mut key);
        for layer in below {
            key.text("below", layer.digest());
        }
        Layer::make(self.cache, name, key.finish(), |work, output| {
            let root = work.join("root");
            for layer in below {
                unpack(layer, &root)?;
            }
            let before = look(&root)?;
            let mut command = self.mmdebstrap("custom", packages);
            command
                .arg("--skip=check/empty,update")
                .arg(format!("--setup-hook={WITH_LISTS}"))
                .env("LISTS", self.lists()?);
            self.install(name, command, &root)?;
            write_difference(&root, &before, output)?;
            cache::remove(&root)
        })
    }

    /// Lists of the suite's packages, fetched once for all roots.
    fn lists(&self) -> Result<PathBuf> {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = &*lists {
            return Ok(root.join(LISTS));
        }
        let root = self.cache.work("debian-lists")?;
        let mut command = Command::new("mmdebstrap");
        command.args([
            "--mode=root",
            "--format=directory",
            "--variant=custom",
            "--skip=check/empty,cleanup/apt/lists",
        ]);
        self.install("debian-lists", command, &root)?;
        Ok(lists.insert(root).join(LISTS))
    }

    fn add_to_key(&self, key: &mut KeyBuilder) {
        key.text("without", &WITHOUT.join(" "))
            .text("emptied", &EMPTIED.join(" "))
            .text("left out", &LEFT_OUT.join(" "));
    }

    fn mmdebstrap(&self, variant: &str, packages: &[impl AsRef<str>]) -> Command {
        let packages: Vec<_> = packages.iter().map(AsRef::as_ref).collect();
        let mut command = Command::new("mmdebstrap");
        command
            .args(["--mode=root", "--format=directory"])
            .arg(format!("--variant={variant}"))
            .arg(format!("--setup-hook={}", AROUND[0]))
            .arg(format!("--customize-hook={}", AROUND[1]))
            .arg(format!("--include={}", packages.join(",")));
        for pattern in WITHOUT {
            command.arg(format!("--dpkgopt=path-exclude={pattern}"));
        }
        command
    }

    fn install(&self, name: &str, mut command: Command, root: &Path) -> Result<()> {
        command
            .arg(self.suite)
            .arg(root)
            .env("SOURCE_DATE_EPOCH", "0");
        progress::run(name, "mmdebstrap", &mut command, &self.cache.log(name))
    }
}

impl Drop for Debian<'_> {
    fn drop(&mut self) {
        let lists = self.lists.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = lists {
            // What stays is swept with the next build.
            _ = cache::remove(root);
        }
    }
}

/// Tells a file from what it was before: any change moves its time of change.
type Seen = HashMap<PathBuf, (u64, i64, i64)>;

fn stamp(metadata: &Metadata) -> (u64, i64, i64) {
    (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

/// Every path below `root`, in order.
fn paths(root: &Path) -> impl Iterator<Item = Result<(PathBuf, Metadata)>> {
    let walk = WalkDir::new(root).min_depth(1).sort_by_file_name();
    walk.into_iter().map(move |entry| {
        let entry = entry.with_context(|| format!("list {}", root.display()))?;
        let metadata = entry.metadata().context("look at a file of a root")?;
        let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
        Ok((path.to_owned(), metadata))
    })
}

fn look(root: &Path) -> Result<Seen> {
    paths(root)
        .map(|found| found.map(|(path, metadata)| (path, stamp(&metadata))))
        .collect()
}

fn is_kept(path: &Path) -> bool {
    let inside = |dir: &&str| path.starts_with(dir) && path != Path::new(dir);
    let is_left_out = LEFT_OUT.iter().any(|name| path == Path::new(name));
    !is_left_out && !EMPTIED.iter().any(inside)
}

/// Writes what is not as it was `before`, as the layer of an image.
fn write_difference(root: &Path, before: &Seen, output: &mut dyn Write) -> Result<()> {
    let mut tar = tar::Builder::new(output);
    let mut links: HashMap<u64, PathBuf> = HashMap::new();
    let mut now = Seen::new();
    for found in paths(root) {
        let (path, metadata) = found?;
        now.insert(path.clone(), stamp(&metadata));
        if is_kept(&path) && before.get(&path) != Some(&stamp(&metadata)) {
            append(&mut tar, root, &path, &metadata, &mut links)
                .with_context(|| format!("write /{} to a layer", path.display()))?;
        }
    }
    let mut gone: Vec<_> = before
        .keys()
        .filter(|path| !now.contains_key(*path))
        .collect();
    gone.sort();
    for path in gone {
        let parent = path.parent().unwrap_or(Path::new(""));
        let goes_with_parent = parent != Path::new("") && !now.contains_key(parent);
        if is_kept(path) && !goes_with_parent {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(0);
            tar.append_data(
                &mut header,
                parent.join(format!("{WHITEOUT}{name}")),
                std::io::empty(),
            )
            .context("write a whiteout")?;
        }
    }
    tar.finish().context("end a layer")
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    root: &Path,
    path: &Path,
    metadata: &Metadata,
    links: &mut HashMap<u64, PathBuf>,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_metadata_in_mode(metadata, tar::HeaderMode::Complete);
    if metadata.is_file() {
        if metadata.nlink() > 1
            && let Some(first) = links.get(&metadata.ino())
        {
            header.set_entry_type(tar::EntryType::Link);
            header.set_size(0);
            return Ok(tar.append_link(&mut header, path, first)?);
        }
        links.insert(metadata.ino(), path.to_owned());
        let file = File::open(root.join(path))?;
        return Ok(tar.append_data(&mut header, path, file)?);
    }
    header.set_size(0);
    if metadata.is_symlink() {
        let target = fs::read_link(root.join(path))?;
        return Ok(tar.append_link(&mut header, path, target)?);
    }
    if metadata.is_dir() {
        tar.append_data(&mut header, path, std::io::empty())?;
    }
    // Sockets and pipes of programs that ran while packages were installed are nothing to keep.
    Ok(())
}

/// Unpacks a layer over what is in `root`.
fn unpack(layer: &Layer, root: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
    let mut archive = tar::Archive::new(layer.open()?);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    for entry in archive.entries().context("read a layer")? {
        let mut entry = entry.context("read a layer")?;
        let path = entry.path().context("read a path of a layer")?.into_owned();
        let name = path.file_name().and_then(OsStr::to_str);
        if let Some(hidden) = name.and_then(|name| name.strip_prefix(WHITEOUT)) {
            remove(&root.join(path.with_file_name(hidden)))?;
            continue;
        }
        entry
            .unpack_in(root)
            .with_context(|| format!("unpack /{}", path.display()))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let removed = if is_dir {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.with_context(|| format!("remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn layer(cache: &Cache, root: &Path, before: &Seen) -> Layer {
        let mut key = KeyBuilder::new("test", 1);
        key.text("number", &format!("{before:?}"));
        Layer::make(cache, "test", key.finish(), |_, output| {
            write_difference(root, before, output)
        })
        .unwrap()
    }

    fn entries(layer: &Layer) -> Vec<String> {
        let mut archive = tar::Archive::new(layer.open().unwrap());
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect()
    }

    #[test]
    fn layers_one_on_another_give_the_root_that_they_were_made_from() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache")).unwrap();
        let root = dir.path().join("root");
        for path in ["usr/bin", "etc/old.d", "var/log", "tmp"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in ["usr/bin/kept", "usr/bin/changed", "etc/gone", "etc/old.d/x"] {
            fs::write(root.join(path), "1").unwrap();
        }
        fs::write(root.join("var/log/install"), "noise").unwrap();
        let base = layer(&cache, &root, &Seen::new());
        let before = look(&root).unwrap();

        fs::write(root.join("usr/bin/changed"), "2").unwrap();
        fs::write(root.join("usr/bin/new"), "3").unwrap();
        fs::hard_link(root.join("usr/bin/new"), root.join("usr/bin/same")).unwrap();
        symlink("new", root.join("usr/bin/link")).unwrap();
        fs::remove_file(root.join("etc/gone")).unwrap();
        fs::remove_dir_all(root.join("etc/old.d")).unwrap();
        fs::write(root.join("etc/resolv.conf"), "nameserver 192.0.2.1").unwrap();
        let top = layer(&cache, &root, &before);
        let listed = entries(&top);
        for absent in ["usr/bin/kept", "etc/resolv.conf", "etc/.wh.old.d/.wh.x"] {
            assert!(!listed.iter().any(|path| path == absent), "{listed:?}");
        }

        let copy = dir.path().join("copy");
        unpack(&base, &copy).unwrap();
        assert_eq!(fs::read(copy.join("etc/gone")).unwrap(), b"1");
        unpack(&top, &copy).unwrap();
        let names: Vec<_> = paths(&copy)
            .map(|found| found.unwrap().0.display().to_string())
            .collect();
        let expected = [
            "etc",
            "tmp",
            "usr",
            "usr/bin",
            "usr/bin/changed",
            "usr/bin/kept",
            "usr/bin/link",
            "usr/bin/new",
            "usr/bin/same",
            "var",
            "var/log",
        ];
        assert_eq!(names, expected);
        let inode = |name: &str| fs::metadata(copy.join("usr/bin").join(name)).unwrap().ino();
        assert_eq!(inode("new"), inode("same"));
        assert_eq!(fs::read(copy.join("usr/bin/changed")).unwrap(), b"2");
        let time = |root: &Path| fs::metadata(root.join("usr/bin/kept")).unwrap().mtime();
        assert_eq!(time(&copy), time(&root));
    }

    #[test]
    fn what_belongs_to_the_machine_is_left_out() {
        for path in ["var/log", "etc/passwd", "var/lib/apt", "run", "develop"] {
            assert!(is_kept(Path::new(path)), "{path}");
        }
        for path in ["var/log/x", "run/lock", "dev/null", "etc/machine-id"] {
            assert!(!is_kept(Path::new(path)), "{path}");
        }
    }
}
