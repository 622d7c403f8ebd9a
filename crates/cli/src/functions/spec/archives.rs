//! Packs what an `ArchiveUploadSpec` describes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::files::ArchiveSpec;
use crate::failure::Failure;
use crate::functions::archive::{self, Entry};
use crate::functions::glob;

/// Directory that an archive's patterns are told from.
fn root(spec: &ArchiveSpec, specdir: &Path) -> Result<PathBuf> {
    let real = specdir
        .canonicalize()
        .with_context(|| format!("find {}", specdir.display()))?;
    let parent = real.parent().unwrap_or(&real);
    Ok(match spec.rootdir.as_str() {
        "" => parent.to_owned(),
        // One that is absolute stays so.
        named => parent.join(named),
    })
}

/// The bytes of an archive: one file as it is, everything else as a zip.
pub(super) fn pack(spec: &ArchiveSpec, specdir: &Path) -> Result<Vec<u8>> {
    let root = root(spec, specdir)?;
    let words = || format!("pack archive {}", spec.name);
    let nothing = |pattern: &str| {
        Failure::Refused(format!(
            "archive {} includes {pattern}, which is no file below {}",
            spec.name,
            root.display()
        ))
    };
    let single = match spec.include.as_slice() {
        [only] if !glob::is_wild(only) => Some(root.join(only)),
        _ => None,
    };
    if let Some(file) = single.filter(|path| path.is_file()) {
        return archive::code(&file).with_context(words);
    }
    let all = archive::walk(&root, |name| {
        spec.include.iter().any(|pattern| chosen(pattern, name))
            && !spec.exclude.iter().any(|pattern| chosen(pattern, name))
    })
    .with_context(words)?;
    for pattern in &spec.include {
        if !all.iter().any(|entry| chosen(pattern, &entry.name)) {
            return Err(nothing(pattern).into());
        }
    }
    if let [only] = all.as_slice()
        && spec.include.len() == 1
        && glob::matches(&spec.include[0], &only.name)
    {
        return Ok(only.bytes.clone());
    }
    archive::pack(renamed(spec, all)).with_context(words)
}

/// A pattern stands for what it matches, and for everything in a directory that it matches.
fn chosen(pattern: &str, name: &str) -> bool {
    glob::matches(pattern, name) || glob::matches(&format!("{pattern}/**"), name)
}

/// Names within the archive are told from where the pattern begins to be one, as Fission does:
/// `src/*` packs what is in `src`, not `src` itself.
fn renamed(spec: &ArchiveSpec, all: Vec<Entry>) -> Vec<Entry> {
    all.into_iter()
        .map(|mut entry| {
            let pattern = spec
                .include
                .iter()
                .find(|pattern| chosen(pattern, &entry.name));
            let stem = pattern
                .map(|pattern| glob::stem(pattern))
                .unwrap_or_default();
            if let Some(short) = entry.name.strip_prefix(&stem) {
                entry.name = short.trim_start_matches('/').to_owned();
            }
            entry
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Cursor;

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("specs/x.yaml", ""),
            ("hello.py", "hello"),
            ("src/user.py", "user"),
            ("src/lib/a.py", "a"),
            ("src/lib/a_test.py", "t"),
        ] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn packed(include: &[&str], exclude: &[&str]) -> Result<Vec<u8>> {
        let folder = tree();
        let words = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect();
        let spec = ArchiveSpec {
            name: "a".into(),
            rootdir: String::new(),
            include: words(include),
            exclude: words(exclude),
        };
        pack(&spec, &folder.path().join("specs"))
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        archive
            .file_names()
            .map(|name| name.unwrap().into_owned())
            .collect()
    }

    #[test]
    fn one_file_is_no_zip() {
        assert_eq!(packed(&["hello.py"], &[]).unwrap(), b"hello");
        assert_eq!(packed(&["*.py"], &[]).unwrap(), b"hello");
        assert_eq!(packed(&["./hello.py"], &[]).unwrap(), b"hello");
    }

    #[test]
    fn names_begin_where_the_pattern_does() {
        let inner = packed(&["src/*"], &["**/*_test.py"]).unwrap();
        assert_eq!(names(&inner), ["lib/a.py", "user.py"]);
        let outer = packed(&["src", "hello.py"], &[]).unwrap();
        assert_eq!(
            names(&outer),
            [
                "hello.py",
                "src/lib/a.py",
                "src/lib/a_test.py",
                "src/user.py"
            ]
        );
    }

    #[test]
    fn a_pattern_that_finds_nothing_is_refused() {
        let error = packed(&["hello.py", "absent/*"], &[]).unwrap_err();
        assert!(error.to_string().contains("includes absent/*"), "{error}");
    }
}
