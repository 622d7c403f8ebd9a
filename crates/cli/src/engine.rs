//! Every call of the embedded engine, so that the rest of the command knows only this.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use farplane_embedded::{Event, Finding, HubInfo, HubName, HubStatus, UpOptions};

use crate::App;
use crate::failure::Failure;
use crate::wait::{Board, State, Step};

/// What people may say about a hub that is to be started.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Name, checked already.
    pub name: String,
    /// Another distribution than the one of this program.
    pub dist: Option<PathBuf>,
    /// Another chart than the one beside the distribution.
    pub chart: Option<PathBuf>,
    /// Address of this machine to forward to the gateway.
    pub listen: Option<SocketAddr>,
    /// Files with more values for the chart.
    pub values: Vec<PathBuf>,
}

fn hub_name(name: &str) -> Result<HubName> {
    HubName::new(name).map_err(|error| Failure::Usage(error.to_string()).into())
}

fn options(wanted: Wanted) -> Result<UpOptions> {
    let mut options = UpOptions::new(hub_name(&wanted.name)?);
    if let Some(dist) = wanted.dist {
        options.dist = std::path::absolute(&dist)
            .with_context(|| format!("find the distribution {}", dist.display()))?;
    }
    if let Some(chart) = wanted.chart {
        options.chart = chart;
    }
    options.listen = wanted.listen;
    options.values = wanted.values;
    Ok(options)
}

/// Directory of the distribution that this program belongs to.
pub(crate) fn default_dist() -> PathBuf {
    UpOptions::new(HubName::default()).dist
}

/// Starts a hub, or brings it up to date.
pub(crate) async fn up(app: &App, wanted: Wanted) -> Result<HubInfo> {
    let options = options(wanted)?;
    let board = Board::new(&app.out);
    let show = |event| board.show(&step(event));
    let up = farplane_embedded::up(&options, &show);
    tokio::select! {
        info = up => Ok(info?),
        _ = tokio::signal::ctrl_c() => Err(interrupted(options.name.as_str()).into()),
    }
}

fn interrupted(name: &str) -> Failure {
    Failure::NotReady(format!(
        "interrupted: what was started keeps running; `farplane up --name {name}` goes on from here, `farplane down --name {name}` stops it"
    ))
}

/// Stops a hub and keeps its state.
pub(crate) async fn down(app: &App, name: &str) -> Result<()> {
    let name = hub_name(name)?;
    if !farplane_embedded::status(&name).await.exists {
        return Err(no_such_hub(name.as_str()).into());
    }
    let board = Board::new(&app.out);
    farplane_embedded::down(&name, &|event| board.show(&step(event))).await?;
    Ok(())
}

/// Removes a hub and every trace of it; one that does not exist is fine.
pub(crate) async fn purge(app: &App, name: &str) -> Result<()> {
    let name = hub_name(name)?;
    let board = Board::new(&app.out);
    farplane_embedded::purge(&name, &|event| board.show(&step(event))).await?;
    Ok(())
}

/// State of a hub, without asking it over the network.
pub(crate) async fn status(name: &str) -> Result<HubStatus> {
    Ok(farplane_embedded::status(&hub_name(name)?).await)
}

/// Names of all hubs of this machine.
pub(crate) fn list() -> Vec<String> {
    let mut names: Vec<String> = farplane_embedded::list()
        .into_iter()
        .map(String::from)
        .collect();
    names.sort();
    names
}

/// Checks of this machine.
pub(crate) fn doctor(wanted: Wanted) -> Result<Vec<Finding>> {
    Ok(farplane_embedded::doctor(&options(wanted)?))
}

/// Runs the processes of a hub until it is told to end.
pub(crate) async fn supervise(name: &str, state_dir: PathBuf, dist: PathBuf) -> Result<()> {
    farplane_embedded::supervisor_main(hub_name(name)?, state_dir, dist).await?;
    Ok(())
}

/// There is no hub of this name on this machine.
pub(crate) fn no_such_hub(name: &str) -> Failure {
    let others = match list() {
        names if names.is_empty() => String::new(),
        names => format!("; there is {}", names.join(", ")),
    };
    Failure::NotFound(format!(
        "there is no hub named {name} on this machine{others}; `farplane up --name {name}` makes one"
    ))
}

fn step(event: Event) -> Step {
    match event {
        Event::Phase { name, message } => Step::new(name, State::Working(message)),
        Event::Waiting { name, for_what } => Step::new(name, State::Waiting(for_what)),
        Event::Done { name, elapsed } => Step::new(name, State::Done(Some(elapsed))),
    }
}
