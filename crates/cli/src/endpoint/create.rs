//! `farplane endpoint create`

use anyhow::Result;
use clap::Args;
use farplane_types::{Endpoint, EndpointSpec};
use kube::Client;

use crate::App;
use crate::arguments::Named;
use crate::{hub, objects};

/// A new endpoint.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    named: Named,
    /// Where it is, whom to call
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

/// Makes it.
pub(crate) async fn run(app: &App, args: CreateArgs) -> Result<()> {
    let (name, org) = (args.named.name, args.named.of.org);
    let client = hub::connect(app).await?;
    let description = args.description;
    let object = Endpoint::new(&name, EndpointSpec { description });
    let made = objects::create(&client, Some(&org), &object).await?;
    app.out.made(
        &made,
        format_args!("endpoint {name} in organization {org} is made"),
    )
}

/// Makes the endpoint unless it exists, and says so.
pub(crate) async fn ensure(app: &App, client: &Client, org: &str, name: &str) -> Result<()> {
    let found: Option<Endpoint> = objects::find(client, Some(org), name).await?;
    if found.is_some() {
        return Ok(());
    }
    let object = Endpoint::new(name, EndpointSpec::default());
    objects::create(client, Some(org), &object).await?;
    app.out.say(format_args!(
        "endpoint {name} in organization {org} did not exist and is made"
    ));
    Ok(())
}
