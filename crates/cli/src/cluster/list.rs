//! `farplane cluster list`

use anyhow::Result;
use clap::Args;
use farplane_types::KubernetesCluster;

use crate::App;
use crate::arguments::OfOrganization;
use crate::{hub, objects};

/// Whose clusters.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    of: OfOrganization,
}

/// Lists them.
pub(crate) async fn run(app: &App, args: ListArgs) -> Result<()> {
    let client = hub::connect(app).await?;
    let items = objects::list::<KubernetesCluster>(&client, args.of.org.as_deref()).await?;
    app.out.list(
        items,
        "there is no cluster; `farplane cluster create NAME --org ORG` makes one",
    )
}
