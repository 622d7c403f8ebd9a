//! The kinds that specs may have, in the order in which they are applied.

use farplane_functions_types as types;
use farplane_functions_types::names::{GROUP, VERSION};
use kube::core::{ApiResource, GroupVersionKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A kind, and how its objects are compared.
#[derive(Clone, Copy)]
pub(super) struct SpecKind {
    /// As in objects.
    pub kind: &'static str,
    /// As in addresses.
    plural: &'static str,
    /// Word for one of them.
    pub noun: &'static str,
    normal: fn(&Value) -> serde_json::Result<Value>,
}

impl std::fmt::Debug for SpecKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.kind)
    }
}

/// Every kind: what others refer to comes first.
pub(super) const ALL: [SpecKind; 10] = [
    kind::<types::EnvironmentSpec>("Environment", "environments", "environment"),
    kind::<types::PackageSpec>("Package", "packages", "package"),
    kind::<types::FunctionSpec>("Function", "functions", "function"),
    kind::<types::release::FunctionAliasSpec>("FunctionAlias", "functionaliases", "alias"),
    kind::<types::HTTPTriggerSpec>("HTTPTrigger", "httptriggers", "route"),
    kind::<types::triggers::KubernetesWatchTriggerSpec>(
        "KubernetesWatchTrigger",
        "kuberneteswatchtriggers",
        "watch",
    ),
    kind::<types::triggers::TimeTriggerSpec>("TimeTrigger", "timetriggers", "timer"),
    kind::<types::workflow::WorkflowSpec>("Workflow", "workflows", "workflow"),
    kind::<types::triggers::MessageQueueTriggerSpec>(
        "MessageQueueTrigger",
        "messagequeuetriggers",
        "message queue trigger",
    ),
    kind::<types::release::CanaryConfigSpec>("CanaryConfig", "canaryconfigs", "canary"),
];

const fn kind<S: DeserializeOwned + Serialize>(
    kind: &'static str,
    plural: &'static str,
    noun: &'static str,
) -> SpecKind {
    SpecKind {
        kind,
        plural,
        noun,
        normal: normal::<S>,
    }
}

fn normal<S: DeserializeOwned + Serialize>(spec: &Value) -> serde_json::Result<Value> {
    serde_json::to_value(S::deserialize(spec)?)
}

impl SpecKind {
    /// The kind of this name.
    pub fn of(kind: &str) -> Option<&'static Self> {
        ALL.iter().find(|one| one.kind == kind)
    }

    /// Place in the order.
    pub fn rank(&self) -> usize {
        let rank = ALL.iter().position(|one| one.kind == self.kind);
        rank.unwrap_or(ALL.len())
    }

    /// For requests.
    pub fn resource(&self) -> ApiResource {
        let kind = GroupVersionKind::gvk(GROUP, VERSION, self.kind);
        ApiResource::from_gvk_with_plural(&kind, self.plural)
    }

    /// A spec with every default written out the same way; fields that we do not know are not
    /// in it.
    pub fn normal(&self, spec: &Value) -> serde_json::Result<Value> {
        (self.normal)(spec)
    }
}
