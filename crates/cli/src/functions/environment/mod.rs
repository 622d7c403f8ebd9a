//! `farplane env`

mod create;
mod delete;
mod describe;
mod list;

use anyhow::Result;
use clap::Subcommand;

use crate::App;

pub(crate) use create::ensure;

/// What to do with environments.
#[derive(Subcommand, Debug)]
pub(crate) enum EnvironmentCommand {
    /// Make an environment: a language's runtime, and its builder
    Create(create::CreateArgs),
    /// List environments, or the languages that the platform knows
    List(list::ListArgs),
    /// Tell everything about an environment: images, pool, and what is not ready
    Describe(describe::DescribeArgs),
    /// Delete an environment
    Delete(delete::DeleteArgs),
}

/// Runs it.
pub(crate) async fn run(app: &App, command: EnvironmentCommand) -> Result<()> {
    match command {
        EnvironmentCommand::Create(args) => create::run(app, args).await,
        EnvironmentCommand::List(args) => list::run(app, args).await,
        EnvironmentCommand::Describe(args) => describe::run(app, args).await,
        EnvironmentCommand::Delete(args) => delete::run(app, args).await,
    }
}
