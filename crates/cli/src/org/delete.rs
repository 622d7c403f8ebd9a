//! `farplane org delete`

use anyhow::Result;
use clap::Args;
use farplane_types::Organization;
use farplane_types::conditions::{self, READY};

use crate::App;
use crate::arguments::name;
use crate::ask::Consent;
use crate::hub;
use crate::objects::{self, Kind as _};
use crate::wait::{self, Goal, Patience};

/// An organization to delete.
#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// Name
    #[arg(value_parser = name)]
    name: String,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    patience: Patience,
}

/// Deletes it.
pub(crate) async fn run(app: &App, args: DeleteArgs) -> Result<()> {
    let name = args.name.as_str();
    let client = hub::connect(app).await?;
    let object: Organization = objects::get(&client, None, name).await?;
    args.consent.to(&format!(
        "delete organization {name} with {}",
        contents(&object)
    ))?;
    objects::delete::<Organization>(&client, None, name).await?;
    if args.patience.wait {
        let goal = Goal {
            what: format!("organization {name} to be gone"),
            look: "farplane org list".to_owned(),
            timeout: args.patience.timeout,
            out: &app.out,
        };
        wait::until_gone(goal, Organization::api(client, None), &object, state).await?;
        app.out.say(format_args!("organization {name} is gone"));
    } else {
        app.out
            .say(format_args!("organization {name} is being deleted"));
    }
    Ok(())
}

fn contents(object: &Organization) -> String {
    let usage = object.status.clone().unwrap_or_default().usage;
    let count = |number: u32, noun: &str| match number {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    };
    format!(
        "{} and {}",
        count(usage.clusters, "cluster"),
        count(usage.hosts, "host")
    )
}

fn state(object: &Organization) -> String {
    object
        .status
        .as_ref()
        .and_then(|status| conditions::get(&status.conditions, READY))
        .filter(|ready| ready.status != "True" && !ready.message.is_empty())
        .map_or_else(
            || "the hub deletes what is in it".to_owned(),
            |ready| ready.message.clone(),
        )
}
