//! The environments that a platform knows by the name of their language.

use std::collections::BTreeMap;

use anyhow::Result;
use farplane_functions_types::environment::{Builder, Runtime};
use farplane_functions_types::{Environment, EnvironmentSpec, names};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use serde::{Deserialize, Serialize};

use super::platform;
use crate::failure::Failure;

/// ConfigMap of the platform's namespace.
const NAME: &str = "environments";

/// What a language's environment is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Image of the runtime.
    pub image: String,
    /// Image of the builder; none when empty.
    #[serde(default)]
    pub builder: String,
    /// Contract of the image.
    #[serde(default = "one")]
    pub version: i32,
}

fn one() -> i32 {
    1
}

/// Environments by language.
pub(crate) type Catalogue = BTreeMap<String, Entry>;

/// The catalogue of a cluster's platform; empty when there is none.
pub(crate) async fn read(client: &Client) -> Result<Catalogue> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), names::NAMESPACE);
    let found = api
        .get_opt(NAME)
        .await
        .map_err(|error| platform::about("read", "ConfigMap", NAME).explain(error))?;
    Ok(parse(found.and_then(|map| map.data).unwrap_or_default()))
}

/// A document that is none is left out: the others still work.
fn parse(data: BTreeMap<String, String>) -> Catalogue {
    data.into_iter()
        .filter_map(|(language, text)| Some((language, serde_json::from_str(&text).ok()?)))
        .collect()
}

/// The entry of a language, or words for its absence.
pub(crate) fn entry<'a>(catalogue: &'a Catalogue, language: &str) -> Result<&'a Entry, Failure> {
    catalogue.get(language).ok_or_else(|| {
        let known: Vec<&str> = catalogue.keys().map(String::as_str).collect();
        Failure::NotFound(match known.as_slice() {
            [] => format!(
                "the platform knows no environment {language}, since its catalogue is empty: name an image by --image, or repeat `farplane functions install`"
            ),
            known => format!(
                "the platform knows no environment {language}: name an image by --image, or take one of {}",
                known.join(", ")
            ),
        })
    })
}

/// The environment that an entry describes.
pub(crate) fn environment(name: &str, entry: &Entry) -> Environment {
    let spec = EnvironmentSpec {
        version: entry.version,
        runtime: Runtime {
            image: entry.image.clone(),
            ..Runtime::default()
        },
        builder: Builder {
            image: entry.builder.clone(),
            ..Builder::default()
        },
        allowed_functions_per_container: String::new(),
        allow_access_to_external_network: false,
        resources: Default::default(),
        pool_size: None,
        termination_grace_period: None,
        keep_archive: false,
        image_pull_secret: String::new(),
    };
    Environment::new(name, spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_language_is_told_with_those_that_are_known() {
        let data = BTreeMap::from([
            (
                "python".to_owned(),
                r#"{"name":"python","image":"i","version":3}"#.to_owned(),
            ),
            ("broken".to_owned(), "x".to_owned()),
        ]);
        let catalogue = parse(data);
        let python = entry(&catalogue, "python").unwrap();
        assert_eq!((python.image.as_str(), python.version), ("i", 3));
        let words = entry(&catalogue, "cobol").unwrap_err().to_string();
        assert!(
            words.contains("cobol") && words.ends_with("one of python"),
            "{words}"
        );
        assert!(
            entry(&Catalogue::new(), "python")
                .unwrap_err()
                .to_string()
                .contains("empty")
        );
    }
}
