//! Which images a distribution has: our program's, and those of the environments.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::catalogue::Entry;
use crate::failure::Failure;

/// Contract of an image whose tag tells none.
const CONTRACT: i32 = 3;

/// An image, as the distribution lists it.
#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "ref")]
    reference: String,
}

/// References of the images that an installation uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Images {
    /// Our program.
    pub functions: String,
    /// Environments by language.
    pub environments: BTreeMap<String, Entry>,
}

/// Registry of a distribution's own images, which only nodes of a hub's hosts know.
const OWN: &str = "farplane.io/";

impl Images {
    /// Says that our own images are in another registry.
    pub fn move_to(&mut self, registry: &str) {
        let registry = registry.trim_end_matches('/');
        let entries = self.environments.values_mut();
        let all = entries.flat_map(|entry| [&mut entry.image, &mut entry.builder]);
        for reference in all.chain([&mut self.functions]) {
            if let Some(rest) = reference.strip_prefix(OWN) {
                *reference = format!("{registry}/{rest}");
            }
        }
    }
}

/// The images of a distribution.
pub(crate) fn of(dist: &Path) -> Result<Images> {
    let path = dist.join("registry/images.json");
    let text = std::fs::read(&path).map_err(|error| {
        Failure::Refused(format!(
            "the distribution has no list of images at {} ({error}): run `make build`, or name the image of the functions platform by --image",
            path.display()
        ))
    })?;
    let words = || format!("read the list of images {}", path.display());
    let listed = serde_json::from_slice(&text).with_context(words)?;
    Ok(sort(listed))
}

/// Tells our program, runtimes (`python-env`) and builders (`python-builder`) apart.
fn sort(listed: BTreeMap<String, Listed>) -> Images {
    let mut images = Images::default();
    for (name, Listed { reference }) in listed {
        if name == "functions" {
            images.functions = reference;
        } else if let Some(language) = name.strip_suffix("-builder") {
            let entry = images.environments.entry(language.to_owned()).or_default();
            entry.builder = reference;
        } else if let Some(language) = name.strip_suffix("-env") {
            let entry = images.environments.entry(language.to_owned()).or_default();
            entry.version = contract(&reference);
            entry.image = reference;
        }
    }
    images
        .environments
        .retain(|_, entry| !entry.image.is_empty());
    images
}

/// The contract that a tag such as `v2-1f2e3d4c` names.
fn contract(reference: &str) -> i32 {
    let tag = reference.rsplit_once(':').map(|(_, tag)| tag);
    let version = tag.and_then(|tag| tag.strip_prefix('v')?.split('-').next()?.parse().ok());
    version
        .filter(|version| (1..=3).contains(version))
        .unwrap_or(CONTRACT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_our_own_images_move_to_another_registry() {
        let entry = Entry {
            image: "farplane.io/perl-env:v3-1".into(),
            builder: "example.org/perl-builder:1".into(),
            version: 3,
        };
        let mut images = Images {
            functions: "farplane.io/functions:1".into(),
            environments: BTreeMap::from([("perl".to_owned(), entry)]),
        };
        images.move_to("registry.example.org/farplane/");
        assert_eq!(
            images.functions,
            "registry.example.org/farplane/functions:1"
        );
        let perl = &images.environments["perl"];
        assert_eq!(perl.image, "registry.example.org/farplane/perl-env:v3-1");
        assert_eq!(perl.builder, "example.org/perl-builder:1");
    }

    #[test]
    fn images_are_told_apart_by_their_names_and_contracts_by_their_tags() {
        let listed = json!({
            "functions": { "ref": "farplane.io/functions:1f2e", "digest": "d" },
            "python-env": { "ref": "farplane.io/python-env:v2-1f2e" },
            "python-builder": { "ref": "farplane.io/python-builder:v2-1f2e" },
            "perl-env": { "ref": "localhost:5000/perl-env:latest" },
            "etcd": { "ref": "e" }, "lonely-builder": { "ref": "x" },
        });
        let entry = |image: &str, builder: &str, version| Entry {
            image: image.to_owned(),
            builder: builder.to_owned(),
            version,
        };
        let python = entry(
            "farplane.io/python-env:v2-1f2e",
            "farplane.io/python-builder:v2-1f2e",
            2,
        );
        let expected = Images {
            functions: "farplane.io/functions:1f2e".into(),
            environments: BTreeMap::from([
                (
                    "perl".to_owned(),
                    entry("localhost:5000/perl-env:latest", "", 3),
                ),
                ("python".to_owned(), python),
            ]),
        };
        assert_eq!(sort(serde_json::from_value(listed).unwrap()), expected);
    }
}
