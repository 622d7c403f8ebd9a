//! What an agent says, written to the API: facts to its `Host`, reports to its `HostPlan`.
//!
//! The plan stream puts the newest state into a slot; one task per stream writes what
//! changed, at most once per [`PACE`], so that an agent's pace is not the API's. A failed
//! write is repeated with what is newest then; once the stream has ended, only a few times.

use std::sync::Arc;
use std::time::Duration;

use farplane_types::host_plan::APPLIED;
use farplane_types::{
    Host, HostFacts, HostPlan, HostPlanStatus, UnitState, UnitStatus, conditions,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use serde_json::json;
use tokio::sync::watch;

use crate::gateway::Gateway;
use crate::status::{self, StatusError};
use crate::world::Key;

/// Condition: a deleted plan has been undone on the host.
pub const RELEASED: &str = "Released";
/// Shortest time between two writes for one host.
const PACE: Duration = Duration::from_millis(200);
/// Pause after a failed write.
const RETRY: Duration = Duration::from_secs(1);
/// Tries once the stream has ended.
const LAST_TRIES: usize = 3;

/// State of a plan, as its agent reported it.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// UID of the plan that was sent on this stream.
    pub plan: String,
    /// Generation spoken of.
    pub generation: i64,
    /// Whether every unit is ready.
    pub applied: bool,
    /// One per unit.
    pub units: Vec<UnitStatus>,
}

/// The newest that is to be written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pending {
    /// The machine.
    pub facts: Option<HostFacts>,
    /// Its plan.
    pub report: Option<Report>,
    /// UID of a plan of which nothing is left on the host.
    pub released: Option<String>,
}

/// Writes what comes into the slot until its sender is gone and all is written.
pub async fn run(gateway: Arc<Gateway>, uid: String, key: Key, mut slot: watch::Receiver<Pending>) {
    let known = gateway.world.read(|world| {
        let plan = world.plan(&key);
        plan.map(|plan| (plan.uid.clone(), plan.conditions.clone()))
    });
    let mut writer = Writer {
        gateway,
        uid,
        key,
        written: Pending::default(),
        conditions: known.unwrap_or_default(),
    };
    while slot.changed().await.is_ok() {
        let mut tries = 0;
        loop {
            let pending = slot.borrow_and_update().clone();
            let Err(error) = writer.write(pending).await else {
                break;
            };
            let reason = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(host = writer.key.name, %error, reason, "will be repeated");
            tries += 1;
            if slot.has_changed().is_err() && tries >= LAST_TRIES {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
        tokio::time::sleep(PACE).await;
    }
}

struct Writer {
    gateway: Arc<Gateway>,
    uid: String,
    key: Key,
    written: Pending,
    /// Conditions as last known, with the UID of the plan they are of.
    conditions: (String, Vec<Condition>),
}

impl Writer {
    async fn write(&mut self, pending: Pending) -> Result<(), StatusError> {
        let client = self.gateway.client.clone();
        if pending.facts != self.written.facts {
            let api: Api<Host> = Api::namespaced(client.clone(), &self.key.namespace);
            let body = json!({ "facts": pending.facts });
            let manager = status::AGENT_MANAGER;
            status::apply(&api, &self.key.name, &self.uid, manager, body).await?;
            self.written.facts.clone_from(&pending.facts);
        }
        let same =
            pending.report == self.written.report && pending.released == self.written.released;
        if same {
            return Ok(());
        }
        let released = pending.released.clone();
        let Some(plan) = released.or_else(|| pending.report.as_ref().map(|it| it.plan.clone()))
        else {
            return Ok(());
        };
        if self.conditions.0 != plan {
            self.conditions = (plan.clone(), Vec::new());
        }
        let body = plan_status(
            &plan,
            &pending,
            &mut self.conditions.1,
            Time(Timestamp::now()),
        );
        let api: Api<HostPlan> = Api::namespaced(client, &self.key.namespace);
        let body = json!(body);
        status::apply(&api, &self.key.name, &plan, status::AGENT_MANAGER, body).await?;
        self.written = pending;
        Ok(())
    }
}

/// Status of the plan with this UID; `list` carries conditions from one write to the next.
fn plan_status(
    plan: &str,
    pending: &Pending,
    list: &mut Vec<Condition>,
    now: Time,
) -> HostPlanStatus {
    let report = pending.report.as_ref().filter(|report| report.plan == plan);
    if let Some(report) = report {
        let (reason, message) = summary(report);
        let generation = Some(report.generation);
        conditions::set(
            list,
            APPLIED,
            report.applied,
            reason,
            message,
            generation,
            now.clone(),
        );
    }
    if pending.released.as_deref() == Some(plan) {
        conditions::set(list, RELEASED, true, "Undone", "", None, now);
    }
    HostPlanStatus {
        observed_generation: report.map(|report| report.generation),
        units: report
            .map(|report| report.units.clone())
            .unwrap_or_default(),
        conditions: list.clone(),
    }
}

fn summary(report: &Report) -> (&'static str, String) {
    let first = |state| report.units.iter().find(|unit| unit.state == state);
    if report.applied {
        return ("AllUnitsReady", String::new());
    }
    let (reason, unit) = match (first(UnitState::Failed), first(UnitState::Applying)) {
        (Some(unit), _) => ("UnitFailed", Some(unit)),
        (None, Some(unit)) => ("Applying", Some(unit)),
        (None, None) => ("Waiting", first(UnitState::Waiting)),
    };
    let message = unit.map_or_else(String::new, |unit| {
        format!("{}: {}", unit.unit, unit.message)
    });
    (reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str, state: UnitState) -> UnitStatus {
        UnitStatus {
            unit: name.into(),
            state,
            message: "why".into(),
        }
    }

    fn pending(applied: bool, units: Vec<UnitStatus>) -> Pending {
        Pending {
            report: Some(Report {
                plan: "p".into(),
                generation: 3,
                applied,
                units,
            }),
            ..Pending::default()
        }
    }

    #[test]
    fn a_failed_unit_is_named_before_others() {
        let units = vec![
            unit("process/a", UnitState::Applying),
            unit("process/b", UnitState::Failed),
        ];
        let mut list = Vec::new();
        let now = Time(Timestamp::UNIX_EPOCH);
        let status = plan_status("p", &pending(false, units), &mut list, now);
        let applied = conditions::get(&status.conditions, APPLIED).unwrap();
        assert_eq!(applied.reason, "UnitFailed");
        assert_eq!(applied.message, "process/b: why");
        assert_eq!(status.observed_generation, Some(3));
    }

    #[test]
    fn release_is_said_of_the_deleted_plan_only() {
        let mut list = Vec::new();
        let now = Time(Timestamp::UNIX_EPOCH);
        let mut state = pending(true, Vec::new());
        state.released = Some("older".into());
        let status = plan_status("p", &state, &mut list, now.clone());
        assert!(!conditions::is_true(&status.conditions, RELEASED));
        state.released = Some("p".into());
        let status = plan_status("p", &state, &mut list, now);
        assert!(conditions::is_true(&status.conditions, RELEASED));
    }
}
