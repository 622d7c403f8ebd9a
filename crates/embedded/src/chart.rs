//! Renders the Helm chart and applies it.
//!
//! Order: namespace, definitions of custom resources (until the API serves them), then
//! everything else as rendered. A rendering that was applied before is not applied
//! again, so `up` on a running hub is quick.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use farplane_types::names::SYSTEM_NAMESPACE;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, TypeMeta};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiCapabilities, ApiResource, Discovery, Scope};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::command::run;
use crate::error::Error;
use crate::files::{Files, write};
use crate::images::Index;
use crate::record::Record;

const FIELD_MANAGER: &str = "farplane-up";
const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(30);

/// What to render.
pub(crate) struct Chart<'a> {
    pub dist: &'a Path,
    pub chart: &'a Path,
    pub values: &'a [PathBuf],
    pub record: &'a Record,
    pub files: &'a Files,
}

/// The chart's documents.
pub(crate) struct Rendered {
    objects: Vec<DynamicObject>,
    digest: String,
}

impl Chart<'_> {
    /// Values that only the embedded hub knows.
    fn values(&self, index: &Index) -> Value {
        let address = self.record.hub_address();
        let images: serde_json::Map<String, Value> = index
            .0
            .iter()
            .map(|(name, image)| (camel_case(name), Value::from(image.reference.as_str())))
            .collect();
        json!({
            "hubDomain": self.record.hub_domain,
            "publicAddress": format!("{address}:8443"),
            "images": images,
            "gateway": { "externalIPs": [address] },
            "store": { "hostPath": self.files.stores() },
            "labs": { "enabled": true },
        })
    }

    pub async fn render(&self, index: &Index) -> Result<Rendered, Error> {
        let own = self.files.config().join("values.json");
        write(&own, self.values(index).to_string().as_bytes(), 0o600)?;
        let helm = self.dist.join("bin/helm").display().to_string();
        let chart = self.chart.display().to_string();
        let mut arguments = vec![
            "template".to_owned(),
            "farplane".to_owned(),
            chart,
            "--namespace".to_owned(),
            SYSTEM_NAMESPACE.to_owned(),
            "--include-crds".to_owned(),
        ];
        for file in std::iter::once(&own).chain(self.values) {
            arguments.extend(["--values".to_owned(), file.display().to_string()]);
        }
        parse(&run(&helm, &arguments).await?)
    }
}

/// `kubernetes-server` becomes `kubernetesServer`.
fn camel_case(name: &str) -> String {
    let mut parts = name.split('-');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| {
        let mut letters = part.chars();
        let head = letters.next().map(|letter| letter.to_ascii_uppercase());
        all + &head.into_iter().chain(letters).collect::<String>()
    })
}

fn parse(text: &str) -> Result<Rendered, Error> {
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|source| Error::Manifest { source })?;
        if value.is_null() {
            continue;
        }
        let object = serde_yaml_ng::to_value(value)
            .and_then(serde_yaml_ng::from_value)
            .map_err(|source| Error::Manifest { source })?;
        objects.push(object);
    }
    Ok(Rendered {
        objects,
        digest: hex::encode(Sha256::digest(text.as_bytes())),
    })
}

impl Rendered {
    /// Namespace and name of every Deployment.
    pub fn deployments(&self) -> Vec<(String, String)> {
        self.objects
            .iter()
            .filter(|object| kind(object) == "Deployment")
            .filter_map(|object| {
                let namespace = object.metadata.namespace.clone();
                let namespace = namespace.unwrap_or_else(|| SYSTEM_NAMESPACE.to_owned());
                Some((namespace, object.metadata.name.clone()?))
            })
            .collect()
    }

    /// True when this very rendering was applied before.
    pub fn is_applied(&self, files: &Files) -> bool {
        fs::read_to_string(files.applied()).is_ok_and(|last| last.trim() == self.digest)
    }

    /// Applies every document. Repeating it changes nothing.
    pub async fn apply(&self, client: &Client, files: &Files) -> Result<(), Error> {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SYSTEM_NAMESPACE },
        });
        let namespace: DynamicObject = serde_yaml_ng::to_value(namespace)
            .and_then(serde_yaml_ng::from_value)
            .map_err(|source| Error::Manifest { source })?;
        let (definitions, others): (Vec<_>, Vec<_>) = self
            .objects
            .iter()
            .partition(|object| kind(object) == "CustomResourceDefinition");
        let known = discover(client).await?;
        patch(client, &known, &namespace).await?;
        for object in &definitions {
            patch(client, &known, object).await?;
        }
        wait_established(client, &known, &definitions).await?;
        let known = discover(client).await?;
        for object in others {
            patch(client, &known, object).await?;
        }
        self.prune(client, &known, files).await?;
        write(&files.applied(), self.digest.as_bytes(), 0o600).map(|_| ())
    }

    /// Deletes what an earlier rendering had and this one has not. Definitions and
    /// namespaces stay, since what people made would go with them.
    async fn prune(&self, client: &Client, known: &Discovery, files: &Files) -> Result<(), Error> {
        let path = files.state.join("applied.json");
        let now: Vec<Identity> = self.objects.iter().map(Identity::of).collect();
        let before: Vec<Identity> = fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        for gone in before.iter().filter(|one| !now.contains(one)) {
            let object = gone.object();
            if ["CustomResourceDefinition", "Namespace"].contains(&gone.kind.as_str()) {
                continue;
            }
            let deleted = api(client, known, &object)?
                .delete(&gone.name, &DeleteParams::background())
                .await;
            match deleted {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    let action = format!("delete {} {}", gone.kind, gone.name);
                    return Err(Error::api(action)(error));
                }
                Ok(_) => {}
            }
        }
        let text = serde_json::to_vec(&now).unwrap_or_default();
        write(&path, &text, 0o600).map(|_| ())
    }
}

