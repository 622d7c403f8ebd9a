//! `farplane timer`

mod create;
mod delete;
mod list;
mod schedule;
mod show;

use anyhow::Result;
use clap::Subcommand;

use crate::App;

/// What to do with timers.
#[derive(Subcommand, Debug)]
pub(crate) enum TimerCommand {
    /// Call a function at times
    Create(create::CreateArgs),
    /// List timers, and when they call next
    List(list::ListArgs),
    /// Show when a schedule is due, without a cluster
    Show(show::ShowArgs),
    /// Delete a timer
    Delete(delete::DeleteArgs),
}

/// Runs it.
pub(crate) async fn run(app: &App, command: TimerCommand) -> Result<()> {
    match command {
        TimerCommand::Create(args) => create::run(app, args).await,
        TimerCommand::List(args) => list::run(app, args).await,
        TimerCommand::Show(args) => show::run(app, &args),
        TimerCommand::Delete(args) => delete::run(app, args).await,
    }
}
