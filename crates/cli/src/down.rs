//! `farplane down`

use anyhow::Result;
use clap::Args;

use crate::App;
use crate::arguments::name;
use crate::{engine, up};

/// A hub to stop.
#[derive(Args, Debug)]
pub(crate) struct DownArgs {
    /// Name of the hub [default: --hub, else default]
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// Also remove every trace of it, with all data
    #[arg(long)]
    purge: bool,
}

/// Stops it.
pub(crate) async fn run(app: &App, args: DownArgs) -> Result<()> {
    let name = up::chosen(app, args.name)?;
    if args.purge {
        engine::purge(app, &name).await?;
        app.out.say(format_args!("hub {name} is removed"));
    } else {
        engine::down(app, &name).await?;
        app.out.say(format_args!(
            "hub {name} is stopped; `farplane up --name {name}` starts it again"
        ));
    }
    Ok(())
}
