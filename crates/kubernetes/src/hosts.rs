//! Choice of hosts.
use crate::World;
use farplane_blueprint::Refusal;
use std::collections::BTreeMap;
/// Chosen hosts, and what was asked for but cannot be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Names, sorted.
    pub hosts: Vec<String>,
    /// Hosts asked for by name that cannot be had: why, and what to do.
    pub refused: BTreeMap<String, String>,
    /// Fewer hosts than asked for.
    pub shortage: Option<Refusal>,
}
/// Chooses hosts; those that the cluster has stay while the selection allows it.
pub fn choose_hosts(_world: &World) -> Choice {
    Choice::default()
}
/// Nodes without a plan of this cluster, to be deleted: their host left.
pub fn strays(_world: &World) -> Vec<String> {
    Vec::new()
}
