//! What a blueprint gives: the pure decision what must exist for a plane.
//!
//! A blueprint looks at a world that somebody else gathered and answers with objects for
//! the hub, in groups that are applied one after the other, and with a plan per host. It
//! does no IO and knows no clock, so that everything it decides can be tested by value. What
//! cannot be met is a [`Refusal`], in words for the person who asked.

use std::collections::BTreeMap;

use farplane_types::HostPlanSpec;
use serde_json::Value;

/// Objects of which none needs another one of the same group to be there.
pub type Group = Vec<Value>;

/// What must exist for one plane.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Kubernetes objects at the hub: groups in the order in which they are applied.
    pub hub: Vec<Group>,
    /// Plan of each host, by its name.
    pub hosts: BTreeMap<String, HostPlanSpec>,
}

/// Turns a world into what must exist.
pub trait Blueprint {
    /// Everything that the decision looks at.
    type World;

    /// Decides.
    ///
    /// # Errors
    /// When the plane's spec cannot be met.
    fn plan(&self, world: &Self::World) -> Result<Plan, Refusal>;
}

/// Why something that was asked for cannot be had, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// One word for programs, the reason of a condition: `QuotaExceeded`.
    pub reason: &'static str,
    /// What is wrong and what to do, for people.
    pub message: String,
}

impl Refusal {
    /// A refusal with this reason and text.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}
