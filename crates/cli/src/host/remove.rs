//! `farplane host remove`

use anyhow::Result;
use clap::Args;
use farplane_types::conditions::{self, READY};
use farplane_types::{Host, HostProvider};
use kube::ResourceExt as _;

use crate::App;
use crate::arguments::Named;
use crate::ask::Consent;
use crate::failure::Failure;
use crate::hub;
use crate::objects::{self, Kind as _};
use crate::wait::{self, Goal, Patience};

/// A host to take away.
#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    patience: Patience,
}

/// Takes it away.
pub(crate) async fn run(app: &App, args: RemoveArgs) -> Result<()> {
    remove(app, args, None).await
}

/// Takes a host away; with `only`, none of another provider.
pub(crate) async fn remove(app: &App, args: RemoveArgs, only: Option<HostProvider>) -> Result<()> {
    let (name, org) = (args.named.name.as_str(), args.named.of.org.as_str());
    let client = hub::connect(app).await?;
    let host: Host = objects::get(&client, Some(org), name).await?;
    if only.is_some_and(|only| only != host.spec.provider) {
        return Err(Failure::Refused(format!(
            "host {name} in organization {org} is not a lab host; `farplane host remove {name} --org {org}` removes it"
        ))
        .into());
    }
    args.consent.to(&question(&host, org))?;
    objects::delete::<Host>(&client, Some(org), name).await?;
    if args.patience.wait {
        let goal = Goal {
            what: format!("host {name} in organization {org} to be gone"),
            look: format!("farplane host describe {name} --org {org}"),
            timeout: args.patience.timeout,
            out: &app.out,
        };
        wait::until_gone(goal, Host::api(client, Some(org)), &host, state).await?;
        app.out
            .say(format_args!("host {name} in organization {org} is gone"));
    } else {
        app.out.say(format_args!(
            "host {name} in organization {org} is being removed"
        ));
    }
    Ok(())
}

fn question(host: &Host, org: &str) -> String {
    let cluster = host
        .status
        .as_ref()
        .and_then(|status| status.cluster.as_ref())
        .map(|cluster| format!(", which is a node of cluster {cluster},"))
        .unwrap_or_default();
    format!(
        "remove host {}{cluster} from organization {org}",
        host.name_any()
    )
}

fn state(host: &Host) -> String {
    host.status
        .as_ref()
        .and_then(|status| conditions::get(&status.conditions, READY))
        .filter(|ready| ready.status != "True" && !ready.message.is_empty())
        .map_or_else(
            || "the agent cleans the machine".to_owned(),
            |ready| ready.message.clone(),
        )
}
