//! stub
use crate::context::Context;
use crate::error::Error;
use std::sync::Arc;
#[derive(Default)]
pub(crate) struct Planes;
pub(crate) async fn run(_context: Arc<Context>) -> Error {
    std::future::pending().await
}
