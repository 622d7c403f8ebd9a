//! What runs beside functions and builds: brings code to a runtime, runs a build command.
//!
//! [`fetcher`] is in every Pod of the platform, [`builder`] in Pods that build. Both speak
//! Fission's protocols. [`archive`] unpacks and packs what users send, and trusts none of it.
//!
//! A fetcher is made to be small and quick: one thread, nothing opened that is not needed, no
//! word with the API server unless a request needs one.

pub mod archive;
pub mod builder;
mod client;
pub mod fetcher;
pub mod http;

/// Lets files that we make be changed by the other containers of the Pod: a runtime, a build or
/// a fetcher may run as any user, and the volumes they share are the Pod's own.
fn share_files() {
    rustix::process::umask(rustix::fs::Mode::empty());
}
