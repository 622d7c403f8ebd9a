//! `farplane spec destroy`

use anyhow::Result;
use clap::Args;
use kube::ResourceExt as _;

use super::{Directory, files, live};
use crate::App;
use crate::ask::Consent;
use crate::functions::place::InCluster;

/// Made of what.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  farplane spec destroy --yes")]
pub(crate) struct DestroyArgs {
    #[command(flatten)]
    at: InCluster,
    #[command(flatten)]
    directory: Directory,
    #[command(flatten)]
    consent: Consent,
}

/// Deletes everything that carries the specs' uid; what refers to others goes first.
pub(crate) async fn run(app: &App, args: DestroyArgs) -> Result<()> {
    let config = files::read(&args.directory)?.config;
    let client = args.at.connect(app).await?;
    let made = live::made(&client, Some(&config.uid)).await?;
    if made.is_empty() {
        app.out
            .say(format_args!("nothing of {} is in the cluster", config.name));
        return Ok(());
    }
    args.consent.to(&format!(
        "delete the {} objects of {}",
        made.len(),
        config.name
    ))?;
    for one in made.iter().rev() {
        live::delete(&client, one).await?;
        app.out.say(format_args!(
            "{} {} is deleted",
            one.kind.noun,
            one.object.name_any()
        ));
    }
    Ok(())
}
