//! `farplane fn list`

use anyhow::Result;
use clap::Args;
use farplane_functions_types::Function;

use crate::App;
use crate::functions::place::OfNamespace;
use crate::objects;

/// Which ones.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  farplane fn list\n  farplane fn list -A -o name")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    of: OfNamespace,
}

/// Lists them.
pub(crate) async fn run(app: &App, args: ListArgs) -> Result<()> {
    let client = args.of.at.connect(app).await?;
    let items = objects::list::<Function>(&client, args.of.place()).await?;
    let make = args
        .of
        .at
        .command("fn create NAME --env python --code FILE");
    app.out
        .list(items, &format!("there is no function; `{make}` makes one"))
}
