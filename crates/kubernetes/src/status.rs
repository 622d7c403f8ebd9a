//! Status.
use crate::{Choice, Keys, World};
use farplane_blueprint::Refusal;
use farplane_types::KubernetesClusterStatus;
use serde_json::Value;
use std::collections::BTreeMap;
/// The Secret `<cluster>-kubeconfig` in the organization's namespace.
pub fn public_kubeconfig(_world: &World, _keys: &Keys) -> Value {
    Value::Null
}
/// Status of a cluster whose objects were applied. `lost` says, by host, why its plan could
/// not be claimed (another cluster was quicker).
pub fn status(
    world: &World,
    _choice: &Choice,
    _lost: &BTreeMap<String, String>,
) -> KubernetesClusterStatus {
    world.cluster.status.clone().unwrap_or_default()
}
/// Status of a cluster that [`crate::admit`] refused.
pub fn refused(world: &World, _refusal: &Refusal) -> KubernetesClusterStatus {
    world.cluster.status.clone().unwrap_or_default()
}
