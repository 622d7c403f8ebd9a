//! `farplane internal`: what no person types.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::App;
use crate::arguments::name;
use crate::{engine, reference};

/// For farplane's own use.
#[derive(Subcommand, Debug)]
pub(crate) enum InternalCommand {
    /// Run the processes of a hub
    HubSupervisor(HubSupervisorArgs),
    /// Print the reference of all commands
    MarkdownHelp,
}

/// Which hub.
#[derive(Args, Debug)]
pub(crate) struct HubSupervisorArgs {
    /// Name of the hub
    #[arg(long, value_parser = name)]
    name: String,
    /// Where it keeps everything
    #[arg(long)]
    state_dir: PathBuf,
    /// Directory of the distribution
    #[arg(long)]
    dist: PathBuf,
}

/// Runs it.
pub(crate) async fn run(app: &App, command: InternalCommand) -> Result<()> {
    match command {
        InternalCommand::HubSupervisor(args) => {
            engine::supervise(&args.name, args.state_dir, args.dist).await
        }
        InternalCommand::MarkdownHelp => app.out.data(&reference::markdown()),
    }
}
