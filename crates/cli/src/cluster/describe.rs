//! `farplane cluster describe`

use anyhow::Result;
use clap::Args;
use farplane_types::KubernetesCluster;
use k8s_openapi::jiff::Timestamp;

use crate::App;
use crate::arguments::Named;
use crate::{hub, objects, view};

/// Which cluster.
#[derive(Args, Debug)]
pub(crate) struct DescribeArgs {
    #[command(flatten)]
    named: Named,
}

/// Tells everything about it.
pub(crate) async fn run(app: &App, args: DescribeArgs) -> Result<()> {
    let (name, org) = (args.named.name.as_str(), args.named.of.org.as_str());
    let client = hub::connect(app).await?;
    let cluster: KubernetesCluster = objects::get(&client, Some(org), name).await?;
    app.out.object(&cluster, |color| {
        view::cluster::describe(&cluster, Timestamp::now(), color)
    })
}
