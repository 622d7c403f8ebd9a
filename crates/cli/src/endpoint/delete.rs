//! `farplane endpoint delete`

use anyhow::Result;
use clap::Args;
use farplane_types::{Endpoint, Host};
use kube::ResourceExt as _;

use crate::App;
use crate::arguments::Named;
use crate::ask::Consent;
use crate::failure::Failure;
use crate::{hub, objects};

/// An endpoint to delete.
#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    consent: Consent,
}

/// Deletes it, unless it has hosts.
pub(crate) async fn run(app: &App, args: DeleteArgs) -> Result<()> {
    let (name, org) = (args.named.name.as_str(), args.named.of.org.as_str());
    let client = hub::connect(app).await?;
    objects::get::<Endpoint>(&client, Some(org), name).await?;
    let mut hosts: Vec<String> = objects::list::<Host>(&client, Some(org))
        .await?
        .into_iter()
        .filter(|host| host.spec.endpoint == name)
        .map(|host| host.name_any())
        .collect();
    hosts.sort();
    if !hosts.is_empty() {
        return Err(Failure::Refused(format!(
            "endpoint {name} still has hosts: {}; remove them with `farplane host remove NAME --org {org}`",
            hosts.join(", ")
        ))
        .into());
    }
    args.consent
        .to(&format!("delete endpoint {name} in organization {org}"))?;
    objects::delete::<Endpoint>(&client, Some(org), name).await?;
    app.out.say(format_args!(
        "endpoint {name} in organization {org} is deleted"
    ));
    Ok(())
}
