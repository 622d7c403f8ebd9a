//! `farplane host`

mod describe;
mod join_command;
mod list;
mod remove;

use anyhow::Result;
use clap::Subcommand;

use crate::App;

pub(crate) use remove::{RemoveArgs, remove};

/// What to do with hosts.
#[derive(Subcommand, Debug)]
pub(crate) enum HostCommand {
    /// Print the command that makes a machine a host
    JoinCommand(join_command::JoinCommandArgs),
    /// List hosts
    List(list::ListArgs),
    /// Tell everything about a host
    Describe(describe::DescribeArgs),
    /// Take a host away: out of its cluster, its identity revoked, its machine cleaned
    Remove(remove::RemoveArgs),
}

/// Runs it.
pub(crate) async fn run(app: &App, command: HostCommand) -> Result<()> {
    match command {
        HostCommand::JoinCommand(args) => join_command::run(app, args).await,
        HostCommand::List(args) => list::run(app, args).await,
        HostCommand::Describe(args) => describe::run(app, args).await,
        HostCommand::Remove(args) => remove::run(app, args).await,
    }
}
