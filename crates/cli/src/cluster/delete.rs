//! `farplane cluster delete`

use anyhow::Result;
use clap::Args;
use farplane_types::KubernetesCluster;
use farplane_types::conditions::{self, READY};

use crate::App;
use crate::arguments::Named;
use crate::ask::Consent;
use crate::hub;
use crate::objects::{self, Kind as _};
use crate::wait::{self, Goal, Patience};

/// A cluster to delete.
#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    patience: Patience,
}

/// Deletes it.
pub(crate) async fn run(app: &App, args: DeleteArgs) -> Result<()> {
    let (name, org) = (args.named.name.as_str(), args.named.of.org.as_str());
    let client = hub::connect(app).await?;
    let cluster: KubernetesCluster = objects::get(&client, Some(org), name).await?;
    let nodes = cluster
        .status
        .as_ref()
        .map_or(0, |status| status.nodes.len());
    args.consent.to(&format!(
        "delete cluster {name} in organization {org} with all its data and everything that runs on its {nodes} nodes"
    ))?;
    objects::delete::<KubernetesCluster>(&client, Some(org), name).await?;
    if args.patience.wait {
        let goal = Goal {
            what: format!("cluster {name} in organization {org} to be gone"),
            look: format!("farplane cluster describe {name} --org {org}"),
            timeout: args.patience.timeout,
            out: &app.out,
        };
        let api = KubernetesCluster::api(client, Some(org));
        wait::until_gone(goal, api, &cluster, state).await?;
        app.out
            .say(format_args!("cluster {name} in organization {org} is gone"));
    } else {
        app.out.say(format_args!(
            "cluster {name} in organization {org} is being deleted"
        ));
    }
    Ok(())
}

fn state(cluster: &KubernetesCluster) -> String {
    cluster
        .status
        .as_ref()
        .and_then(|status| conditions::get(&status.conditions, READY))
        .filter(|ready| ready.status != "True" && !ready.message.is_empty())
        .map_or_else(
            || "hosts are released, then the control plane goes".to_owned(),
            |ready| ready.message.clone(),
        )
}
