//! `farplane spec`: functions and all that belongs to them, written down in a directory.
//!
//! The directory is Fission's: a `DeploymentConfig` says whose it is, `ArchiveUploadSpec`s say
//! what is packed, and the rest are the cluster's own kinds. What it made carries its uid in
//! the annotation `fission-uid`, and nothing else is changed or deleted.
//!
//! Flow of an application: read -> check -> pack -> plan (pure) -> write, kind after kind.
//! Promise: a directory that is as it was writes nothing.

mod apply;
mod archives;
mod check;
mod destroy;
mod files;
mod init;
mod kinds;
mod list;
mod live;
mod plan;
mod validate;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::App;

/// What to do with a directory of specs.
#[derive(Subcommand, Debug)]
pub(crate) enum SpecCommand {
    /// Begin a directory of specs
    Init(init::InitArgs),
    /// Check a directory of specs, without a cluster
    Validate(validate::ValidateArgs),
    /// Bring a cluster to what the specs say
    Apply(apply::ApplyArgs),
    /// List what was made of specs
    List(list::ListArgs),
    /// Delete what was made of specs
    Destroy(destroy::DestroyArgs),
}

/// Where the specs are.
#[derive(Args, Debug, Clone)]
pub(crate) struct Directory {
    /// Directory of the specs
    #[arg(long, value_name = "DIR", default_value = "specs")]
    pub specdir: PathBuf,
    /// File with patterns of specs to leave out; `.specignore` in the directory when left out
    #[arg(long, value_name = "PATH")]
    pub specignore: Option<PathBuf>,
}

/// Runs it.
pub(crate) async fn run(app: &App, command: SpecCommand) -> Result<()> {
    match command {
        SpecCommand::Init(args) => init::run(app, &args),
        SpecCommand::Validate(args) => validate::run(app, &args),
        SpecCommand::Apply(args) => apply::run(app, args).await,
        SpecCommand::List(args) => list::run(app, args).await,
        SpecCommand::Destroy(args) => destroy::run(app, args).await,
    }
}
