//! `farplane timer delete`

use anyhow::Result;
use clap::Args;
use farplane_functions_types::TimeTrigger;

use crate::App;
use crate::ask::Consent;
use crate::functions::place::Named;
use crate::objects;

/// A timer to delete.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  farplane timer delete report-1f2e3d4c")]
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
    objects::get::<TimeTrigger>(&client, place, name).await?;
    args.consent.to(&format!("delete timer {name}"))?;
    objects::delete::<TimeTrigger>(&client, place, name).await?;
    app.out.say(format_args!("timer {name} is deleted"));
    Ok(())
}
