//! For tests: a real API server, and a cluster that runs Pods of which fetcher and runtime are
//! scripted.

pub(crate) mod cluster;

use farplane_test_api::World;

pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// A real API server with our kinds and the namespaces of platform and tests.
pub(crate) async fn world() -> World {
    World::start(&farplane_functions_types::all_crds(), &["fission"]).await
}
