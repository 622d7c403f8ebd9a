//! Plans that were deleted: held until their host has undone them.
//!
//! A deleted plan stays, with its finalizer, until the agent reported that nothing of it
//! is left, or the host is gone or away. A host that is away undoes the plan when it
//! returns, as it finds no plan then. So a host is never claimed again while it still
//! runs something that its agent could stop.

use std::sync::Arc;
use std::time::Duration;

use farplane_types::host::{CONNECTED, ENROLLED};
use farplane_types::{Host, HostPlan, conditions};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::EventType;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;

use crate::context::{Context, drive};
use crate::error::Error;
use crate::object::{self, age_ms};

/// Condition: a deleted plan has been undone on the host.
pub(crate) const RELEASED: &str = "Released";
/// A host without a tunnel for so long is away; a shorter gap is a gateway's restart.
const AWAY_MS: u64 = 10_000;
/// An agent that is connected but cannot undo its plan holds a deletion no longer.
const LONGEST_MS: u64 = 300_000;

/// Runs the controller.
pub(crate) async fn run(context: Arc<Context>) -> Error {
    let client = context.client.clone();
    let any = watcher::Config::default;
    let controller = Controller::new(Api::<HostPlan>::all(client.clone()), any()).watches(
        Api::<PartialObjectMeta<Host>>::all(client),
        any(),
        |host| Some(ObjectRef::new(&host.name_any()).within(&host.namespace()?)),
    );
    drive("HostPlan", controller, context, reconcile).await
}

async fn reconcile(plan: Arc<HostPlan>, context: Arc<Context>) -> Result<Action, Error> {
    if !object::is_deleting(plan.as_ref()) || !object::has_finalizer(plan.as_ref()) {
        return Ok(Action::await_change());
    }
    let (namespace, name) = (plan.namespace().unwrap_or_default(), plan.name_any());
    let host = Api::<Host>::namespaced(context.client.clone(), &namespace)
        .get_opt(&name)
        .await
        .map_err(Error::hub(format!("read Host {namespace}/{name}")))?;
    let decision = decide(&plan, host.as_ref(), &object::now());
    if let (Release::Forced, Some(host)) = (&decision, &host) {
        let note = "the agent did not undo its plan in time; what is left is undone when it reads its plan next";
        object::tell(&context, host, EventType::Warning, "NotClean", note).await;
    }
    match decision {
        Release::Wait(pause) => Ok(Action::requeue(pause)),
        Release::Now | Release::Forced => {
            let api = Api::<HostPlan>::namespaced(context.client.clone(), &namespace);
            object::remove_finalizer(&api, plan.as_ref()).await?;
            Ok(Action::await_change())
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Release {
    Now,
    /// Not undone, but waited for long enough.
    Forced,
    Wait(Duration),
}

fn decide(plan: &HostPlan, host: Option<&Host>, now: &Time) -> Release {
    let own = plan
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice());
    if conditions::is_true(own.unwrap_or_default(), RELEASED) {
        return Release::Now;
    }
    let Some(status) = host.and_then(|host| host.status.as_ref()) else {
        return Release::Now; // gone, or never heard of
    };
    let Some(connected) = conditions::get(&status.conditions, CONNECTED) else {
        return Release::Now;
    };
    if !conditions::is_true(&status.conditions, ENROLLED) {
        return Release::Now; // no agent ever had it, or the lab host's machine is gone
    }
    let deleted = plan.metadata.deletion_timestamp.as_ref();
    let waited = deleted.map_or(0, |since| age_ms(since, now));
    if waited >= LONGEST_MS {
        return Release::Forced;
    }
    if connected.status == "True" {
        return Release::Wait(Duration::from_millis(LONGEST_MS - waited));
    }
    let away = age_ms(&connected.last_transition_time, now);
    if away >= AWAY_MS {
        return Release::Now;
    }
    Release::Wait(Duration::from_millis(AWAY_MS - away))
}

#[cfg(test)]
mod tests {
    use super::*;
    use farplane_types::{
        HostPlanSpec, HostPlanStatus, HostProvider, HostSpec, HostStatus, PlaneReference,
    };
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn plan(deleted: i64) -> HostPlan {
        let mut plan = HostPlan::new(
            "h",
            HostPlanSpec {
                plane: PlaneReference {
                    kind: "KubernetesCluster".into(),
                    name: "c".into(),
                    uid: "u".into(),
                },
                listeners: vec![],
                reachable: vec![],
                units: vec![],
            },
        );
        plan.metadata.deletion_timestamp = Some(at(deleted));
        plan
    }

    fn host(connected: bool, since: i64) -> Host {
        let mut status = HostStatus::default();
        conditions::set(&mut status.conditions, ENROLLED, true, "X", "", None, at(0));
        conditions::set(
            &mut status.conditions,
            CONNECTED,
            connected,
            "X",
            "",
            None,
            at(since),
        );
        let mut host = Host::new(
            "h",
            HostSpec {
                endpoint: "e".into(),
                provider: HostProvider::Own,
                unschedulable: false,
            },
        );
        host.status = Some(status);
        host
    }

    #[test]
    fn a_connected_host_is_waited_for_until_it_is_clean() {
        let mut plan = plan(1000);
        let host = host(true, 0);
        assert!(matches!(
            decide(&plan, Some(&host), &at(1001)),
            Release::Wait(_)
        ));
        let mut status = HostPlanStatus::default();
        conditions::set(
            &mut status.conditions,
            RELEASED,
            true,
            "Undone",
            "",
            None,
            at(1002),
        );
        plan.status = Some(status);
        assert_eq!(decide(&plan, Some(&host), &at(1002)), Release::Now);
    }

    #[test]
    fn a_host_that_is_away_or_gone_holds_nothing_up() {
        assert_eq!(decide(&plan(1000), None, &at(1000)), Release::Now);
        assert_eq!(
            decide(&plan(1000), Some(&host(false, 900)), &at(1000)),
            Release::Now
        );
        let gap = decide(&plan(1000), Some(&host(false, 996)), &at(1000));
        assert_eq!(gap, Release::Wait(Duration::from_secs(6)));
    }

    #[test]
    fn an_agent_that_cannot_clean_is_waited_for_so_long_only() {
        let host = host(true, 0);
        assert_eq!(decide(&plan(1000), Some(&host), &at(1300)), Release::Forced);
    }
}
