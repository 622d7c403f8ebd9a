//! `farplane route`

mod create;
mod delete;
mod list;

use anyhow::Result;
use clap::Subcommand;

use crate::App;

pub(crate) use create::{Path, add, check_path, method, to_function};

/// What to do with routes.
#[derive(Subcommand, Debug)]
pub(crate) enum RouteCommand {
    /// Call a function for requests to a path
    Create(create::CreateArgs),
    /// List routes
    List(list::ListArgs),
    /// Delete a route
    Delete(delete::DeleteArgs),
}

/// Runs it.
pub(crate) async fn run(app: &App, command: RouteCommand) -> Result<()> {
    match command {
        RouteCommand::Create(args) => create::run(app, args).await,
        RouteCommand::List(args) => list::run(app, args).await,
        RouteCommand::Delete(args) => delete::run(app, args).await,
    }
}
