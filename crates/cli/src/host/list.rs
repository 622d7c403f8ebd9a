//! `farplane host list`

use anyhow::Result;
use clap::Args;
use farplane_types::Host;

use crate::App;
use crate::arguments::{OfOrganization, name};
use crate::{hub, objects};

/// Which hosts.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    of: OfOrganization,
    /// Only those of this endpoint
    #[arg(long, value_parser = name)]
    endpoint: Option<String>,
}

/// Lists them.
pub(crate) async fn run(app: &App, args: ListArgs) -> Result<()> {
    let client = hub::connect(app).await?;
    let mut items = objects::list::<Host>(&client, args.of.org.as_deref()).await?;
    if let Some(endpoint) = &args.endpoint {
        items.retain(|host| &host.spec.endpoint == endpoint);
    }
    app.out.list(
        items,
        "there is no host; `farplane host join-command` prints how a machine becomes one, `farplane lab add` makes one for trying out",
    )
}
