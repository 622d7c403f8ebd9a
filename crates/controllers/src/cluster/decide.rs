//! What `farplane-kubernetes` decides, in the words of this controller. Pure.

use std::collections::{BTreeMap, BTreeSet};

use farplane_types::{HostPlanSpec, KubernetesCluster, KubernetesClusterStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use serde_json::Value;

use super::approve::Answer;
use super::gather::World;
use super::hosts;
pub(super) use super::observe::Observed as PlaneView;
use crate::error::Error;
use crate::settings::Settings;

/// Keys of a plane as they shall be.
pub(super) struct Keys {
    /// Secrets in the plane's namespace.
    pub secrets: Vec<Value>,
    /// For this process, by the Service's address.
    pub admin_kubeconfig: String,
}

/// Plans by host, and hosts that were asked for but cannot be had, with the reason.
pub(super) struct Wanted {
    pub plans: BTreeMap<String, HostPlanSpec>,
    pub refused: BTreeMap<String, String>,
}

fn absent(cluster: &KubernetesCluster) -> Error {
    Error::Decide {
        cluster: cluster.name_any(),
        source: "this build has no blueprint of clusters".into(),
    }
}

/// Namespace and Services.
pub(super) fn services(
    cluster: &KubernetesCluster,
    _settings: &Settings,
) -> Result<Vec<Value>, Error> {
    Err(absent(cluster))
}

/// Keys, with what is due renewed.
pub(super) fn keys(
    cluster: &KubernetesCluster,
    _world: &World,
    _addresses: &BTreeMap<String, String>,
    _settings: &Settings,
    _now: &Time,
) -> Result<Keys, Error> {
    Err(absent(cluster))
}

/// Workloads of the control plane, with the configuration that they mount.
pub(super) fn control_plane(
    cluster: &KubernetesCluster,
    _world: &World,
    _keys: &Keys,
    _addresses: &BTreeMap<String, String>,
    _settings: &Settings,
) -> Result<Vec<Value>, Error> {
    Err(absent(cluster))
}

/// Plans of the chosen hosts.
pub(super) fn plans(
    cluster: &KubernetesCluster,
    _world: &World,
    _keys: &Keys,
    _settings: &Settings,
) -> Result<Wanted, Error> {
    Err(absent(cluster))
}

/// Answers to the open requests.
pub(super) fn answers(
    _cluster: &KubernetesCluster,
    _world: &World,
    _view: &PlaneView,
) -> Vec<Answer> {
    Vec::new()
}

/// What runs inside the cluster.
pub(super) fn addons(
    cluster: &KubernetesCluster,
    _settings: &Settings,
) -> Result<Vec<Value>, Error> {
    Err(absent(cluster))
}

/// The Secret with the kubeconfig for people.
pub(super) fn kubeconfig(
    cluster: &KubernetesCluster,
    _keys: &Keys,
    _settings: &Settings,
) -> Result<Value, Error> {
    Err(absent(cluster))
}

/// Nodes without a plan of this cluster: their hosts left, or never belonged to it.
pub(super) fn strays(cluster: &KubernetesCluster, world: &World, view: &PlaneView) -> Vec<String> {
    let ours = world
        .plans
        .iter()
        .filter(|plan| hosts::is_ours(cluster, plan));
    let ours: BTreeSet<String> = ours.map(|plan| plan.name_any()).collect();
    let nodes = view.nodes.iter().map(|node| node.name_any());
    nodes.filter(|node| !ours.contains(node)).collect()
}

/// The status, from what was seen.
pub(super) fn status(
    cluster: &KubernetesCluster,
    _world: &World,
    _view: Option<&PlaneView>,
    _refused: &BTreeMap<String, String>,
    _settings: &Settings,
    _now: Time,
) -> KubernetesClusterStatus {
    cluster.status.clone().unwrap_or_default()
}
