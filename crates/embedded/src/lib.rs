//! The engine of `farplane up`: a hub on one machine.
//!
//! A hub lives in a network namespace and a mount namespace of its own
//! (`docs/decisions/0002`), so two of them, and the machine, do not meet. Flow of [`up()`]:
//!
//! ```text
//! record -> network -> anchor (holds the mounts) -> supervisor ─┬ etcd ── kube-apiserver ┬ controller-manager
//!                                                               └ containerd ────────────┼ kubelet, kube-proxy
//!   images into containerd -> chart rendered and applied -> Deployments available        └ scheduler
//! ```
//!
//! Who changes what: commands ([`up()`], [`down()`], [`purge()`]) hold the hub's lock and own
//! the record, the namespaces and the cgroups; the supervisor ([`supervisor_main`]) owns
//! keys, configuration and processes, and tells its state in `run/status.json`.
//!
//! Promises: every command may be interrupted anywhere and repeated. A killed supervisor
//! leaves its processes running, and the next one adopts them. After [`down()`] nothing
//! runs and only the state directory is left; after [`purge`] nothing is.

mod anchor;
mod api;
mod cgroup;
pub mod chart;
mod command;
mod doctor;
mod down;
mod error;
mod files;
mod images;
mod issue;
mod keys;
mod manifests;
mod name;
mod network;
mod node;
mod processes;
mod record;
mod registry;
mod rollout;
mod status;
mod supervisor;
mod up;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use doctor::{Finding, Severity, doctor};
pub use down::{down, purge};
pub use error::Error;
pub use name::{HubName, STATE_ROOT};
pub use record::list;
pub use rollout::{lateness, pod_reason};
pub use status::{HubStatus, ProcessStatus, status};
pub use supervisor::supervisor_main;
pub use up::up;

/// What `farplane up` is asked to bring about.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// Which hub.
    pub name: HubName,
    /// Directory of the distribution: `bin/`, `cni/`, `images/`, `artifacts/`.
    pub dist: PathBuf,
    /// Directory of the Helm chart.
    pub chart: PathBuf,
    /// Address of this machine to forward to the gateway, beside the hub's own.
    pub listen: Option<SocketAddr>,
    /// Where the hub keeps everything; [`HubName::default_state_dir`], unless a test
    /// wants another.
    pub state_dir: PathBuf,
    /// Files with more values for the chart; later ones win.
    pub values: Vec<PathBuf>,
}

impl UpOptions {
    /// Options for a hub with the distribution beside the running program
    /// (`dist/bin/farplane`) and the chart beside the distribution.
    pub fn new(name: HubName) -> Self {
        let program = std::env::current_exe().unwrap_or_default();
        let dist = program
            .ancestors()
            .nth(2)
            .map(PathBuf::from)
            .unwrap_or_default();
        let inside = dist.join("charts/farplane");
        let beside = dist.parent().map(|parent| parent.join("charts/farplane"));
        let chart = beside.filter(|_| !inside.is_dir()).unwrap_or(inside);
        Self {
            state_dir: name.default_state_dir(),
            name,
            dist,
            chart,
            listen: None,
            values: Vec::new(),
        }
    }
}

/// Progress of a command, for a person to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A step began.
    Phase {
        /// Name of the step.
        name: String,
        /// What it does.
        message: String,
    },
    /// A step is done.
    Done {
        /// Name of the step.
        name: String,
        /// How long it took.
        elapsed: Duration,
    },
    /// A step waits.
    Waiting {
        /// Name of the step.
        name: String,
        /// What for, in words.
        for_what: String,
    },
}

/// Where events go.
pub(crate) type Progress<'a> = &'a dyn Fn(Event);

/// How to reach a hub that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubInfo {
    /// Which hub.
    pub name: HubName,
    /// Kubeconfig with all rights; readable by root only.
    pub kubeconfig: PathBuf,
    /// Address of the gateway, as agents and clients on this machine dial it.
    pub gateway_address: SocketAddr,
    /// Address of the hub's node.
    pub node_address: IpAddr,
    /// Base of the hub's server names.
    pub hub_domain: String,
}
