//! Messages between agent and gateway that are not byte streams: the join request, and
//! the lines on the `plan` and `renew` streams.
//!
//! Lines are JSON, one message each, at most 4 MiB each. Unknown fields are ignored.

use serde::{Deserialize, Serialize};

use crate::{HostFacts, HostPlanSpec, UnitStatus};

/// Services at the hub that an agent may open, and at an agent that the hub may open.
pub mod service {
    /// Agent to hub: plan down, reports up.
    pub const PLAN: &str = "plan";
    /// Agent to hub: a new certificate for a new signing request.
    pub const RENEW: &str = "renew";
    /// Agent to hub: HTTP/1.1 to the artifact server, `GET /artifacts/<sha256>` with `Range`.
    pub const REPO: &str = "repo";
    /// Agent to hub: HTTP/1.1 to the hub's registry of images, which can only be read. For
    /// hosts whose plan, of the plane in the header, has a listener of this service.
    pub const REGISTRY: &str = "registry";
    /// Agent to hub: bytes to the API server of the plane in the header.
    pub const API: &str = "api";
    /// Hub to agent: bytes to the kubelet of the host.
    pub const KUBELET: &str = "kubelet";
    /// Hub to agent: bytes to `ip:port` in the header's target, within the plan's ranges.
    pub const NET: &str = "net";
}

/// Body of `POST /v1/join`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct JoinRequest {
    /// The whole token.
    pub token: String,
    /// Wanted host name.
    pub host: String,
    /// PKCS#10 signing request in PEM; only its key is used.
    pub csr: String,
    /// The machine.
    pub facts: HostFacts,
}

/// Answer to a join or renewal.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IssuedCertificate {
    /// Certificate chain in PEM.
    pub certificate: String,
    /// CA certificates that the agent trusts from now on, PEM.
    pub hub_ca: String,
    /// The identity in it, for display.
    pub identity: String,
    /// Name to send as SNI and to verify when dialling the gateway.
    pub server_name: String,
}

/// Error body of the join endpoint and of the renew stream.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WireError {
    /// What is wrong and what to do, for people.
    pub error: String,
}

/// First and only line that an agent sends on a `renew` stream.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RenewRequest {
    /// PKCS#10 signing request in PEM.
    pub csr: String,
}

/// Lines from hub to agent on the `plan` stream.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum PlanMessage {
    /// The host's plan as it is now.
    Plan {
        /// Generation of the `HostPlan` object.
        generation: i64,
        /// The plan.
        spec: Box<HostPlanSpec>,
    },
    /// The host has no plan: undo whatever an earlier one did.
    Nothing,
    /// The host was removed: undo everything, forget the identity, stop.
    Removed,
}

/// Lines from agent to hub on the `plan` stream.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum AgentMessage {
    /// The machine, sent first and on change.
    Facts(HostFacts),
    /// State of the plan.
    Report {
        /// Generation spoken of.
        generation: i64,
        /// True when every unit is ready.
        applied: bool,
        /// One per unit.
        units: Vec<UnitStatus>,
    },
    /// No plan is applied any more and nothing of one is left.
    Clean,
}
