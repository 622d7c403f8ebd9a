//! What is made, what is deleted, and what triggers are told. Pure.
//!
//! Everything follows from the triggers, the objects and the policy as they are now, so a
//! process that was killed at any moment is carried on by the next one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use farplane_functions_types::HTTPTrigger;
use farplane_functions_types::triggers::HTTPTriggerStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;

use super::ask::{Ask, Path};
use super::objects::{Existing, Kind, Wanted};
use super::policy::Exposure;
use crate::objects::{Said, set_condition};

/// Type of the condition.
pub(crate) const EXPOSED: &str = "Exposed";

/// Whether the cluster has HTTPRoutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gateways {
    There,
    Missing,
    /// The API server has not said it, or not yet which there are.
    Unknown,
}

/// Everything that is known.
pub(crate) struct World<'a> {
    pub triggers: &'a [Arc<HTTPTrigger>],
    pub existing: &'a [Existing],
    pub gateways: Gateways,
    pub policy: &'a Exposure,
    /// Of the platform.
    pub namespace: &'a str,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// First: a trigger that was made anew may want the same again.
    pub delete: Vec<Existing>,
    pub apply: Vec<Apply>,
    pub tell: Vec<Tell>,
}

/// An object that is not as it should be.
#[derive(Debug)]
pub(crate) struct Apply {
    pub wanted: Wanted,
    /// As it is.
    pub before: Option<Existing>,
    /// Place of the trigger in [`Plan::tell`].
    pub tell: usize,
}

/// What a trigger is told.
#[derive(Debug)]
pub(crate) struct Tell {
    pub trigger: Arc<HTTPTrigger>,
    pub word: Word,
}

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Say(Said),
    /// What was told is taken back.
    Nothing,
    /// What was told stays.
    AsBefore,
}

/// What is to be done so that all is as the triggers ask and the operator allows.
pub(crate) fn decide(world: &World) -> Plan {
    let mut triggers: Vec<_> = world
        .triggers
        .iter()
        .filter(|trigger| trigger.metadata.deletion_timestamp.is_none())
        .collect();
    triggers.sort_by_key(|trigger| (trigger.namespace(), trigger.name_any()));
    let existing: HashMap<_, _> = world
        .existing
        .iter()
        .map(|object| ((object.kind, object.name.as_str()), object))
        .collect();
    let mut routes = None;
    let mut kept = HashSet::new();
    let mut plan = Plan::default();
    for trigger in triggers {
        let asked = Ask::of(trigger, world.policy, world.namespace);
        let checked = asked.map(|asked| {
            let ask = asked?;
            let routes = routes.get_or_insert_with(|| Routes::of(world.triggers));
            match routes.foreign(trigger, &ask) {
                Some(other) => Err(conflict(&ask, other)),
                None => Ok(ask),
            }
        });
        let word = match checked {
            None if told(trigger).is_none() => continue,
            None => Word::Nothing,
            Some(Err(said)) => Word::Say(said),
            Some(Ok(ask)) => {
                let Some(wanted) = Wanted::of(trigger, &ask, world.policy, world.namespace) else {
                    continue;
                };
                match (wanted.kind, world.gateways) {
                    (Kind::HttpRoute, Gateways::Unknown) => continue,
                    (Kind::HttpRoute, Gateways::Missing) => Word::Say(missing()),
                    _ => {
                        let said = exposed(&wanted, &ask, world.namespace);
                        let now = existing.get(&(wanted.kind, wanted.name.as_str()));
                        kept.insert((wanted.kind, wanted.name.clone()));
                        if !now.is_some_and(|now| wanted.is(now)) {
                            plan.apply.push(Apply {
                                before: now.map(|now| (*now).clone()),
                                wanted,
                                tell: plan.tell.len(),
                            });
                        }
                        Word::Say(said)
                    }
                }
            }
        };
        let trigger = trigger.clone();
        plan.tell.push(Tell { trigger, word });
    }
    let unneeded = world.existing.iter();
    let unneeded = unneeded.filter(|one| {
        let is_known = one.kind == Kind::Ingress || world.gateways == Gateways::There;
        is_known && !kept.contains(&(one.kind, one.name.clone()))
    });
    plan.delete = unneeded.cloned().collect();
    plan
}

fn missing() -> Said {
    Said::no(
        "GatewayApiMissing",
        "the cluster has no HTTPRoute of gateway.networking.k8s.io/v1: ask the operator to \
         install the Gateway API, or write provider: ingress",
    )
}

