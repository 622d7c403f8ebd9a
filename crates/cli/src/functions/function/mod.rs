//! `farplane fn`

mod call;
mod change;
mod create;
mod delete;
mod deploy;
mod describe;
mod list;
mod logs;
mod options;
mod package;
mod ready;
mod update;

use anyhow::Result;
use clap::Subcommand;

use crate::App;

/// What to do with functions.
#[derive(Subcommand, Debug)]
#[allow(clippy::large_enum_variant)]
pub(crate) enum FunctionCommand {
    /// Make a function of a file or a directory
    Create(create::CreateArgs),
    /// Build a source with its dependencies, and make or change a function of it
    Deploy(deploy::DeployArgs),
    /// Change a function: its code or how it is run
    Update(update::UpdateArgs),
    /// List functions
    List(list::ListArgs),
    /// Tell everything about a function, and what keeps it from working
    Describe(describe::DescribeArgs),
    /// Call a function and print its answer
    #[command(visible_alias = "call")]
    Test(call::CallArgs),
    /// Print what a function printed
    Logs(logs::LogsArgs),
    /// Delete a function and its code
    Delete(delete::DeleteArgs),
}

/// Runs it.
pub(crate) async fn run(app: &App, command: FunctionCommand) -> Result<()> {
    match command {
        FunctionCommand::Create(args) => create::run(app, args).await,
        FunctionCommand::Deploy(args) => deploy::run(app, args).await,
        FunctionCommand::Update(args) => update::run(app, args).await,
        FunctionCommand::List(args) => list::run(app, args).await,
        FunctionCommand::Describe(args) => describe::run(app, args).await,
        FunctionCommand::Test(args) => call::run(app, args).await,
        FunctionCommand::Logs(args) => logs::run(app, args).await,
        FunctionCommand::Delete(args) => delete::run(app, args).await,
    }
}
