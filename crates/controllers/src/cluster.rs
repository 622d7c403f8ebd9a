//! Clusters: a control plane at the hub, nodes on the organization's hosts.
//!
//! Flow of one look: gather -> Services -> keys -> workloads and plans at the same time
//! (hosts prepare while the API server starts) -> once it answers: approvals, add-ons,
//! strays -> status. What must exist is decided by `farplane-kubernetes`; here is only what
//! reads and writes. A cluster that is not ready is looked at again within
//! [`PROVISIONING`]; a ready one on changes, of its Pods, hosts, plans, nodes.

mod artifacts;
mod claim;
mod gather;
mod hosts;
mod objects;
mod observe;
mod planes;
mod remove;
mod status;
mod store;

use std::sync::Arc;
use std::time::Duration;

use farplane_types::KubernetesCluster;
use kube::ResourceExt as _;

use crate::context::Context;
use crate::error::Error;

pub(crate) use artifacts::Index;
pub(crate) use objects::Memory;
pub(crate) use planes::Planes;

fn kubeconfig_secret(cluster: &KubernetesCluster) -> String {
    format!("{}-kubeconfig", cluster.name_any())
}

pub(crate) async fn run(_context: Arc<Context>) -> Error {
    std::future::pending().await
}
