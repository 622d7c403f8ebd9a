//! Changes a function, or makes it when there is none.

use anyhow::{Context as _, Result};
use farplane_functions_types::{Function, FunctionSpec};
use kube::api::{Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use super::package;
use crate::functions::merge;
use crate::functions::place::InNamespace;
use crate::objects::{self, FIELD_MANAGER, Kind as _};

/// Brings a function to a spec; tells what came of it. A package that it no longer uses goes.
pub(crate) async fn to(
    client: &Client,
    at: &InNamespace,
    old: &Function,
    spec: FunctionSpec,
) -> Result<Option<Function>> {
    let name = old.name_any();
    let words = "compare both states of the function";
    let before = serde_json::to_value(&old.spec).context(words)?;
    let after = serde_json::to_value(&spec).context(words)?;
    let Some(change) = merge::patch(&before, &after) else {
        return Ok(None);
    };
    let place = Some(at.namespace.as_str());
    let changed = Function::api(client.clone(), place)
        .patch(
            &name,
            &PatchParams {
                field_manager: Some(FIELD_MANAGER.to_owned()),
                ..PatchParams::default()
            },
            &Patch::Merge(json!({ "spec": change })),
        )
        .await
        .map_err(|error| objects::about::<Function>("change", place, &name).explain(error))?;
    let (old, new) = (
        &old.spec.package.package_ref.name,
        &spec.package.package_ref.name,
    );
    if old != new {
        package::release(client, &at.namespace, old, &name).await?;
    }
    Ok(Some(changed))
}
