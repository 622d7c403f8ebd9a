//! Workflows and their runs, which nothing here carries out yet: their statuses say so, and what
//! to do instead. Promises: nobody waits for a run in vain, and none is begun later unasked.

use farplane_functions_types::workflow::{WorkflowRunStatus, WorkflowStatus};
use farplane_functions_types::{Workflow, WorkflowRun};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::context::{Context, keep_statuses, nothing_else};
use crate::objects::{self, Said, Watched, set_condition};

const VALIDATED: &str = "Validated";
const ACCEPTED: &str = "Accepted";
const REASON: &str = "NotSupported";
const FAILED: &str = "Failed";
/// Phases that are never left.
const ENDED: [&str; 4] = ["Succeeded", FAILED, "Cancelled", "TimedOut"];
const MESSAGE: &str =
    "workflows do not run on this platform yet; chain functions by spec.invocation.onSuccess";

/// The status that a workflow should have; none when it has it.
fn decide(workflow: &Workflow, now: &Time) -> Option<WorkflowStatus> {
    let generation = workflow.metadata.generation;
    let old = workflow.status.clone().unwrap_or_default();
    let mut status = old.clone();
    status.observed_generation = generation;
    let said = Said::no(REASON, MESSAGE);
    set_condition(&mut status.conditions, VALIDATED, &said, generation, now);
    (status != old).then_some(status)
}

/// The status that a run should have; none when it has it, or had ended before.
fn decide_run(run: &WorkflowRun, now: &Time) -> Option<WorkflowRunStatus> {
    let generation = run.metadata.generation;
    let old = run.status.clone().unwrap_or_default();
    if ENDED.contains(&old.phase.as_str()) {
        return None;
    }
    let mut status = old;
    FAILED.clone_into(&mut status.phase);
    REASON.clone_into(&mut status.error_type);
    MESSAGE.clone_into(&mut status.cause);
    status.finished_at = Some(now.clone());
    status.observed_generation = generation;
    let said = Said::no(REASON, MESSAGE);
    set_condition(&mut status.conditions, ACCEPTED, &said, generation, now);
    Some(status)
}

/// Keeps the statuses of both until told to stop.
pub(crate) async fn run(context: Context, all: Watched<Workflow>, runs: Watched<WorkflowRun>) {
    let workflows = keep_statuses(
        &context,
        all,
        |workflow| decide(workflow, &objects::now()),
        nothing_else(),
    );
    let runs = keep_statuses(
        &context,
        runs,
        |run| decide_run(run, &objects::now()),
        nothing_else(),
    );
    tokio::join!(workflows, runs);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(status: serde_json::Value) -> WorkflowRun {
        serde_json::from_value(json!({
            "apiVersion": "fission.io/v1", "kind": "WorkflowRun",
            "metadata": { "name": "r", "namespace": "ns", "generation": 1 },
            "spec": { "workflowRef": "w", "input": [1, "two"] },
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_run_fails_once_and_says_why() {
        let now = objects::now();
        let status = decide_run(&run(json!({})), &now).unwrap();
        assert_eq!(status.phase, "Failed");
        assert!(status.cause.contains("invocation.onSuccess"));
        assert_eq!(status.conditions[0].type_, "Accepted");
        assert_eq!(status.conditions[0].status, "False");
        let told = run(serde_json::to_value(&status).unwrap());
        assert_eq!(decide_run(&told, &now), None);
    }

    #[test]
    fn a_run_that_ended_elsewhere_keeps_its_end() {
        for phase in ENDED {
            let ended = run(json!({ "phase": phase }));
            assert_eq!(decide_run(&ended, &objects::now()), None);
        }
        let began = run(json!({ "phase": "Running" }));
        assert!(decide_run(&began, &objects::now()).is_some());
    }

    #[test]
    fn a_workflow_is_told_of_each_generation_once() {
        let mut workflow: Workflow = serde_json::from_value(json!({
            "apiVersion": "fission.io/v1", "kind": "Workflow",
            "metadata": { "name": "w", "namespace": "ns", "generation": 1 },
            "spec": { "startAt": "a", "states": { "a": { "type": "Succeed" } } },
        }))
        .unwrap();
        let now = objects::now();
        let status = decide(&workflow, &now).unwrap();
        assert_eq!(status.conditions[0].reason, "NotSupported");
        workflow.status = Some(status);
        assert_eq!(decide(&workflow, &now), None);
        workflow.metadata.generation = Some(2);
        let status = decide(&workflow, &now).unwrap();
        assert_eq!(status.observed_generation, Some(2));
    }
}
