//! Blueprint of a Kubernetes cluster: what must exist at the hub, on each host and inside
//! the cluster. Pure but for the key generator: the controller gathers a [`World`], these
//! functions decide, the controller applies.
//!
//! Order of use, at every look:
//!
//! 1. [`admit()`]: whether the spec can be met at all; everything later relies on it.
//! 2. [`services()`]: namespace and Services; their addresses go into `world.addresses`.
//! 3. [`renew_keys`]: makes what is missing or due; [`Keys::secrets`] are applied.
//! 4. [`control_plane()`] and [`choose_hosts`] with [`host_plans`], at the same time.
//! 5. Once the API server answers (`world.view`): [`controllers()`], [`answers()`], [`addons()`],
//!    [`strays`], [`spared`].
//! 6. [`public_kubeconfig`], [`status()`].
//!
//! Promises: equal worlds give equal objects (keys aside). Authorities, the key of service
//! accounts and the encryption key never change once made. A renewed leaf rolls no Pod,
//! unless the program cannot reload it. A host that was claimed is kept while the
//! selection allows it.

mod addons;
mod admit;
mod answers;
mod config;
mod control_plane;
mod cut_off;
mod etcd;
mod hosts;
mod keys;
mod node;
mod node_config;
mod object;
mod public;
mod services;
mod status;
mod world;

pub use addons::addons;
pub use admit::admit;
pub use answers::{Answer, Decision, answers, decide_request};
pub use control_plane::{control_plane, controllers};
pub use cut_off::{Spared, spared};
pub use farplane_blueprint::Refusal;
pub use hosts::{Choice, choose_hosts, strays};
pub use keys::{KeyError, Keys, renew_keys};
pub use node::{host_plan, host_plans};
pub use public::public_kubeconfig;
pub use services::services;
pub use status::{refused, status};
pub use world::{ArtifactEntry, Hub, Images, Store, View, World};

/// Node-local address of the API server: on `lo` of every node, and what the API server
/// advertises.
pub const API_ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(198, 18, 0, 1);
/// Port of the API server, everywhere.
pub const API_PORT: u16 = 6443;
/// Address at which containerd pulls the hub's images; Pods do not reach it.
pub const REGISTRY_ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::LOCALHOST;
/// Port of the registry.
pub const REGISTRY_PORT: u16 = 10270;
