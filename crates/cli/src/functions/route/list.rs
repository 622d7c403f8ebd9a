//! `farplane route list`

use anyhow::Result;
use clap::Args;
use farplane_functions_types::HTTPTrigger;

use super::super::kinds::calls;
use super::super::place::{OfNamespace, label};
use crate::App;
use crate::objects;

/// Which ones.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  farplane route list\n  farplane route list --function hello")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    of: OfNamespace,
    /// Only those to this function
    #[arg(long, value_name = "FUNCTION", value_parser = label)]
    function: Option<String>,
}

/// Lists them.
pub(crate) async fn run(app: &App, args: ListArgs) -> Result<()> {
    let client = args.of.at.connect(app).await?;
    let mut items = objects::list::<HTTPTrigger>(&client, args.of.place()).await?;
    if let Some(function) = &args.function {
        items.retain(|route| calls(&route.spec.function_ref, function));
    }
    let make = args
        .of
        .at
        .command("route create --function NAME --url /path");
    app.out
        .list(items, &format!("there is no route; `{make}` makes one"))
}
