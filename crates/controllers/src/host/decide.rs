//! What a host's status is. Pure.

use std::collections::BTreeSet;

use farplane_types::host::{CONNECTED, ENROLLED};
use farplane_types::{Host, HostConnection, HostPlan, conditions};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::Serialize;

/// What is there.
#[derive(Default)]
pub(super) struct World {
    /// Names of the gateways' Pods.
    pub gateways: BTreeSet<String>,
    pub plan: Option<HostPlan>,
}

/// What this reconciliation found out.
#[derive(Default)]
pub(super) struct Observation {
    pub failure: Option<String>,
    /// A lab host at a hub without labs.
    pub labs_off: bool,
    /// The Pod that held the agent's keys is gone.
    pub lost_identity: bool,
}

/// Our fields of the status; the others belong to the gateways.
#[derive(Serialize, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    pub conditions: Vec<Condition>,
}

fn is_alive(connection: &HostConnection, world: &World) -> bool {
    world.gateways.contains(&connection.gateway)
}

/// The connections that remain when those of dead gateways go; `None` when all live.
pub(super) fn pruned(host: &Host, world: &World) -> Option<Vec<HostConnection>> {
    let all = &host.status.as_ref()?.connections;
    let living = all.iter().filter(|one| is_alive(one, world));
    let living: Vec<_> = living.cloned().collect();
    (living.len() < all.len()).then_some(living)
}

pub(super) fn status(host: &Host, world: &World, seen: &Observation, now: Time) -> Status {
    let old = host.status.clone().unwrap_or_default();
    let generation = host.metadata.generation;
    let connected = old.connections.iter().any(|one| is_alive(one, world));
    let enrolled = conditions::is_true(&old.conditions, ENROLLED) && !seen.lost_identity;
    let missing = old.facts.map(|facts| facts.missing).unwrap_or_default();
    let mut list: Vec<Condition> = old
        .conditions
        .into_iter()
        .filter(|one| {
            let ours = one.type_ == CONNECTED || one.type_ == conditions::READY;
            // Ours too while we say that the enrolment is void.
            ours || (one.type_ == ENROLLED && (one.status == "False" || seen.lost_identity))
        })
        .collect();
    if seen.lost_identity {
        let reason = "IdentityLost";
        let message = "the Pod of the lab host is gone, a new one enrols again";
        conditions::set(
            &mut list,
            ENROLLED,
            false,
            reason,
            message,
            generation,
            now.clone(),
        );
    }
    let (reason, message) = if connected {
        ("Connected", "")
    } else {
        (
            "NotConnected",
            "no gateway holds a tunnel of this host; check that farplane-agent runs on it and reaches the hub",
        )
    };
    conditions::set(
        &mut list,
        CONNECTED,
        connected,
        reason,
        message,
        generation,
        now.clone(),
    );
    let (ready, reason, message) = if let Some(failure) = &seen.failure {
        (false, "Failed", failure.clone())
    } else if seen.labs_off {
        let message = "this hub serves no lab hosts; its operator can set labs.enabled";
        (false, "LabsDisabled", message.to_owned())
    } else if !enrolled {
        let message = "no agent has joined under this name; run the command that `farplane host join-command` prints";
        (false, "NotEnrolled", message.to_owned())
    } else if !connected {
        (false, "NotConnected", message.to_owned())
    } else if missing.is_empty() {
        (true, "Ready", String::new())
    } else {
        (
            false,
            "Unfit",
            format!("the machine lacks: {}", missing.join("; ")),
        )
    };
    conditions::set(
        &mut list,
        conditions::READY,
        ready,
        reason,
        message,
        generation,
        now,
    );
    Status {
        observed_generation: generation,
        cluster: world.plan.as_ref().map(|plan| plan.spec.plane.name.clone()),
        conditions: list,
    }
}

/// True when writing `new` would change something.
pub(super) fn differs(host: &Host, new: &Status) -> bool {
    let Some(old) = &host.status else {
        return true;
    };
    old.observed_generation != new.observed_generation
        || old.cluster != new.cluster
        || new
            .conditions
            .iter()
            .any(|one| !old.conditions.contains(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use farplane_types::{HostFacts, HostProvider, HostSpec, HostStatus};
    use k8s_openapi::jiff::Timestamp;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    fn connection(gateway: &str) -> HostConnection {
        HostConnection {
            gateway: gateway.into(),
            address: "10.0.0.1:8443".into(),
            epoch: 1,
            since: at(1),
        }
    }

    fn host(enrolled: bool, gateways: &[&str], missing: &[&str]) -> Host {
        let spec = HostSpec {
            endpoint: "e".into(),
            provider: HostProvider::Own,
            unschedulable: false,
        };
        let mut status = HostStatus {
            connections: gateways.iter().map(|name| connection(name)).collect(),
            facts: Some(HostFacts {
                missing: missing.iter().map(|&one| one.to_owned()).collect(),
                ..HostFacts::default()
            }),
            ..HostStatus::default()
        };
        if enrolled {
            conditions::set(&mut status.conditions, ENROLLED, true, "X", "", None, at(1));
        }
        let mut host = Host::new("h", spec);
        host.status = Some(status);
        host
    }

    fn world(gateways: &[&str]) -> World {
        World {
            gateways: gateways.iter().map(|&one| one.to_owned()).collect(),
            plan: None,
        }
    }

    fn ready(status: &Status) -> (&str, &str) {
        let ready = conditions::get(&status.conditions, conditions::READY).unwrap();
        (ready.status.as_str(), ready.reason.as_str())
    }

    #[test]
    fn a_tunnel_counts_only_while_its_gateway_lives() {
        let host = host(true, &["a", "b"], &[]);
        let both = status(&host, &world(&["a", "b"]), &Observation::default(), at(2));
        assert_eq!(ready(&both), ("True", "Ready"));
        let none = status(&host, &world(&["c"]), &Observation::default(), at(2));
        assert_eq!(ready(&none), ("False", "NotConnected"));
        assert_eq!(pruned(&host, &world(&["b"])).unwrap(), [connection("b")]);
        assert_eq!(pruned(&host, &world(&["a", "b"])), None);
    }

    #[test]
    fn what_is_missing_is_told_in_words() {
        let host = host(true, &["a"], &["kernel module vxlan"]);
        let status = status(&host, &world(&["a"]), &Observation::default(), at(2));
        assert_eq!(ready(&status), ("False", "Unfit"));
        let ready = conditions::get(&status.conditions, conditions::READY).unwrap();
        assert!(ready.message.contains("vxlan"));
    }

    #[test]
    fn the_enrolment_is_the_gateways_to_tell_until_the_identity_is_lost() {
        let mut host = host(true, &["a"], &[]);
        let world = world(&["a"]);
        let first = status(&host, &world, &Observation::default(), at(2));
        assert!(conditions::get(&first.conditions, ENROLLED).is_none());
        let lost = Observation {
            lost_identity: true,
            ..Observation::default()
        };
        let second = status(&host, &world, &lost, at(3));
        assert_eq!(ready(&second).1, "NotEnrolled");
        host.status.as_mut().unwrap().conditions = second.conditions;
        // Still said on the next look, until the gateway enrols it again.
        let third = status(&host, &world, &Observation::default(), at(4));
        assert!(conditions::get(&third.conditions, ENROLLED).is_some());
        assert!(!differs(&host, &third));
    }
}
