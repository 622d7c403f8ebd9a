//! `farplane fn delete`

use anyhow::Result;
use clap::Args;
use farplane_functions_types::{Function, HTTPTrigger, TimeTrigger};
use kube::ResourceExt as _;

use super::package;
use crate::App;
use crate::ask::Consent;
use crate::functions::kinds::calls;
use crate::functions::place::Named;
use crate::objects;

/// A function to delete.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  farplane fn delete hello --yes")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    named: Named,
    /// Keep its routes and timers, for another function of that name
    #[arg(long)]
    keep_triggers: bool,
    #[command(flatten)]
    consent: Consent,
}

/// Deletes it with its code, its routes and its timers.
pub(crate) async fn run(app: &App, args: DeleteArgs) -> Result<()> {
    let client = args.named.at.connect(app).await?;
    let (name, namespace) = (args.named.name.as_str(), args.named.at.namespace.as_str());
    let place = Some(namespace);
    let function: Function = objects::get(&client, place, name).await?;
    let mut routes = objects::list::<HTTPTrigger>(&client, place).await?;
    let mut timers = objects::list::<TimeTrigger>(&client, place).await?;
    // A route that others share keeps them.
    routes.retain(|one| !args.keep_triggers && one.spec.function_ref.name == name);
    timers.retain(|one| !args.keep_triggers && calls(&one.spec.function_ref, name));
    let also = match routes.len() + timers.len() {
        0 => String::new(),
        count => format!(" with {count} routes and timers"),
    };
    args.consent.to(&format!(
        "delete function {name} in namespace {namespace}{also}"
    ))?;
    for route in &routes {
        objects::delete::<HTTPTrigger>(&client, place, &route.name_any()).await?;
    }
    for timer in &timers {
        objects::delete::<TimeTrigger>(&client, place, &timer.name_any()).await?;
    }
    objects::delete::<Function>(&client, place, name).await?;
    let package = &function.spec.package.package_ref.name;
    package::release(&client, namespace, package, name).await?;
    app.out
        .say(format_args!("function {name} is deleted{also}"));
    Ok(())
}
