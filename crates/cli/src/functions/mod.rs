//! `farplane functions`, `env`, `fn`, `route`, `timer` and `spec`: functions on any cluster.
//!
//! Commands work on the custom resources of group `fission.io`, as `kubectl` and the command
//! of Fission do, so all three can be mixed. Calls and uploads go through the API server's
//! port-forward and are signed with the platform's own secret: they work from wherever
//! `kubectl` works. What decides without asking anybody is pure and apart: [`archive`],
//! [`explain`], [`glob`], [`merge`].

pub(crate) mod environment;
pub(crate) mod function;
pub(crate) mod route;
pub(crate) mod spec;
pub(crate) mod timer;

mod archive;
mod catalogue;
mod explain;
mod facts;
mod glob;
mod images;
mod install;
mod kinds;
mod merge;
mod place;
mod platform;
mod reach;
mod status;
mod storage;
mod uninstall;

use anyhow::Result;
use clap::Subcommand;

use crate::App;

/// What to do with the platform.
#[derive(Subcommand, Debug)]
pub(crate) enum FunctionsCommand {
    /// Install the function platform in a cluster, or bring it up to date
    Install(install::InstallArgs),
    /// Remove the function platform from a cluster
    Uninstall(uninstall::UninstallArgs),
    /// Show how the function platform of a cluster is
    Status(status::StatusArgs),
}

/// Runs it.
pub(crate) async fn run(app: &App, command: FunctionsCommand) -> Result<()> {
    match command {
        FunctionsCommand::Install(args) => install::run(app, args).await,
        FunctionsCommand::Uninstall(args) => uninstall::run(app, args).await,
        FunctionsCommand::Status(args) => status::run(app, args).await,
    }
}
