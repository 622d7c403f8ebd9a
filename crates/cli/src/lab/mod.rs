//! `farplane lab`

mod add;

use anyhow::Result;
use clap::Subcommand;
use farplane_types::HostProvider;

use crate::App;
use crate::host::{self, RemoveArgs};

pub(crate) use add::object;

/// What to do with lab hosts.
#[derive(Subcommand, Debug)]
pub(crate) enum LabCommand {
    /// Make a throw-away host at the hub
    Add(add::AddArgs),
    /// Remove a throw-away host
    Remove(RemoveArgs),
}

/// Runs it.
pub(crate) async fn run(app: &App, command: LabCommand) -> Result<()> {
    match command {
        LabCommand::Add(args) => add::run(app, args).await,
        LabCommand::Remove(args) => host::remove(app, args, Some(HostProvider::Lab)).await,
    }
}
