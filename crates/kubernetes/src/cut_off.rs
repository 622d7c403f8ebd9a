//! Sites that are cut off as a whole.
//!
//! A cluster whose nodes are all away at once has lost its way to the hub, not its machines:
//! their Pods run on and serve one another. Kubernetes knows that and evicts nothing while
//! no node is left, but a node that it found away a moment before the others keeps its taint,
//! and loses its Pods after five minutes (node lifecycle controller, 1.37: the taint is taken
//! from a copy of the node that does not have it yet). So the taint is taken away here.

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::ResourceExt as _;

use crate::World;
use crate::status::nodes::ready_condition;

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const EVICTS: &str = "NoExecute";

/// A node that shall keep its Pods.
#[derive(Clone, Debug, PartialEq)]
pub struct Spared {
    /// Its name.
    pub node: String,
    /// Version of the object that was looked at.
    pub resource_version: String,
    /// The taints that it keeps.
    pub taints: Vec<Taint>,
}

/// Nodes that would lose their Pods although all nodes of the cluster are away.
pub fn spared(world: &World) -> Vec<Spared> {
    let Some(view) = &world.view else {
        return Vec::new();
    };
    if !view.nodes.iter().all(is_away) {
        return Vec::new();
    }
    view.nodes.iter().filter_map(spare).collect()
}

fn is_away(node: &Node) -> bool {
    ready_condition(node).is_some_and(|ready| ready.status == "Unknown")
}

fn spare(node: &Node) -> Option<Spared> {
    let taints = node.spec.as_ref()?.taints.as_ref()?;
    let evicts = |taint: &Taint| taint.key == UNREACHABLE && taint.effect == EVICTS;
    taints.iter().any(evicts).then(|| Spared {
        node: node.name_any(),
        resource_version: node.resource_version().unwrap_or_default(),
        taints: taints.iter().filter(|it| !evicts(it)).cloned().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, ready: &str, taints: &[(&str, &str)]) -> Node {
        let taint = |(key, effect): &(&str, &str)| json!({ "key": key, "effect": effect });
        serde_json::from_value(json!({
            "metadata": { "name": name, "resourceVersion": "7" },
            "spec": { "taints": taints.iter().map(taint).collect::<Vec<_>>() },
            "status": { "conditions": [
                { "type": "MemoryPressure", "status": "Unknown" },
                { "type": "Ready", "status": ready },
            ] },
        }))
        .unwrap()
    }

    #[test]
    fn only_what_evicts_is_taken_away() {
        let both = [
            (UNREACHABLE, "NoSchedule"),
            (UNREACHABLE, EVICTS),
            ("mine", EVICTS),
        ];
        let found = spare(&node("a", "Unknown", &both)).unwrap();
        assert_eq!(
            (found.node.as_str(), found.resource_version.as_str()),
            ("a", "7")
        );
        let kept: Vec<_> = found
            .taints
            .iter()
            .map(|it| (it.key.as_str(), it.effect.as_str()))
            .collect();
        assert_eq!(kept, [(UNREACHABLE, "NoSchedule"), ("mine", EVICTS)]);
        assert_eq!(spare(&node("a", "Unknown", &both[..1])), None);
    }

    #[test]
    fn a_node_is_away_when_nobody_knows_how_it_is() {
        assert!(is_away(&node("a", "Unknown", &[])));
        assert!(!is_away(&node("a", "False", &[])));
        assert!(!is_away(&node("a", "True", &[])));
        assert!(!is_away(&Node::default()));
    }
}
