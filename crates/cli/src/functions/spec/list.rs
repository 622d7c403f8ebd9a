//! `farplane spec list`

use anyhow::Result;
use clap::Args;
use farplane_functions_types::names::annotation::SPEC_NAME;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::live::{self, Live};
use super::{Directory, files};
use crate::App;
use crate::arguments::Format;
use crate::functions::place::InCluster;
use crate::view::cells::{Cell, table};

/// Made of what.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  farplane spec list\n  farplane spec list --all -o json")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    at: InCluster,
    #[command(flatten)]
    directory: Directory,
    /// Uid of the specs, instead of a directory
    #[arg(long, value_name = "UID")]
    deployid: Option<String>,
    /// Of all specs
    #[arg(long, conflicts_with = "deployid")]
    all: bool,
}

/// Lists it.
pub(crate) async fn run(app: &App, args: ListArgs) -> Result<()> {
    let uid = match (args.all, args.deployid) {
        (true, _) => None,
        (false, Some(uid)) => Some(uid),
        (false, None) => Some(files::read(&args.directory)?.config.uid),
    };
    let client = args.at.connect(app).await?;
    let made = live::made(&client, uid.as_deref()).await?;
    if app.out.format == Format::Name {
        let names: String = made
            .iter()
            .map(|one| {
                format!(
                    "{}/{}\n",
                    one.kind.kind.to_lowercase(),
                    one.object.name_any()
                )
            })
            .collect();
        return app.out.data(&names);
    }
    if made.is_empty() && app.out.format == Format::Table {
        app.out
            .say("nothing was made of these specs; `farplane spec apply` does it");
        return Ok(());
    }
    let values: Vec<Value> = made.iter().map(value).collect();
    app.out.value(&values, |color| render(&made, color))
}

fn value(live: &Live) -> Value {
    json!({
        "kind": live.kind.kind, "namespace": live.namespace(), "name": live.object.name_any(),
        "deployment": live.object.annotations().get(SPEC_NAME), "uid": live::owner(&live.object),
    })
}

fn render(made: &[Live], color: bool) -> String {
    let rows: Vec<Vec<Cell>> = made
        .iter()
        .map(|live| {
            let specs = live.object.annotations().get(SPEC_NAME);
            vec![
                live.kind.kind.into(),
                live.namespace().into(),
                live.object.name_any().into(),
                Cell::or_dash(specs.cloned()),
            ]
        })
        .collect();
    table(&["KIND", "NAMESPACE", "NAME", "SPECS"], &rows, color)
}
