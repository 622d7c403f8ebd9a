//! Which images a distribution has: our program's, and those of the environments.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use super::catalogue::Entry;
use crate::failure::Failure;

/// Contract of the environments that we make: with a builder and a pool size.
const CONTRACT: i32 = 3;

/// References of the images that an installation uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Images {
    /// Our program.
    pub functions: String,
    /// Environments by language.
    pub environments: BTreeMap<String, Entry>,
}

/// The images of a distribution.
pub(crate) fn of(dist: &Path) -> Result<Images> {
    let path = dist.join("registry/index.json");
    let text = std::fs::read(&path).map_err(|error| {
        Failure::Refused(format!(
            "the distribution has no list of images at {} ({error}): run `make build`, or name the image of the functions platform by --image",
            path.display()
        ))
    })?;
    let words = || format!("read the list of images {}", path.display());
    let value: Value = serde_json::from_slice(&text).with_context(words)?;
    Ok(sort(references(&value)))
}

/// Names and references: a map, or a list of objects with `name`.
fn references(value: &Value) -> BTreeMap<String, String> {
    let reference = |value: &Value| {
        let found = value.as_str().or_else(|| {
            let keys = ["reference", "ref", "image"];
            keys.iter().find_map(|key| value.get(key)?.as_str())
        });
        found.map(str::to_owned)
    };
    match value {
        Value::Object(map) => map
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), reference(value)?)))
            .collect(),
        Value::Array(list) => list
            .iter()
            .filter_map(|value| Some((value["name"].as_str()?.to_owned(), reference(value)?)))
            .collect(),
        _ => BTreeMap::new(),
    }
}

/// Tells our program, runtimes (`python-env`) and builders (`python-builder`) apart.
fn sort(references: BTreeMap<String, String>) -> Images {
    let mut images = Images::default();
    for (name, reference) in references {
        if ["functions", "farplane-functions"].contains(&name.as_str()) {
            images.functions = reference;
        } else if let Some(language) = language(&name, "builder") {
            entry(&mut images, language).builder = reference;
        } else if let Some(language) = language(&name, "env") {
            entry(&mut images, language).image = reference;
        }
    }
    images
        .environments
        .retain(|_, entry| !entry.image.is_empty());
    images
}

fn language<'a>(name: &'a str, role: &str) -> Option<&'a str> {
    let before = name
        .strip_suffix(role)
        .and_then(|rest| rest.strip_suffix('-'));
    let after = || {
        name.strip_prefix(role)
            .and_then(|rest| rest.strip_prefix('-'))
    };
    before
        .or_else(after)
        .filter(|language| !language.is_empty())
}

fn entry<'a>(images: &'a mut Images, language: &str) -> &'a mut Entry {
    let entry = images.environments.entry(language.to_owned()).or_default();
    entry.version = CONTRACT;
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn images_are_told_apart_by_their_names() {
        let expected = Images {
            functions: "farplane.io/functions:1".into(),
            environments: BTreeMap::from([
                (
                    "perl".to_owned(),
                    Entry {
                        image: "p".into(),
                        builder: String::new(),
                        version: 3,
                    },
                ),
                (
                    "python".to_owned(),
                    Entry {
                        image: "i".into(),
                        builder: "b".into(),
                        version: 3,
                    },
                ),
            ]),
        };
        let map = json!({
            "functions": "farplane.io/functions:1", "python-env": { "ref": "i", "file": "f" },
            "python-builder": "b", "perl-env": "p", "etcd": "e", "lonely-builder": "x",
        });
        assert_eq!(sort(references(&map)), expected);
        let list = json!([
            { "name": "functions", "reference": "farplane.io/functions:1" }, { "name": "env-python", "ref": "i" },
            { "name": "builder-python", "ref": "b" }, { "name": "env-perl", "ref": "p" },
        ]);
        assert_eq!(sort(references(&list)), expected);
    }
}
