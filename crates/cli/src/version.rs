//! `farplane version`

use anyhow::Result;
use farplane_types::kubernetes_cluster::DEFAULT_VERSION;
use serde_json::json;

use crate::App;

/// Prints the version of this program and of the Kubernetes that it orders by default.
pub(crate) fn run(app: &App) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let value = json!({ "farplane": version, "kubernetes": DEFAULT_VERSION });
    app.out.value(&value, |_| {
        format!("farplane {version}\nKubernetes {DEFAULT_VERSION} by default\n")
    })
}
