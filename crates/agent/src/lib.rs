//! The agent: makes a machine a host of a hub, over one outbound connection.
//!
//! ```text
//!   no identity ──▶ enrol ──▶ two sessions (interactive, bulk), dialled again for ever
//!                                │  plan stream ──▶ units::Engine ──▶ reports
//!                                │  streams of the hub ──▶ kubelet, ranges of the plan
//!   local programs ──▶ listeners ┘  renewal at half life ──▶ sessions one by one anew
//! ```
//!
//! [`run`] wires it. What is decided without IO is apart from what acts: which stream is
//! allowed ([`serve::authorise`]), when a certificate is due ([`identity::Times`]), which hub is
//! the right one ([`pin`]).
//!
//! Promises: the key never leaves the machine; the token is sent to the hub that it names only;
//! the hub reaches on this machine what the plan in force names; what the plan started
//! outlives the agent.

pub mod address;
pub mod artifacts;
pub mod config;
pub mod doctor;
pub mod enrol;
pub mod facts;
pub mod files;
pub mod identity;
pub mod leave;
pub mod listen;
pub mod lock;
pub mod pin;
pub mod plan;
pub mod renew;
pub mod run;
pub mod serve;
pub mod service;
pub mod sessions;
pub mod state;
pub mod status;
pub mod tunnel;
pub mod units;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub use farplane_types::causes;
