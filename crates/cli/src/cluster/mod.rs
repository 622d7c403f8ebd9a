//! `farplane cluster`

mod create;
mod delete;
mod describe;
mod kubeconfig;
mod list;

use anyhow::Result;
use clap::Subcommand;

use crate::App;

pub(crate) use create::wait_ready;
pub(crate) use kubeconfig::{fetch, write_private};

/// What to do with clusters.
#[derive(Subcommand, Debug)]
pub(crate) enum ClusterCommand {
    /// Order a cluster
    Create(create::CreateArgs),
    /// List clusters
    List(list::ListArgs),
    /// Tell everything about a cluster: phases, nodes, and what is not ready
    Describe(describe::DescribeArgs),
    /// Delete a cluster with everything in it
    Delete(delete::DeleteArgs),
    /// Print the admin kubeconfig of a cluster
    Kubeconfig(kubeconfig::KubeconfigArgs),
}

/// Runs it.
pub(crate) async fn run(app: &App, command: ClusterCommand) -> Result<()> {
    match command {
        ClusterCommand::Create(args) => create::run(app, args).await,
        ClusterCommand::List(args) => list::run(app, args).await,
        ClusterCommand::Describe(args) => describe::run(app, args).await,
        ClusterCommand::Delete(args) => delete::run(app, args).await,
        ClusterCommand::Kubeconfig(args) => kubeconfig::run(app, args).await,
    }
}
