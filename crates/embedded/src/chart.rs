//! Renders a Helm chart and applies it.
//!
//! Order: namespace, definitions of custom resources (until the API serves them), then
//! everything else as rendered. Every object is applied by the server, so repeating it
//! changes nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, TypeMeta};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiCapabilities, ApiResource, Discovery, Scope};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::command::run;
use crate::error::Error;

const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(30);
/// What people made would go with these.
const KEPT: [&str; 2] = ["CustomResourceDefinition", "Namespace"];

/// A chart to render.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    /// The program `helm`.
    pub helm: &'a Path,
    /// Directory of the chart.
    pub chart: &'a Path,
    /// Name of the release.
    pub release: &'a str,
    /// Namespace of the release.
    pub namespace: &'a str,
    /// Files with values; later ones win.
    pub values: &'a [PathBuf],
}

/// A chart's documents.
#[derive(Clone, Debug)]
pub struct Rendered {
    namespace: String,
    objects: Vec<DynamicObject>,
    digest: String,
}

impl Chart<'_> {
    /// Renders it, definitions of custom resources included.
    ///
    /// # Errors
    /// When `helm` refuses the chart or the values; its own words are in the error.
    pub async fn render(&self) -> Result<Rendered, Error> {
        let helm = self.helm.display().to_string();
        let mut arguments = vec![
            "template".to_owned(),
            self.release.to_owned(),
            self.chart.display().to_string(),
            "--namespace".to_owned(),
            self.namespace.to_owned(),
            "--include-crds".to_owned(),
        ];
        for file in self.values {
            arguments.extend(["--values".to_owned(), file.display().to_string()]);
        }
        parse(self.namespace, &run(&helm, &arguments).await?)
    }
}

fn parse(namespace: &str, text: &str) -> Result<Rendered, Error> {
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
        namespace: namespace.to_owned(),
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
                let namespace = namespace.unwrap_or_else(|| self.namespace.clone());
                Some((namespace, object.metadata.name.clone()?))
            })
            .collect()
    }

    /// Digest of everything that was rendered.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Which objects it has.
    pub fn identities(&self) -> Vec<Identity> {
        self.objects.iter().map(Identity::of).collect()
    }

    /// Applies every document in the name of `manager`. Repeating it changes nothing.
    ///
    /// # Errors
    /// The first object that the API server refuses.
    pub async fn apply(&self, client: &Client, manager: &str) -> Result<(), Error> {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.namespace },
        });
        let namespace: DynamicObject = serde_yaml_ng::to_value(namespace)
            .and_then(serde_yaml_ng::from_value)
            .map_err(|source| Error::Manifest { source })?;
        let (definitions, others): (Vec<_>, Vec<_>) = self
            .objects
            .iter()
            .partition(|object| kind(object) == "CustomResourceDefinition");
        let known = self.known(client).await?;
        known.patch(&namespace, manager).await?;
        for object in &definitions {
            known.patch(object, manager).await?;
        }
        wait_established(&known, &definitions).await?;
        let known = self.known(client).await?;
        for object in others {
            known.patch(object, manager).await?;
        }
        Ok(())
    }

    /// Deletes what an earlier rendering had and this one has not. Definitions and
    /// namespaces stay, since what people made would go with them.
    ///
    /// # Errors
    /// The first object that cannot be deleted.
    pub async fn prune(&self, client: &Client, before: &[Identity]) -> Result<(), Error> {
        let now = self.identities();
        let gone: Vec<Identity> = before
            .iter()
            .filter(|one| !now.contains(one))
            .cloned()
            .collect();
        delete(client, &self.namespace, &gone).await
    }

    async fn known<'a>(&'a self, client: &'a Client) -> Result<Known<'a>, Error> {
        Known::find(client, &self.namespace).await
    }
}

/// Deletes objects that a chart had; those that are gone are fine. Definitions and
/// namespaces stay.
///
/// # Errors
/// The first object that cannot be deleted.
pub async fn delete(client: &Client, namespace: &str, gone: &[Identity]) -> Result<(), Error> {
    let gone: Vec<&Identity> = gone
        .iter()
        .filter(|one| !KEPT.contains(&one.kind.as_str()))
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    let known = Known::find(client, namespace).await?;
    for one in gone {
        let api = match known.api(&one.object()) {
            // Its definition is gone, and so it is.
            Err(Error::UnknownKind { .. }) => continue,
            api => api?,
        };
        let deleted = api.delete(&one.name, &DeleteParams::background()).await;
        match deleted {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                let action = format!("delete {} {}", one.kind, one.name);
                return Err(Error::api(action)(error));
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Which object something is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace; none for what has none, or is in the release's.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
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

fn kind(object: &DynamicObject) -> &str {
    object
        .types
        .as_ref()
        .map_or("", |types| types.kind.as_str())
}

/// What a cluster serves at the moment.
struct Known<'a> {
    client: &'a Client,
    namespace: &'a str,
    discovery: Discovery,
}

impl<'a> Known<'a> {
    async fn find(client: &'a Client, namespace: &'a str) -> Result<Self, Error> {
        let discovery = Discovery::new(client.clone())
            .run_aggregated()
            .await
            .map_err(Error::api("read which kinds the cluster knows"))?;
        Ok(Self {
            client,
            namespace,
            discovery,
        })
    }

    fn resolve(&self, object: &DynamicObject) -> Result<(ApiResource, ApiCapabilities), Error> {
        let TypeMeta { api_version, kind } = object.types.clone().unwrap_or_default();
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        self.discovery
            .resolve_gvk(&GroupVersionKind::gvk(group, version, &kind))
            .ok_or(Error::UnknownKind { kind, api_version })
    }

    fn api(&self, object: &DynamicObject) -> Result<Api<DynamicObject>, Error> {
        let (resource, capabilities) = self.resolve(object)?;
        let client = self.client.clone();
        Ok(match capabilities.scope {
            Scope::Cluster => Api::all_with(client, &resource),
            Scope::Namespaced => {
                let namespace = object.metadata.namespace.as_deref();
                Api::namespaced_with(client, namespace.unwrap_or(self.namespace), &resource)
            }
        })
    }

    async fn patch(&self, object: &DynamicObject, manager: &str) -> Result<(), Error> {
        let name = object.metadata.name.clone().unwrap_or_default();
        self.api(object)?
            .patch(
                &name,
                &PatchParams::apply(manager).force(),
                &Patch::Apply(object),
            )
            .await
            .map(|_| ())
            .map_err(Error::api(format!("apply {} {name}", kind(object))))
    }
}

/// Until every definition is served; an object of a kind sent earlier is refused.
async fn wait_established(known: &Known<'_>, definitions: &[&DynamicObject]) -> Result<(), Error> {
    let Some(first) = definitions.first() else {
        return Ok(());
    };
    let api = known.api(first)?;
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
    fn documents_are_taken_apart_and_empty_ones_left_out() {
        let text = "---\n# nothing\n---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n---\n\
                    apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: b\nspec: {}\n";
        let rendered = parse("farplane-system", text).unwrap();
        assert_eq!(rendered.objects.len(), 2);
        let expected = [("farplane-system".to_owned(), "b".to_owned())];
        assert_eq!(rendered.deployments(), expected);
        assert_ne!(rendered.digest(), parse("", "").unwrap().digest());
    }
}
