//! What runs beside functions and builds: brings code to a runtime, runs a build command.
//!
//! [`fetcher`] is in every Pod of the platform, a builder in Pods that build. Both speak
//! Fission's protocols. [`archive`] unpacks and packs what users send, and trusts none of it.
//!
//! A fetcher is made to be small and quick: one thread, nothing opened that is not needed, no
//! word with the API server unless a request needs one.

pub mod archive;
mod client;
pub mod fetcher;
pub mod http;