fn exposed(wanted: &Wanted, ask: &Ask, namespace: &str) -> Said {
    let (kind, name) = (wanted.kind.name(), &wanted.name);
    let hosts = match ask.hostnames.as_slice() {
        [] => "any host".to_owned(),
        hosts => hosts.join(", "),
    };
    let path = ask.path.text();
    Said::yes(
        EXPOSED,
        format!("{kind} {namespace}/{name} leads {path} of {hosts} to the router"),
    )
}

fn conflict(ask: &Ask, other: &HTTPTrigger) -> Said {
    let (namespace, name) = (other.namespace().unwrap_or_default(), other.name_any());
    let path = ask.path.text();
    Said::no(
        "RouteConflict",
        format!(
            "{path} would also expose HTTPTrigger {namespace}/{name}, which is older and of \
             another namespace: choose another path"
        ),
    )
}

/// What a trigger was told before.
fn told(trigger: &HTTPTrigger) -> Option<&Condition> {
    let status = trigger.status.as_ref()?;
    status.conditions.iter().find(|one| one.type_ == EXPOSED)
}

/// Our part of the status of a trigger; none when it is so already.
pub(crate) fn status(tell: &Tell, now: &Time) -> Option<HTTPTriggerStatus> {
    let before = told(&tell.trigger);
    let mut status = HTTPTriggerStatus::default();
    match &tell.word {
        Word::AsBefore => return None,
        Word::Nothing => {}
        Word::Say(said) => {
            status.conditions.extend(before.cloned());
            let generation = tell.trigger.metadata.generation;
            set_condition(&mut status.conditions, EXPOSED, said, generation, now);
        }
    }
    (status.conditions.first() != before).then_some(status)
}

/// Triggers by the fixed beginning of their paths.
struct Routes<'a>(BTreeMap<&'a str, Vec<&'a HTTPTrigger>>);

impl<'a> Routes<'a> {
    fn of(triggers: &'a [Arc<HTTPTrigger>]) -> Self {
        let mut routes: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for trigger in triggers {
            let spec = &trigger.spec;
            let prefix = spec.prefix.as_deref().unwrap_or_default();
            let path = match prefix.trim_end_matches('/') {
                "" => spec.relative_url.as_str(),
                prefix => prefix,
            };
            let fixed = path.split_once('{').map_or(path, |(fixed, _)| fixed);
            routes.entry(fixed).or_default().push(trigger.as_ref());
        }
        Self(routes)
    }

    /// An older trigger of another namespace that would be exposed too.
    ///
    /// Who comes later chose a path that is exposed already.
    fn foreign(&self, trigger: &HTTPTrigger, ask: &Ask) -> Option<&'a HTTPTrigger> {
        let is_in_way = |other: &&&'a HTTPTrigger| {
            other.namespace() != trigger.namespace()
                && other.metadata.deletion_timestamp.is_none()
                && age(other) < age(trigger)
                && answers(&other.spec.host, &ask.hostnames)
        };
        match &ask.path {
            Path::Exact(path) => self.0.get(path.as_str())?.iter().find(is_in_way).copied(),
            Path::Prefix(path) => {
                let below = self.0.range(path.as_str()..);
                let below = below.take_while(|(other, _)| other.starts_with(path.as_str()));
                let mut below = below
                    .filter(|(other, _)| {
                        matches!(other.as_bytes().get(path.len()), None | Some(b'/'))
                    })
                    .flat_map(|(_, all)| all);
                below.find(is_in_way).copied()
            }
        }
    }
}

/// Order as in the router: of two that want the same the older one has it.
fn age(trigger: &HTTPTrigger) -> (i64, String) {
    let created = trigger.creation_timestamp();
    let created = created.map_or(0, |time| time.0.as_millisecond());
    (created, trigger.uid().unwrap_or_default())
}

/// Whether a trigger for this host answers to one of the hostnames.
fn answers(own: &str, hostnames: &[String]) -> bool {
    let own = own.to_ascii_lowercase();
    let own = own.split(':').next().unwrap_or_default();
    own.is_empty()
        || hostnames.is_empty()
        || hostnames.iter().any(|host| {
            let below = host.strip_prefix('*');
            host == own || below.is_some_and(|domain| own.ends_with(domain))
        })
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "tenants_tests.rs"]
mod tenants_tests;
