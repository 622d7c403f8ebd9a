//! `farplane endpoint list`

use anyhow::Result;
use clap::Args;
use farplane_types::Endpoint;

use crate::App;
use crate::arguments::OfOrganization;
use crate::{hub, objects};

/// Whose endpoints.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    of: OfOrganization,
}

/// Lists them.
pub(crate) async fn run(app: &App, args: ListArgs) -> Result<()> {
    let client = hub::connect(app).await?;
    let items = objects::list::<Endpoint>(&client, args.of.org.as_deref()).await?;
    app.out.list(
        items,
        "there is no endpoint; `farplane endpoint create NAME --org ORG` makes one",
    )
}
