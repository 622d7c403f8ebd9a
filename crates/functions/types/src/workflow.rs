//! Workflows: functions that are called one after another. None runs here yet; these are the
//! definitions that commands and directories of YAML need. Each object's status says so.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::raw::{RawValue, or_default};
use crate::triggers::FunctionReference;

/// States, each of which names the next.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "fission.io",
    version = "v1",
    kind = "Workflow",
    plural = "workflows",
    shortname = "wf",
    namespaced,
    status = "WorkflowStatus",
    derive = "PartialEq",
    printcolumn(name = "StartAt", type_ = "string", json_path = ".spec.startAt"),
    printcolumn(
        name = "Validated",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Validated')].status"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct WorkflowSpec {
    /// The first state.
    pub start_at: String,
    /// By name.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 100))]
    pub states: BTreeMap<String, State>,
    /// For states without their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_retry: Option<Retry>,
    /// Of a whole run, such as `1h`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub timeout: String,
    /// Which runs are kept after their end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_retention: Option<Retention>,
}

/// How often, and when, a call is tried again.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct Retry {
    /// Calls in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<i64>,
    /// First pause, such as `1s`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backoff_base: String,
    /// Longest pause.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backoff_cap: String,
    /// Pauses are made unequal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<bool>,
}

/// Which runs are kept.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct Retention {
    /// For so long, such as `168h`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub max_age: String,
    /// So many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_count: Option<i32>,
}

/// One state.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct State {
    /// What states of branches have too.
    #[serde(flatten)]
    pub step: Step,
    /// Of `Parallel`: these run at the same time. Of `Map`: one, for each item.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 10))]
    pub branches: Vec<Branch>,
    /// Of `Map`: where the items are.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub items_path: String,
    /// Of `Map`: items that are worked on at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_concurrency: Option<i32>,
}

/// States within a state.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct Branch {
    /// The first.
    pub start_at: String,
    /// By name.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 20))]
    pub states: BTreeMap<String, Step>,
}

/// What a state does, and what comes after it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct Step {
    /// `Task`, `Choice`, `Parallel`, `Map`, `Wait`, `Succeed` or `Fail`.
    #[serde(rename = "type")]
    #[schemars(regex(pattern = r"^(Task|Choice|Parallel|Map|Wait|Succeed|Fail)$"))]
    pub kind: String,
    /// Of `Task`: what is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionReference>,
    /// Of one call, such as `30s`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub timeout: String,
    /// Instead of the workflow's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Where errors lead; the first that fits.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub catch: Vec<Catch>,
    /// Of `Choice`; the first that holds.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub choices: Vec<Choice>,
    /// Of `Choice`: the next state when none holds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub default: String,
    /// Of `Wait`, such as `5m`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub duration: String,
    /// Which part of the document the state sees.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub input_path: String,
    /// Where in the document its result goes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub result_path: String,
    /// Which part of the document goes on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output_path: String,
    /// The next state.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub next: String,
    /// None comes after it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end: bool,
}

/// Where an error leads.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Catch {
    /// `Fission.All` or one of its kinds of error.
    pub error_type: String,
    /// The next state.
    pub next: String,
    /// Where in the document the error goes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub result_path: String,
}

/// A condition, or several, and the state that comes next when it holds.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Choice {
    /// One alone.
    #[serde(flatten)]
    pub test: Test,
    /// All of these.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub and: Vec<Test>,
    /// Any of these.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub or: Vec<Test>,
    /// Not this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not: Option<Test>,
    /// The state that comes next.
    pub next: String,
}

/// What is asked of one place of the document.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Test {
    /// The place.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variable: String,
    /// It is this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub string_equals: Option<String>,
    /// It is this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numeric_equals: Option<IntOrString>,
    /// It is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numeric_greater_than: Option<IntOrString>,
    /// It is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numeric_less_than: Option<IntOrString>,
    /// It is true, or false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boolean_equals: Option<bool>,
    /// There is something, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_present: Option<bool>,
    /// It is null, or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_null: Option<bool>,
}

/// How a workflow stands.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct WorkflowStatus {
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Validated`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One run of a workflow.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "fission.io",
    version = "v1",
    kind = "WorkflowRun",
    plural = "workflowruns",
    shortname = "wfr",
    namespaced,
    status = "WorkflowRunStatus",
    derive = "PartialEq",
    printcolumn(name = "Workflow", type_ = "string", json_path = ".spec.workflowRef"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Started", type_ = "date", json_path = ".status.startedAt"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[x_kube(
    validation = Rule::new("self.workflowRef == oldSelf.workflowRef && has(self.workflowGeneration) == has(oldSelf.workflowGeneration) && (!has(self.workflowGeneration) || self.workflowGeneration == oldSelf.workflowGeneration)")
        .message("a run cannot be changed; make another")
)]
pub struct WorkflowRunSpec {
    /// The workflow, in the run's own namespace.
    pub workflow_ref: String,
    /// Generation of the workflow that is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_generation: Option<i64>,
    /// The document at the start: any JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<RawValue>,
}

/// How a run stands.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct WorkflowRunStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Cancelled` or `TimedOut`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Kind of the error that ended it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error_type: String,
    /// That error, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub cause: String,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// Generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
