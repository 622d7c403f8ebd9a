//! Custom resources, ids and wire messages that the parts of Farplane share.
//!
//! One file per kind. No IO. The generated definitions are in `charts/farplane/crds`
//! and a check fails when they drift from this crate.

// Each printer column repeats `type_`, which the lint takes for a repeated attribute.
#![allow(clippy::duplicated_attributes)]

mod causes;
pub mod conditions;
pub mod endpoint;
pub mod host;
pub mod host_plan;
pub mod identity;
pub mod join_token;
pub mod kubernetes_cluster;
pub mod names;
pub mod organization;
pub mod token;
pub mod wire;

pub use causes::causes;
pub use endpoint::{Endpoint, EndpointSpec, EndpointStatus};
pub use host::{Host, HostConnection, HostFacts, HostProvider, HostSpec, HostStatus};
pub use host_plan::{
    HostPlan, HostPlanSpec, HostPlanStatus, Listener, PlaneReference, Readiness, Unit, UnitState,
    UnitStatus,
};
pub use join_token::{JoinToken, JoinTokenSpec, JoinTokenStatus};
pub use kubernetes_cluster::{
    ControlPlaneSpec, HostSelection, KubernetesCluster, KubernetesClusterSpec,
    KubernetesClusterStatus, NetworkProvider, NetworkSpec, NodeStatus, PhaseStatus,
};
pub use organization::Organization;
pub use organization::{
    Member, OrganizationLimits, OrganizationSpec, OrganizationStatus, OrganizationUsage, Role,
    Subject,
};

/// API group of every kind.
pub const GROUP: &str = "farplane.io";
/// API version of every kind.
pub const VERSION: &str = "v1alpha1";

/// Every definition, in the order in which they are applied.
pub fn all_crds()
-> Vec<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition>
{
    use kube::CustomResourceExt as _;
    vec![
        Organization::crd(),
        Endpoint::crd(),
        Host::crd(),
        HostPlan::crd(),
        JoinToken::crd(),
        KubernetesCluster::crd(),
    ]
}
