//! `farplane lab add`

use anyhow::Result;
use clap::Args;
use farplane_types::{Host, HostProvider, HostSpec};

use crate::App;
use crate::arguments::{Named, name};
use crate::objects::{self, Kind as _};
use crate::wait::{self, Goal, Patience};
use crate::{endpoint, hub, view};

/// A new lab host.
#[derive(Args, Debug)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    named: Named,
    /// Endpoint of the host; made if it does not exist
    #[arg(long, value_parser = name)]
    endpoint: String,
    #[command(flatten)]
    patience: Patience,
}

/// Makes it; with `--wait`, until it is connected.
pub(crate) async fn run(app: &App, args: AddArgs) -> Result<()> {
    let (name, org) = (args.named.name.as_str(), args.named.of.org.as_str());
    let client = hub::connect(app).await?;
    endpoint::ensure(app, &client, org, &args.endpoint).await?;
    let host = object(name, &args.endpoint);
    let made = objects::create(&client, Some(org), &host).await?;
    app.out.made(
        &made,
        format_args!("lab host {name} in organization {org} is made"),
    )?;
    if !args.patience.wait {
        return Ok(());
    }
    let goal = Goal {
        what: format!("host {name} in organization {org} to be connected"),
        look: format!("farplane host describe {name} --org {org}"),
        timeout: args.patience.timeout,
        out: &app.out,
    };
    wait::until(goal, Host::api(client, Some(org)), name, |host| {
        view::host::judge(name, host)
    })
    .await
}

/// The object of a lab host.
pub(crate) fn object(name: &str, endpoint: &str) -> Host {
    let spec = HostSpec {
        endpoint: endpoint.to_owned(),
        provider: HostProvider::Lab,
        unschedulable: false,
    };
    Host::new(name, spec)
}
