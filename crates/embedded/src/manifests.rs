//! The chart of the hub itself: its values, and what was applied of it before.
//!
//! A rendering that was applied before is not applied again, so `up` on a running hub is
//! quick.

use std::fs;
use std::path::{Path, PathBuf};

use farplane_types::names::SYSTEM_NAMESPACE;
use kube::Client;
use serde_json::{Value, json};

use crate::chart::{Chart, Identity, Rendered};
use crate::error::Error;
use crate::files::{Files, write};
use crate::images::Index;
use crate::record::Record;

const FIELD_MANAGER: &str = "farplane-up";

/// What to render.
pub(crate) struct Manifests<'a> {
    pub dist: &'a Path,
    pub chart: &'a Path,
    pub values: &'a [PathBuf],
    pub record: &'a Record,
    pub files: &'a Files,
}

impl Manifests<'_> {
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
            "registry": { "hostPath": self.files.registry() },
            "store": { "hostPath": self.files.stores() },
            "labs": { "enabled": true },
        })
    }

    pub async fn render(&self, index: &Index) -> Result<Rendered, Error> {
        let own = self.files.config().join("values.json");
        write(&own, self.values(index).to_string().as_bytes(), 0o600)?;
        let mut values = vec![own];
        values.extend_from_slice(self.values);
        let chart = Chart {
            helm: &self.dist.join("bin/helm"),
            chart: self.chart,
            release: "farplane",
            namespace: SYSTEM_NAMESPACE,
            values: &values,
        };
        chart.render().await
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

/// True when this very rendering was applied before.
pub(crate) fn is_applied(rendered: &Rendered, files: &Files) -> bool {
    fs::read_to_string(files.applied()).is_ok_and(|last| last.trim() == rendered.digest())
}

/// Applies a rendering, deletes what an earlier one had more, and writes down both.
pub(crate) async fn apply(
    rendered: &Rendered,
    client: &Client,
    files: &Files,
) -> Result<(), Error> {
    rendered.apply(client, FIELD_MANAGER).await?;
    let path = files.state.join("applied.json");
    let before: Vec<Identity> = fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    rendered.prune(client, &before).await?;
    let text = serde_json::to_vec(&rendered.identities()).unwrap_or_default();
    write(&path, &text, 0o600)?;
    write(&files.applied(), rendered.digest().as_bytes(), 0o600).map(|_| ())
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
}
