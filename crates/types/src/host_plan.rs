//! `HostPlan`: what must be true on one host.
//!
//! The controller of a plane writes it, the gateway hands it to the host's agent, the
//! agent makes it true and reports. One plan per host, with the host's name: creating it
//! claims the host, so that two clusters can never use one host. Members of an
//! organization cannot read plans, since file contents may hold bootstrap credentials.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What must be true on one host, as ordered units.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "farplane.io",
    version = "v1alpha1",
    kind = "HostPlan",
    namespaced,
    status = "HostPlanStatus",
    shortname = "plan",
    category = "farplane",
    derive = "PartialEq",
    printcolumn(name = "Plane", type_ = "string", json_path = ".spec.plane.name"),
    printcolumn(
        name = "Applied",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Applied')].status"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct HostPlanSpec {
    /// The plane that uses the host. Cannot change: a host is released before it is used again.
    #[x_kube(validation = Rule::new("self == oldSelf").message("plane cannot change"))]
    pub plane: PlaneReference,
    /// Named services that local programs reach on the host.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// Address ranges (CIDR) that the hub may reach through this host by the service `net`.
    #[serde(default)]
    pub reachable: Vec<String>,
    /// Units, started in this order and stopped in reverse.
    #[serde(default)]
    pub units: Vec<Unit>,
}

/// The object that a plan belongs to.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PlaneReference {
    /// Kind of the object, `KubernetesCluster`.
    pub kind: String,
    /// Its name, in the same namespace as the plan.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A local address at which the agent offers a named service of the hub.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Address; one that is not the machine's is added to `lo` as a /32.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// Service at the hub: `api` or `registry`.
    pub service: String,
}

/// Something an agent keeps true on a host.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum Unit {
    /// A `.tar.zst` fetched by digest through the tunnel and unpacked to
    /// `/var/lib/farplane/artifacts/<sha256>/`.
    #[serde(rename_all = "camelCase")]
    Artifact {
        /// Unit name.
        name: String,
        /// SHA-256 of the archive, hex.
        sha256: String,
        /// Size of the archive, in bytes.
        size: u64,
    },
    /// A file with these contents.
    #[serde(rename_all = "camelCase")]
    File {
        /// Absolute path.
        path: String,
        /// Text of the file.
        content: String,
        /// Permission bits, such as 384 for 0600.
        mode: u32,
    },
    /// A directory. Removed with its contents when the plan ends.
    #[serde(rename_all = "camelCase")]
    Directory {
        /// Absolute path.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    #[serde(rename_all = "camelCase")]
    Link {
        /// Absolute path of the link.
        path: String,
        /// What it points to.
        target: String,
    },
    /// A kernel setting.
    #[serde(rename_all = "camelCase")]
    Sysctl {
        /// Dotted key, `net.ipv4.ip_forward`.
        key: String,
        /// Value.
        value: String,
        /// Failure to set it is reported but does not stop the plan.
        #[serde(default)]
        optional: bool,
    },
    /// A kernel module.
    #[serde(rename_all = "camelCase")]
    KernelModule {
        /// Module name.
        name: String,
        /// Failure to load it is reported but does not stop the plan.
        #[serde(default)]
        optional: bool,
    },
    /// An image archive (`image.tar` of an unpacked artifact) imported into containerd.
    #[serde(rename_all = "camelCase")]
    Image {
        /// Full reference that must exist afterwards.
        reference: String,
        /// Path of the archive.
        archive: String,
        /// `ctr` command.
        ctr: String,
        /// containerd's socket.
        socket: String,
    },
    /// A supervised process. A changed definition restarts it.
    #[serde(rename_all = "camelCase")]
    Process {
        /// Unit name; also the name of its log.
        name: String,
        /// Program and arguments; the program is an absolute path.
        command: Vec<String>,
        /// Environment in addition to `PATH`.
        #[serde(default)]
        environment: BTreeMap<String, String>,
        /// Absolute paths that must exist before it is started.
        #[serde(default)]
        wait_for: Vec<String>,
        /// How to tell that it is ready; ready once started when left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        readiness: Option<Readiness>,
        /// Restarted when one of these units (by [`Unit::key`]) changed its contents.
        #[serde(default)]
        restart_on: Vec<String>,
        /// Paths removed after it stopped for good (state directories, sockets).
        #[serde(default)]
        remove_after: Vec<String>,
    },
    /// Clean-up only: does nothing while the plan is there; commands run, in order, when it
    /// ends, after every process has stopped. Their failure is reported, not fatal.
    #[serde(rename_all = "camelCase")]
    Cleanup {
        /// Unit name.
        name: String,
        /// Commands, each program and arguments.
        #[serde(default)]
        commands: Vec<Vec<String>>,
        /// Network interfaces to delete.
        #[serde(default)]
        interfaces: Vec<String>,
        /// nftables tables to delete, as `family name`.
        #[serde(default)]
        tables: Vec<String>,
        /// Directories under which everything is unmounted and removed.
        #[serde(default)]
        directories: Vec<String>,
    },
}

impl Unit {
    /// Stable key of the unit within its plan: kind and name or path.
    pub fn key(&self) -> String {
        match self {
            Self::Artifact { name, .. } => format!("artifact/{name}"),
            Self::File { path, .. } => format!("file{path}"),
            Self::Directory { path, .. } => format!("directory{path}"),
            Self::Link { path, .. } => format!("link{path}"),
            Self::Sysctl { key, .. } => format!("sysctl/{key}"),
            Self::KernelModule { name, .. } => format!("module/{name}"),
            Self::Image { reference, .. } => format!("image/{reference}"),
            Self::Process { name, .. } => format!("process/{name}"),
            Self::Cleanup { name, .. } => format!("cleanup/{name}"),
        }
    }
}

/// How to tell that a process is ready.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum Readiness {
    /// A TCP connection is accepted at this `address:port`.
    Tcp(String),
    /// This Unix socket accepts a connection.
    UnixSocket(String),
    /// An HTTP GET of this URL (`http://`) answers 2xx.
    Http(String),
    /// This path exists.
    Path(String),
}

/// What an agent reported of its plan.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostPlanStatus {
    /// Generation that the agent speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One entry per unit, in the plan's order.
    #[serde(default)]
    pub units: Vec<UnitStatus>,
    /// `Applied`; `Released` once a deleted plan has been undone on the host.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// Condition: every unit of the observed generation is true on the host.
pub const APPLIED: &str = "Applied";

/// State of one unit.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct UnitStatus {
    /// [`Unit::key`].
    pub unit: String,
    /// State.
    pub state: UnitState,
    /// Why, and what to check next; empty when all is well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// State of a unit on its host.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum UnitState {
    /// Waits for an earlier unit or a path.
    Waiting,
    /// Work is under way.
    Applying,
    /// True.
    Ready,
    /// Tried and failed; tried again with growing pauses.
    Failed,
}
