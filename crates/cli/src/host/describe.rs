//! `farplane host describe`

use anyhow::Result;
use clap::Args;
use farplane_types::Host;
use k8s_openapi::jiff::Timestamp;

use crate::App;
use crate::arguments::Named;
use crate::{hub, objects, view};

/// Which host.
#[derive(Args, Debug)]
pub(crate) struct DescribeArgs {
    #[command(flatten)]
    named: Named,
}

/// Tells everything about it.
pub(crate) async fn run(app: &App, args: DescribeArgs) -> Result<()> {
    let (name, org) = (args.named.name.as_str(), args.named.of.org.as_str());
    let client = hub::connect(app).await?;
    let host: Host = objects::get(&client, Some(org), name).await?;
    app.out.object(&host, |color| {
        view::host::describe(&host, Timestamp::now(), color)
    })
}
