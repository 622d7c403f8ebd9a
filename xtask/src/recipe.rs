//! `upstream/components.toml`: how each upstream program is linked.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// One program of a component.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Go package: a path, or `./` and a directory of the module here.
    pub package: String,
    /// File name, when it is not the last word of the package.
    #[serde(default)]
    pub binary: Option<String>,
    /// Links to it.
    #[serde(default)]
    pub names: Vec<String>,
}

impl Program {
    /// What `go build -o DIR/` calls it.
    pub fn built_as(&self) -> &str {
        let parts = || self.package.rsplit('/');
        let last = parts().next().unwrap_or_default();
        let is_major = last
            .strip_prefix('v')
            .is_some_and(|n| n.parse::<u32>().is_ok());
        if is_major {
            parts().nth(1).unwrap_or(last)
        } else {
            last
        }
    }

    /// File name in the component's directory.
    pub fn file(&self) -> &str {
        self.binary.as_deref().unwrap_or_else(|| self.built_as())
    }

    /// Names of release binaries that do the same work.
    pub fn released_as(&self) -> Vec<&str> {
        if self.package.starts_with("./kubernetes-") {
            return self.names.iter().map(String::as_str).collect();
        }
        std::iter::once(self.file())
            .chain(self.names.iter().map(String::as_str))
            .collect()
    }
}

/// How one component is linked; see `upstream/components.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Directory with the `go.mod.in`, and key of the version.
    pub module: String,
    /// What is built.
    pub programs: Vec<Program>,
    /// Whether C code is compiled and linked too.
    #[serde(default)]
    pub cgo: bool,
    /// Build tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Packages that carry a version the way Kubernetes does.
    #[serde(default)]
    pub stamp: Vec<String>,
    /// Further linker flags, a template each.
    #[serde(default)]
    pub ldflags: Vec<String>,
    /// Debian packages that the build needs.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Whether it is left out unless it is named.
    #[serde(default)]
    pub on_request: bool,
    /// Set when the program is in C.
    #[serde(default)]
    pub c: Option<CSource>,
}

/// A program in C that a Go module carries.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CSource {
    /// Go module.
    pub module: String,
    /// Path inside the module.
    pub file: String,
    /// Flags of the compiler, a template each.
    pub flags: Vec<String>,
}

/// Reads `upstream/components.toml`.
///
/// # Errors
/// When it is missing or wrong.
pub fn read(root: &Path) -> Result<BTreeMap<String, Recipe>> {
    let file = root.join("upstream/components.toml");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    toml::from_str(&text).context("parse upstream/components.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_under_the_name_go_gives_them() {
        let program = |package: &str| Program {
            package: package.into(),
            binary: None,
            names: vec![],
        };
        assert_eq!(program("helm.sh/helm/v4/cmd/helm").file(), "helm");
        assert_eq!(program("example.org/tool/v2").file(), "tool");
        assert_eq!(program("./etcd").file(), "etcd");
    }
}
