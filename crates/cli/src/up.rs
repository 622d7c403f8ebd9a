//! `farplane up`

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use farplane_embedded::HubInfo;

use crate::App;
use crate::arguments::name;
use crate::engine::{self, Wanted};
use crate::failure::Failure;
use crate::hub::DEFAULT_HUB;
use crate::{demo, doctor};

/// A hub on this machine.
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// Name of the hub; hubs of different names do not meet [default: --hub, else default]
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// Also make an organization `demo` with two lab hosts and a cluster `first`
    #[arg(long)]
    demo: bool,
    /// Address of this machine at which the gateway answers too, for hosts elsewhere
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// File with more values for the chart; may be repeated, later ones win
    #[arg(long, value_name = "PATH")]
    values: Vec<PathBuf>,
    #[command(flatten)]
    from: doctor::Distribution,
    /// Tell more
    #[arg(short, long)]
    pub verbose: bool,
}

/// Starts it.
pub(crate) async fn run(app: &App, args: UpArgs) -> Result<()> {
    let name = chosen(app, args.name)?;
    let dist = args.from.dist.clone();
    let wanted = Wanted {
        name,
        dist: args.from.dist,
        chart: args.from.chart,
        listen: args.listen,
        values: args.values,
    };
    let info = engine::up(app, wanted).await?;
    app.out.say(format_args!(
        "hub {} is up; its gateway answers at {}",
        info.name, info.gateway_address
    ));
    if args.demo {
        return demo::run(app, &info, &dist.unwrap_or_else(engine::default_dist)).await;
    }
    app.out.data(&how_to_use(&info))
}

fn how_to_use(info: &HubInfo) -> String {
    let hub = match info.name.as_str() {
        DEFAULT_HUB => String::new(),
        name => format!(" --hub {name}"),
    };
    format!(
        "export KUBECONFIG={}\nfarplane{hub} org create NAME\n",
        info.kubeconfig.display()
    )
}

/// The hub that a command of this machine is for.
pub(crate) fn chosen(app: &App, name: Option<String>) -> Result<String> {
    if app.global.hub_kubeconfig.is_some() {
        return Err(Failure::Usage(
            "--hub-kubeconfig is for other commands: this one is about a hub of this machine, which --name chooses".to_owned(),
        )
        .into());
    }
    match (name, &app.global.hub) {
        (Some(name), Some(hub)) if &name != hub => {
            Err(Failure::Usage(format!("--name {name} and --hub {hub} name two hubs")).into())
        }
        (Some(name), _) => Ok(name),
        (None, Some(hub)) => Ok(hub.clone()),
        (None, None) => Ok(DEFAULT_HUB.to_owned()),
    }
}
