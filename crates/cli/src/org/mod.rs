//! `farplane org`

mod create;
mod delete;
mod list;

use anyhow::Result;
use clap::Subcommand;

use crate::App;

/// What to do with organizations.
#[derive(Subcommand, Debug)]
pub(crate) enum OrgCommand {
    /// Make an organization
    Create(create::CreateArgs),
    /// List organizations
    List,
    /// Delete an organization with everything in it
    Delete(delete::DeleteArgs),
}

/// Runs it.
pub(crate) async fn run(app: &App, command: OrgCommand) -> Result<()> {
    match command {
        OrgCommand::Create(args) => create::run(app, args).await,
        OrgCommand::List => list::run(app).await,
        OrgCommand::Delete(args) => delete::run(app, args).await,
    }
}
