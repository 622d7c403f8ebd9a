//! How far each chosen host is, in words.

use std::collections::{BTreeMap, BTreeSet};

use farplane_types::host_plan::{APPLIED, UnitState};
use farplane_types::{Host, HostPlan, NetworkProvider, NodeStatus, conditions};
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::ResourceExt as _;

use super::{OWN_NETWORK, State};
use crate::hosts::is_connected;
use crate::{Choice, World};

/// One entry per host that was chosen or asked for, by name.
pub(super) fn list(
    world: &World,
    choice: &Choice,
    lost: &BTreeMap<String, String>,
) -> Vec<NodeStatus> {
    let names: BTreeSet<&String> = choice.hosts.iter().chain(choice.refused.keys()).collect();
    let entry = |name: &String| {
        let host = world.hosts.iter().find(|host| host.name_any() == *name);
        let address = host
            .and_then(|host| host.status.as_ref()?.facts.as_ref())
            .map(|facts| facts.node_address.clone())
            .filter(|address| !address.is_empty());
        let why = choice.refused.get(name).or_else(|| lost.get(name));
        let (ready, message) = match (why, &world.view) {
            (Some(why), _) => (false, why.clone()),
            (None, Some(view)) => {
                let node = view.nodes.iter().find(|node| node.name_any() == *name);
                judge(world, name, host, node)
            }
            (None, None) => last_known(world, name, host),
        };
        NodeStatus {
            host: name.clone(),
            address,
            ready,
            message,
        }
    };
    names.into_iter().map(entry).collect()
}

/// While the API server does not answer nobody knows better; Pods go on running meanwhile.
fn last_known(world: &World, name: &str, host: Option<&Host>) -> (bool, String) {
    let before = world.cluster.status.iter().flat_map(|status| &status.nodes);
    let before = before.filter(|node| node.host == name).find(|it| it.ready);
    match before {
        Some(_) => (true, String::new()),
        None => (false, preparing(world, name, host)),
    }
}

fn judge(world: &World, name: &str, host: Option<&Host>, node: Option<&Node>) -> (bool, String) {
    let Some(node) = node else {
        return (false, preparing(world, name, host));
    };
    let ready = ready_condition(node);
    if ready.is_some_and(|ready| ready.status == "True") {
        // A kubelet does not look at what carries Services and Pods' packets beside it.
        let failed = failed_unit(world, name);
        return (failed.is_none(), failed.unwrap_or_default());
    }
    // The plan says more than the node does, which only knows that something is missing.
    if let Some(words) = away(host).or_else(|| failed_unit(world, name)) {
        return (false, words);
    }
    let message = ready.and_then(|ready| ready.message.as_deref());
    let message = match message.unwrap_or_default() {
        "" => "its kubelet has not said how it is yet".to_owned(),
        why if is_without_network(world, node) => {
            format!("it is for you to install a network plugin: {why}")
        }
        why => format!("its kubelet says: {why}"),
    };
    (false, message)
}

/// Before there is a node.
fn preparing(world: &World, name: &str, host: Option<&Host>) -> String {
    if let Some(words) = away(host).or_else(|| failed_unit(world, name)) {
        return words;
    }
    if let Some(words) = denied(world, name) {
        return words;
    }
    let Some(plan) = our_plan(world, name) else {
        return "its plan is being written".to_owned();
    };
    let status = plan.status.clone().unwrap_or_default();
    if status.observed_generation < plan.metadata.generation {
        return "its agent has not taken up its plan yet".to_owned();
    }
    let open = status
        .units
        .iter()
        .find(|unit| unit.state != UnitState::Ready);
    match open {
        Some(unit) if unit.message.is_empty() => format!("prepares {}", unit.unit),
        Some(unit) => format!("prepares {}: {}", unit.unit, unit.message),
        None if conditions::is_true(&status.conditions, APPLIED) => {
            "its kubelet registers; if it lasts, look at /var/lib/farplane/logs/kubelet.log there"
                .to_owned()
        }
        None => "its agent works on its plan".to_owned(),
    }
}

