//! Waits until a function can be called.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use kube::Client;

use super::super::place::InNamespace;
use super::super::{explain, facts};
use crate::App;
use crate::time;
use crate::wait::{self, Goal};

/// Whether and how long to wait.
#[derive(Args, Debug, Clone)]
pub(crate) struct Waiting {
    /// Do not wait until the function can be called
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait at most
    #[arg(long, default_value = "5m", value_parser = time::parse, value_name = "DURATION", conflicts_with = "no_wait")]
    pub wait_timeout: Duration,
}

/// Waits until code, environment and pool are there.
pub(crate) async fn wait(
    app: &App,
    client: &Client,
    at: &InNamespace,
    name: &str,
    waiting: &Waiting,
) -> Result<()> {
    if waiting.no_wait {
        return Ok(());
    }
    let goal = Goal {
        what: format!("function {name} in namespace {} to be ready", at.namespace),
        look: at.command(&format!("fn describe {name}")),
        timeout: waiting.wait_timeout,
        out: &app.out,
    };
    let repeat = |words: &str| at.command(words);
    wait::poll(goal, async || {
        let facts = facts::gather(client, &at.namespace, name).await?;
        Ok(explain::callable(&facts, &repeat))
    })
    .await
}
