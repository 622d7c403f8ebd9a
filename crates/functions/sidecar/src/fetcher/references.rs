//! Secrets and ConfigMaps as files.
//!
//! `<directory>/<namespace>/<name>/<key>`, or `<directory>/<mountPath>/<key>`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use farplane_functions_types::function::MountedReference;
use farplane_functions_types::wire::FetchRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::Error;
use super::api::Api;
use super::settings::Settings;
use crate::archive::name;
use crate::archive::tree::Tree;

/// Values by key.
type Values = BTreeMap<String, Vec<u8>>;

/// Writes what the request lists.
///
/// # Errors
/// When something cannot be read or written, or would take another's place.
pub async fn write(settings: &Settings, api: &Api, request: &FetchRequest) -> Result<(), Error> {
    if request.secret_list.is_empty() && request.config_map_list.is_empty() {
        return Ok(());
    }
    let mut secrets = Files::new("secret", &settings.secrets);
    for reference in &request.secret_list {
        let read: Secret = api
            .get("secret", &reference.namespace, &reference.name)
            .await?;
        let data = read.data.unwrap_or_default();
        let values = data.into_iter().map(|(key, value)| (key, value.0));
        secrets.write(&settings.namespace, reference, values.collect())?;
    }
    let mut configs = Files::new("configmap", &settings.configs);
    for reference in &request.config_map_list {
        let read: ConfigMap = api
            .get("configmap", &reference.namespace, &reference.name)
            .await?;
        let text = read.data.unwrap_or_default().into_iter();
        let binary = read.binary_data.unwrap_or_default().into_iter();
        let values: Values = text
            .map(|(key, value)| (key, value.into_bytes()))
            .chain(binary.map(|(key, value)| (key, value.0)))
            .collect();
        configs.write(&settings.namespace, reference, values)?;
    }
    Ok(())
}

struct Files<'a> {
    what: &'static str,
    directory: &'a Path,
    /// Which object a file is of.
    owners: BTreeMap<String, String>,
}

impl<'a> Files<'a> {
    fn new(what: &'static str, directory: &'a Path) -> Self {
        Self {
            what,
            directory,
            owners: BTreeMap::new(),
        }
    }

    fn write(
        &mut self,
        namespace: &str,
        reference: &MountedReference,
        values: Values,
    ) -> Result<(), Error> {
        let below = below(self.what, namespace, reference)?;
        let step = "write values below";
        std::fs::create_dir_all(self.directory).map_err(Error::disk(step, self.directory))?;
        let mut tree = Tree::open(self.directory).map_err(Error::disk(step, self.directory))?;
        for (key, value) in values {
            let mut parts: Vec<&str> = below.iter().map(String::as_str).collect();
            parts.push(&key);
            let path = parts.join("/");
            let owner = format!("{} {}", self.what, reference.name);
            if let Some(first) = self.owners.insert(path.clone(), owner.clone()) {
                return Err(Error::SameFile {
                    first,
                    second: owner,
                    path,
                });
            }
            let at = self.directory.join(&path);
            // From an earlier attempt of a fetcher that was ended.
            super::place::remove(&at);
            let written = tree
                .create_file(&parts, 0o644)
                .and_then(|mut file| file.write_all(&value));
            written.map_err(Error::disk("write", &at))?;
        }
        // An object without values still has its directory.
        let parts: Vec<&str> = below.iter().map(String::as_str).collect();
        tree.make_directory(&parts)
            .map_err(Error::disk(step, self.directory))
    }
}

/// Directories below the top one.
fn below(
    what: &'static str,
    namespace: &str,
    reference: &MountedReference,
) -> Result<Vec<String>, Error> {
    let refuse = |reason: &dyn std::fmt::Display| Error::MountPath {
        what,
        name: reference.name.clone(),
        path: reference.mount_path.clone(),
        reason: reason.to_string(),
    };
    let path = if reference.mount_path.is_empty() {
        format!("{namespace}/{}", reference.name)
    } else {
        reference.mount_path.clone()
    };
    let parts = name::parts(&path).map_err(|reason| refuse(&reason))?;
    Ok(parts.into_iter().map(str::to_owned).collect())
}
