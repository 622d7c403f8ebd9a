//! `farplane env list`

use anyhow::Result;
use clap::Args;
use farplane_functions_types::Environment;

use super::super::catalogue;
use super::super::place::OfNamespace;
use crate::App;
use crate::objects;
use crate::view::cells::{Cell, table};

/// Which ones.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  farplane env list\n  farplane env list --languages")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    of: OfNamespace,
    /// The languages that the platform knows, instead of the environments that were made
    #[arg(long, conflicts_with = "all_namespaces")]
    languages: bool,
}

/// Lists them.
pub(crate) async fn run(app: &App, args: ListArgs) -> Result<()> {
    let client = args.of.at.connect(app).await?;
    if args.languages {
        let known = catalogue::read(&client).await?;
        return app.out.value(&known, |color| languages(app, &known, color));
    }
    let items = objects::list::<Environment>(&client, args.of.place()).await?;
    let make = args.of.at.command("env create LANGUAGE");
    app.out.list(
        items,
        &format!("there is no environment; `{make}` makes one, and so does `fn create`"),
    )
}

fn languages(app: &App, known: &catalogue::Catalogue, color: bool) -> String {
    if app.out.format == crate::arguments::Format::Name {
        return known.keys().map(|name| format!("{name}\n")).collect();
    }
    let rows: Vec<Vec<Cell>> = known
        .iter()
        .map(|(name, entry)| {
            vec![
                name.clone().into(),
                entry.image.clone().into(),
                Cell::or_dash(Some(entry.builder.clone())),
            ]
        })
        .collect();
    table(&["LANGUAGE", "IMAGE", "BUILDER"], &rows, color)
}
