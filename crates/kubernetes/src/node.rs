//! Plans of hosts.
use crate::{Choice, KeyError, Keys, World};
use farplane_types::{Host, HostPlanSpec};
use std::collections::BTreeMap;
/// Plan of each chosen host.
///
/// # Errors
/// When a bootstrap certificate cannot be made.
pub fn host_plans(
    _world: &World,
    _keys: &Keys,
    _choice: &Choice,
) -> Result<BTreeMap<String, HostPlanSpec>, KeyError> {
    Ok(BTreeMap::new())
}
/// Plan of one host. The bootstrap certificate of its present plan is kept until due.
///
/// # Errors
/// When a bootstrap certificate cannot be made.
pub fn host_plan(world: &World, _keys: &Keys, _host: &Host) -> Result<HostPlanSpec, KeyError> {
    Ok(HostPlanSpec {
        plane: farplane_types::PlaneReference {
            kind: "KubernetesCluster".into(),
            name: world.name(),
            uid: world.uid().into(),
        },
        listeners: vec![],
        reachable: vec![],
        units: vec![],
    })
}
