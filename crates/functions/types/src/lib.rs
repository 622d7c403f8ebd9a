//! Kinds, names, signatures and messages of the function platform. No IO.
//!
//! The kinds are Fission's (`fission.io/v1`): same JSON, so that its command and its YAML work.
//! Fields that we do not know are kept by the API server and never written by us. The generated
//! definitions are in `charts/functions/crds`.

// Each printer column repeats `type_`, which the lint takes for a repeated attribute.
#![allow(clippy::duplicated_attributes)]

pub mod auth;
pub mod environment;
pub mod function;
pub mod names;
pub mod package;
pub mod raw;
pub mod release;
pub mod triggers;
pub mod wire;
pub mod workflow;

pub use environment::{Environment, EnvironmentSpec};
pub use function::{ExecutorType, Function, FunctionSpec, ObjectReference};
pub use package::{Archive, Checksum, Package, PackageSpec};
pub use raw::RawObject;
pub use release::{
    CanaryConfig, FissionTenant, FunctionAlias, FunctionVersion, FunctionVersionSpec,
};
pub use triggers::{
    CorsConfig, FunctionReference, HTTPTrigger, HTTPTriggerSpec, KubernetesWatchTrigger,
    MessageQueueTrigger, TimeTrigger,
};
pub use workflow::{Workflow, WorkflowRun};

/// Every definition, in the order in which they are applied.
pub fn all_crds()
-> Vec<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition>
{
    use kube::CustomResourceExt as _;
    vec![
        Environment::crd(),
        Package::crd(),
        Function::crd(),
        FunctionVersion::crd(),
        FunctionAlias::crd(),
        HTTPTrigger::crd(),
        TimeTrigger::crd(),
        KubernetesWatchTrigger::crd(),
        Workflow::crd(),
        WorkflowRun::crd(),
        MessageQueueTrigger::crd(),
        CanaryConfig::crd(),
        FissionTenant::crd(),
    ]
}