/// Which object something is.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    api_version: String,
    kind: String,
    namespace: Option<String>,
    name: String,
}

impl Identity {
    fn of(object: &DynamicObject) -> Self {
        let types = object.types.clone().unwrap_or_default();
        Self {
            api_version: types.api_version,
            kind: types.kind,
            namespace: object.metadata.namespace.clone(),
            name: object.metadata.name.clone().unwrap_or_default(),
        }
    }

    fn object(&self) -> DynamicObject {
        DynamicObject {
            types: Some(TypeMeta {
                api_version: self.api_version.clone(),
                kind: self.kind.clone(),
            }),
            metadata: ObjectMeta {
                namespace: self.namespace.clone(),
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            data: Value::Null,
        }
    }
}

async fn discover(client: &Client) -> Result<Discovery, Error> {
    Discovery::new(client.clone())
        .run_aggregated()
        .await
        .map_err(Error::api("read which kinds the hub knows"))
}

fn kind(object: &DynamicObject) -> &str {
    object
        .types
        .as_ref()
        .map_or("", |types| types.kind.as_str())
}

fn resolve(
    known: &Discovery,
    object: &DynamicObject,
) -> Result<(ApiResource, ApiCapabilities), Error> {
    let TypeMeta { api_version, kind } = object.types.clone().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    known
        .resolve_gvk(&GroupVersionKind::gvk(group, version, &kind))
        .ok_or(Error::UnknownKind { kind, api_version })
}

fn api(
    client: &Client,
    known: &Discovery,
    object: &DynamicObject,
) -> Result<Api<DynamicObject>, Error> {
    let (resource, capabilities) = resolve(known, object)?;
    Ok(match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = object
                .metadata
                .namespace
                .as_deref()
                .unwrap_or(SYSTEM_NAMESPACE);
            Api::namespaced_with(client.clone(), namespace, &resource)
        }
    })
}

async fn patch(client: &Client, known: &Discovery, object: &DynamicObject) -> Result<(), Error> {
    let name = object.metadata.name.clone().unwrap_or_default();
    api(client, known, object)?
        .patch(
            &name,
            &PatchParams::apply(FIELD_MANAGER).force(),
            &Patch::Apply(object),
        )
        .await
        .map(|_| ())
        .map_err(Error::api(format!("apply {} {name}", kind(object))))
}

/// Until every definition is served; an object of a kind sent earlier is refused.
async fn wait_established(
    client: &Client,
    known: &Discovery,
    definitions: &[&DynamicObject],
) -> Result<(), Error> {
    let Some(first) = definitions.first() else {
        return Ok(());
    };
    let api = api(client, known, first)?;
    let mut missing: BTreeSet<String> = definitions
        .iter()
        .filter_map(|object| object.metadata.name.clone())
        .collect();
    let started = Instant::now();
    loop {
        let list = api
            .list(&Default::default())
            .await
            .map_err(Error::api("list definitions of custom resources"))?;
        for object in list
            .items
            .iter()
            .filter(|object| is_established(&object.data))
        {
            missing.remove(object.metadata.name.as_deref().unwrap_or_default());
        }
        if missing.is_empty() {
            return Ok(());
        }
        if started.elapsed() > ESTABLISH_TIMEOUT {
            return Err(Error::TimedOut {
                what: "serving the custom resources".to_owned(),
                seconds: ESTABLISH_TIMEOUT.as_secs(),
                state: format!("not served yet: {missing:?}"),
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn is_established(data: &Value) -> bool {
    data["status"]["conditions"]
        .as_array()
        .is_some_and(|conditions| {
            conditions
                .iter()
                .any(|one| one["type"] == "Established" && one["status"] == "True")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_become_values() {
        assert_eq!(camel_case("kubernetes-server"), "kubernetesServer");
        assert_eq!(camel_case("lab-host"), "labHost");
        assert_eq!(camel_case("pause"), "pause");
    }

    #[test]
    fn documents_are_taken_apart_and_empty_ones_left_out() {
        let text = "---\n# nothing\n---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n---\n\
                    apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: b\nspec: {}\n";
        let rendered = parse(text).unwrap();
        assert_eq!(rendered.objects.len(), 2);
        let expected = [(SYSTEM_NAMESPACE.to_owned(), "b".to_owned())];
        assert_eq!(rendered.deployments(), expected);
        assert_ne!(rendered.digest, parse("").unwrap().digest);
    }
}
