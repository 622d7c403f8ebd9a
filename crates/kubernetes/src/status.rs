//! How far a cluster is: phases with their times, conditions with what to do.
//!
//! ```text
//! Keys ─▶ Store ─▶ ApiServer ─┬▶ Nodes
//!                             └▶ AddOns
//! ```
//!
//! A phase starts when the ones before it are done, and the first when the object was made
//! (or admitted, when that was later). Its times are set when it was done for the first time
//! and never change; what is wrong later is in its message and its condition. API times
//! have whole seconds, so the exact moment of a start is summed up from the milliseconds of
//! what came before; only that of the creation is cut, so `Keys` may seem up to a second
//! longer than it was.

pub(crate) mod nodes;
mod pods;

use std::collections::BTreeMap;

use farplane_blueprint::Refusal;
use farplane_types::conditions::{self, READY};
use farplane_types::{HostSelection, KubernetesClusterStatus, NetworkProvider, PhaseStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::{Choice, World, public};

/// Phases with the one that each waits for and that one in words.
const PHASES: [(&str, Option<&str>, &str); 5] = [
    ("Keys", None, "for admission"),
    ("Store", Some("Keys"), "for the keys"),
    ("ApiServer", Some("Store"), "for the store"),
    ("Nodes", Some("ApiServer"), "for the API server"),
    ("AddOns", Some("ApiServer"), "for the API server"),
];

/// Reason of what waits for the organization's own network plugin only.
const OWN_NETWORK: &str = "NetworkPluginMissing";

/// How one phase is now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    done: bool,
    /// `Done`, or one word for what is open.
    reason: &'static str,
    /// What is open and what to do; may be said of something that is done but not whole.
    message: String,
}

impl State {
    fn done() -> Self {
        Self {
            done: true,
            reason: "Done",
            message: String::new(),
        }
    }

    fn open(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            done: false,
            reason,
            message: message.into(),
        }
    }
}

/// Status of a cluster whose objects were applied. `lost` says, by host, why its plan could
/// not be claimed (another cluster was quicker).
pub fn status(
    world: &World,
    choice: &Choice,
    lost: &BTreeMap<String, String>,
) -> KubernetesClusterStatus {
    let mut status = previous(world);
    status.nodes = nodes::list(world, choice, lost);
    let ready = status.nodes.iter().filter(|node| node.ready).count();
    status.ready_nodes = u32::try_from(ready).unwrap_or(u32::MAX);
    let api = api_server(world);
    let states = BTreeMap::from([
        ("Keys", State::done()),
        ("Store", store(world, api.done)),
        ("Nodes", nodes::state(world, choice, &status.nodes)),
        ("AddOns", add_ons(world, &status)),
        ("ApiServer", api),
    ]);
    status.phases = phases(world, &states);
    report(world, &mut status, &states);
    status
}

/// Status of a cluster that [`crate::admit()`] refused. What it has stays as it is.
pub fn refused(world: &World, refusal: &Refusal) -> KubernetesClusterStatus {
    let mut status = previous(world);
    if status.phases.is_empty() {
        let not_begun = |(name, _, waits): (&str, _, &str)| PhaseStatus {
            name: name.to_owned(),
            started_at: None,
            finished_at: None,
            milliseconds: None,
            message: waits.to_owned(),
        };
        status.phases = PHASES.map(not_begun).to_vec();
    }
    let was_ready = is_whole(&status.phases);
    status.phase = Some(if was_ready { "Degraded" } else { "Pending" }.to_owned());
    set(
        world,
        &mut status,
        READY,
        false,
        refusal.reason,
        refusal.message.clone(),
    );
    status
}

/// What is known of the cluster whatever its state.
fn previous(world: &World) -> KubernetesClusterStatus {
    let mut status = world.cluster.status.clone().unwrap_or_default();
    status.observed_generation = world.cluster.metadata.generation;
    status.namespace = Some(world.namespace());
    status.server = Some(public::server(world));
    status.server_name = Some(world.server_name());
    status.kubeconfig_secret = Some(public::secret_name(world));
    status
}

fn api_server(world: &World) -> State {
    if world.view.is_some() && world.replicas() == 1 {
        return State::done();
    }
    if world.view.is_some() {
        // It answers; but of several, some may be missing.
        let state = pods::component(world, "apiserver", world.replicas(), 1);
        return State {
            done: true,
            ..state
        };
    }
    let state = pods::component(world, "apiserver", world.replicas(), world.replicas());
    if !state.done {
        return state;
    }
    State::open(
        "NoAnswer",
        format!(
            "the API server's Pods are ready but do not answer the hub; look at the Pods' log: kubectl -n {} logs deployment/apiserver",
            world.namespace()
        ),
    )
}

fn store(world: &World, is_used: bool) -> State {
    let members = world.replicas();
    if is_used && members == 1 {
        return State::done();
    }
    let state = pods::component(world, "etcd", members, members / 2 + 1);
    // An API server that is ready has asked it.
    State {
        done: state.done || is_used,
        ..state
    }
}

