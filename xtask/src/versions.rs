//! `upstream/versions.toml`: the version of every upstream program, and the
//! templates that are filled in from it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// What `versions.toml` says, with `.major`, `.minor` and `.patch` of each.
pub struct Versions(BTreeMap<String, String>);

impl Versions {
    /// Reads `upstream/versions.toml`.
    ///
    /// # Errors
    /// When it is missing or not a table of texts.
    pub fn read(root: &Path) -> Result<Self> {
        let file = root.join("upstream/versions.toml");
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let table: BTreeMap<String, String> =
            toml::from_str(&text).context("parse upstream/versions.toml")?;
        let mut all = table.clone();
        for (name, version) in table {
            for (part, value) in ["major", "minor", "patch"].iter().zip(version.split('.')) {
                all.insert(format!("{name}.{part}"), value.to_owned());
            }
        }
        Ok(Self(all))
    }

    /// Version of a name.
    ///
    /// # Errors
    /// When the name is not in the file.
    pub fn get(&self, name: &str) -> Result<&str> {
        let version = self
            .0
            .get(name)
            .with_context(|| format!("upstream/versions.toml has no version of {name}"))?;
        Ok(version)
    }

    /// Fills in `{{name}}`.
    ///
    /// # Errors
    /// When a name is unknown or a brace stays open.
    pub fn render(&self, template: &str) -> Result<String> {
        let mut text = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after.split_once("}}").context("a {{ without its }}")?;
            text.push_str(before);
            text.push_str(self.get(name)?);
            rest = after;
        }
        text.push_str(rest);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions() -> Versions {
        let texts = [("kubernetes", "1.37.2"), ("kubernetes.minor", "37")];
        Versions(
            texts
                .map(|(name, version)| (name.to_owned(), version.to_owned()))
                .into(),
        )
    }

    #[test]
    fn a_template_is_filled_in_and_an_unknown_name_is_refused() {
        assert_eq!(
            versions()
                .render("v0.{{kubernetes.minor}} {{kubernetes}}\n")
                .unwrap(),
            "v0.37 1.37.2\n"
        );
        assert!(
            versions()
                .render("{{cri-o}}")
                .unwrap_err()
                .to_string()
                .contains("cri-o")
        );
        assert!(versions().render("{{kubernetes").is_err());
    }
}
