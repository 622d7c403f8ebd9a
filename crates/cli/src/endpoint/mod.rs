//! `farplane endpoint`

mod create;
mod delete;
mod list;

use anyhow::Result;
use clap::Subcommand;

use crate::App;

pub(crate) use create::ensure;

/// What to do with endpoints.
#[derive(Subcommand, Debug)]
pub(crate) enum EndpointCommand {
    /// Make an endpoint
    Create(create::CreateArgs),
    /// List endpoints
    List(list::ListArgs),
    /// Delete an endpoint that has no hosts
    Delete(delete::DeleteArgs),
}

/// Runs it.
pub(crate) async fn run(app: &App, command: EndpointCommand) -> Result<()> {
    match command {
        EndpointCommand::Create(args) => create::run(app, args).await,
        EndpointCommand::List(args) => list::run(app, args).await,
        EndpointCommand::Delete(args) => delete::run(app, args).await,
    }
}