fn add_ons(world: &World, status: &KubernetesClusterStatus) -> State {
    let Some(view) = &world.view else {
        return State::open("ApiServerNotReady", "waits for the API server");
    };
    if view.dns_ready.is_none_or(|ready| ready > 0) {
        return State::done();
    }
    let spec = &world.cluster.spec;
    let no_nodes = match &spec.hosts {
        HostSelection::Names(names) => names.is_empty(),
        HostSelection::Count(count) => *count == 0,
        HostSelection::All(_) => false,
    };
    if no_nodes {
        return State::done();
    }
    match (status.ready_nodes, spec.network.provider) {
        (0, NetworkProvider::None) => State {
            done: true,
            ..State::open(OWN_NETWORK, "CoreDNS starts once there is a network plugin")
        },
        (0, NetworkProvider::Flannel) => {
            State::open("NodesNotReady", "CoreDNS starts once a node is ready")
        }
        _ => State::open(
            "DnsStarting",
            "CoreDNS starts; if it lasts, look at kubectl -n kube-system describe pods -l k8s-app=kube-dns",
        ),
    }
}

fn phases(world: &World, states: &BTreeMap<&str, State>) -> Vec<PhaseStatus> {
    let mut all: Vec<PhaseStatus> = Vec::new();
    // Exact moments, in milliseconds, at which phases were done.
    let mut ends: BTreeMap<&str, i64> = BTreeMap::new();
    for (name, after, waits) in PHASES {
        let before = old(world, name).cloned();
        let start = match after {
            None => Some(beginning(world, before.as_ref())),
            Some(after) => ends.get(after).copied(),
        };
        let now = world.now.as_millisecond();
        let state = &states[name];
        let phase = match (before, start) {
            (Some(before), _) if before.finished_at.is_some() => PhaseStatus {
                message: state.message.clone(),
                ..before
            },
            (_, Some(start)) => PhaseStatus {
                name: name.to_owned(),
                started_at: time(start),
                finished_at: state.done.then(|| time(now.max(start))).flatten(),
                milliseconds: state.done.then(|| (now - start).max(0)),
                message: state.message.clone(),
            },
            (_, None) => PhaseStatus {
                name: name.to_owned(),
                started_at: None,
                finished_at: None,
                milliseconds: None,
                message: waits.to_owned(),
            },
        };
        if let (Some(start), Some(milliseconds)) = (start, phase.milliseconds) {
            ends.insert(name, start + milliseconds);
        }
        all.push(phase);
    }
    all
}

/// True once the API server was ready and the add-ons, with the rights of hosts, applied.
pub(crate) fn has_answered(world: &World) -> bool {
    old(world, "ApiServer").is_some_and(|phase| phase.finished_at.is_some())
}

fn old<'a>(world: &'a World, phase: &str) -> Option<&'a PhaseStatus> {
    let status = world.cluster.status.as_ref()?;
    status.phases.iter().find(|one| one.name == phase)
}

/// When the first phase could begin, in milliseconds.
fn beginning(world: &World, before: Option<&PhaseStatus>) -> i64 {
    let started = before.map(|before| before.started_at.as_ref());
    let made = world.cluster.metadata.creation_timestamp.as_ref();
    let since = match started {
        Some(Some(started)) => Some(started),
        // It was refused until now.
        Some(None) => None,
        None => made,
    };
    since.map_or(world.now, |since| since.0).as_millisecond()
}

/// As the API has it: whole seconds.
fn time(milliseconds: i64) -> Option<Time> {
    let second = Timestamp::from_second(milliseconds.div_euclid(1000));
    second.ok().map(Time)
}

/// True when every phase was done once.
fn is_whole(phases: &[PhaseStatus]) -> bool {
    !phases.is_empty() && phases.iter().all(|phase| phase.finished_at.is_some())
}

/// Phase of the whole and conditions.
fn report(world: &World, status: &mut KubernetesClusterStatus, states: &BTreeMap<&str, State>) {
    let mut open: Option<&State> = None;
    let mut hurt: Option<&State> = None;
    for (name, after, waits) in PHASES {
        let state = &states[name];
        // What only waits for another phase has nothing of its own to say.
        let waiting = State::open("Waiting", format!("waits {waits}"));
        let waits_for = after.is_some_and(|after| !states[after].done);
        let shown = if waits_for && !state.done {
            &waiting
        } else {
            state
        };
        let (done, reason, message) = (shown.done, shown.reason, shown.message.clone());
        set(world, status, name, done, reason, message);
        match state.done {
            false => open = open.or(Some(state)),
            // What the organization brings itself is not ours to mend.
            true if state.message.is_empty() || state.reason == OWN_NETWORK => {}
            true => hurt = hurt.or(Some(state)),
        }
    }
    let phase = match (open, hurt) {
        (None, None) => "Ready",
        (Some(_), _) if !is_whole(&status.phases) => "Provisioning",
        _ => "Degraded",
    };
    status.phase = Some(phase.to_owned());
    let (reason, message) = match open {
        Some(state) => (state.reason, state.message.clone()),
        None => (
            "Done",
            hurt.map_or_else(String::new, |state| state.message.clone()),
        ),
    };
    set(world, status, READY, open.is_none(), reason, message);
}

fn set(
    world: &World,
    status: &mut KubernetesClusterStatus,
    type_: &str,
    done: bool,
    reason: &str,
    message: String,
) {
    // Whole seconds, as the API has them.
    let now = time(world.now.as_millisecond()).unwrap_or(Time(world.now));
    let generation = world.cluster.metadata.generation;
    conditions::set(
        &mut status.conditions,
        type_,
        done,
        reason,
        message,
        generation,
        now,
    );
}