fn away(host: Option<&Host>) -> Option<String> {
    host.is_some_and(|host| !is_connected(host)).then(|| {
        "its agent is away; start it there (systemctl start farplane-agent) or mend its network"
            .to_owned()
    })
}

fn our_plan<'a>(world: &'a World, name: &str) -> Option<&'a HostPlan> {
    world.plan_of(name).filter(|plan| world.is_ours(plan))
}

fn failed_unit(world: &World, name: &str) -> Option<String> {
    let status = our_plan(world, name)?.status.as_ref()?;
    let failed = status
        .units
        .iter()
        .find(|unit| unit.state == UnitState::Failed)?;
    Some(format!("{} failed: {}", failed.unit, failed.message))
}

/// Its request for a certificate was denied: by us, who say why, or by somebody else.
fn denied(world: &World, name: &str) -> Option<String> {
    let users = [
        format!("{}{name}", crate::addons::BOOTSTRAP_USER),
        format!("system:node:{name}"),
    ];
    let requests = world.view.iter().flat_map(|view| &view.requests);
    let own = requests.filter(|request| {
        let user = request.spec.username.as_ref();
        user.is_some_and(|user| users.contains(user))
    });
    let newest = own.max_by_key(|request| request.metadata.creation_timestamp.clone())?;
    let conditions = newest.status.as_ref()?.conditions.as_ref()?;
    let denial = conditions.iter().find(|one| one.type_ == "Denied")?;
    let why = denial.message.as_deref().unwrap_or_default();
    Some(format!(
        "signing request {} was denied: {why}; delete it when that is mended",
        newest.name_any()
    ))
}

/// What the node, or who looks after it, says of it.
pub(crate) fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|one| one.type_ == "Ready")
}

/// All is there but the network plugin, which is the organization's own.
fn is_without_network(world: &World, node: &Node) -> bool {
    let missing = ready_condition(node).is_some_and(|ready| {
        let message = ready.message.as_deref().unwrap_or_default();
        ready.status == "False" && message.contains("NetworkPluginNotReady")
    });
    missing && world.cluster.spec.network.provider == NetworkProvider::None
}

/// The hub's part is done when every host is a node that is Ready, or that lacks nothing but
/// a network plugin where the organization brings its own.
pub(super) fn state(world: &World, choice: &Choice, list: &[NodeStatus]) -> State {
    if let Some(shortage) = &choice.shortage {
        return State::open(shortage.reason, shortage.message.clone());
    }
    if list.is_empty()
        && matches!(
            world.cluster.spec.hosts,
            farplane_types::HostSelection::All(_)
        )
    {
        return State::open(
            "NoFreeHost",
            "every free host is wanted and there is none; join one (farplane host join-command) or free one by deleting a cluster",
        );
    }
    let nodes = world.view.iter().flat_map(|view| &view.nodes);
    let own: BTreeSet<String> = nodes
        .filter(|node| is_without_network(world, node))
        .map(|node| node.name_any())
        .collect();
    let open: Vec<&NodeStatus> = list.iter().filter(|node| !node.ready).collect();
    let reason = match open.iter().find(|node| !own.contains(&node.host)) {
        None if open.is_empty() => return State::done(),
        None => OWN_NETWORK,
        Some(node) if choice.refused.contains_key(&node.host) => "HostUnavailable",
        Some(_) => "NodesNotReady",
    };
    // One at a time: what is said of the first is mostly true of the others.
    let first = open
        .iter()
        .find(|node| !own.contains(&node.host))
        .or(open.first());
    let first = first.map(|node| format!("host {} {}", node.host, node.message));
    State {
        done: reason == OWN_NETWORK,
        reason,
        message: format!(
            "{} of {} nodes are ready; {}",
            list.len() - open.len(),
            list.len(),
            first.unwrap_or_default()
        ),
    }
}
