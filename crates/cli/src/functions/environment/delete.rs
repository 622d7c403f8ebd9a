//! `farplane env delete`

use anyhow::Result;
use clap::Args;
use farplane_functions_types::{Environment, Function};
use kube::ResourceExt;

use super::super::place::Named;
use crate::App;
use crate::ask::Consent;
use crate::failure::Failure;
use crate::objects;

/// An environment to delete.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  farplane env delete python")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    named: Named,
    /// Also when functions use it: they stop answering
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    consent: Consent,
}

/// Deletes it.
pub(crate) async fn run(app: &App, args: DeleteArgs) -> Result<()> {
    let client = args.named.at.connect(app).await?;
    let (name, namespace) = (args.named.name.as_str(), args.named.at.namespace.as_str());
    objects::get::<Environment>(&client, Some(namespace), name).await?;
    let functions = objects::list::<Function>(&client, Some(namespace)).await?;
    let users: Vec<String> = functions
        .iter()
        .filter(|function| function.spec.environment.name == name)
        .map(ResourceExt::name_any)
        .collect();
    if !users.is_empty() && !args.force {
        return Err(Failure::Refused(format!(
            "functions use environment {name}: {}; delete them first, or repeat with --force",
            users.join(", ")
        ))
        .into());
    }
    args.consent.to(&format!(
        "delete environment {name} in namespace {namespace}"
    ))?;
    objects::delete::<Environment>(&client, Some(namespace), name).await?;
    app.out.say(format_args!("environment {name} is deleted"));
    Ok(())
}
