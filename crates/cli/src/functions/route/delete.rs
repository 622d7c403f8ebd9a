//! `farplane route delete`

use anyhow::Result;
use clap::Args;
use farplane_functions_types::HTTPTrigger;

use super::super::kinds;
use super::super::place::Named;
use crate::App;
use crate::ask::Consent;
use crate::objects;

/// A route to delete.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  farplane route delete hello-1f2e3d4c")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    consent: Consent,
}

/// Deletes it.
pub(crate) async fn run(app: &App, args: DeleteArgs) -> Result<()> {
    let client = args.named.at.connect(app).await?;
    let (name, place) = (
        args.named.name.as_str(),
        Some(args.named.at.namespace.as_str()),
    );
    let route: HTTPTrigger = objects::get(&client, place, name).await?;
    let path = kinds::path(&route);
    args.consent
        .to(&format!("delete route {name}, so that {path} answers 404"))?;
    objects::delete::<HTTPTrigger>(&client, place, name).await?;
    app.out
        .say(format_args!("route {name} to {path} is deleted"));
    Ok(())
}
