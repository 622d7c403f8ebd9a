//! `farplane timer list`

use anyhow::Result;
use clap::Args;
use farplane_functions_types::TimeTrigger;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use super::schedule;
use crate::App;
use crate::functions::kinds;
use crate::functions::place::OfNamespace;
use crate::objects;
use crate::time::age;
use crate::view::cells::Cell;
use crate::view::rows::Row;

/// Which ones.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  farplane timer list\n  farplane timer list -A")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    of: OfNamespace,
}

/// Lists them.
pub(crate) async fn run(app: &App, args: ListArgs) -> Result<()> {
    let client = args.of.at.connect(app).await?;
    let items = objects::list::<TimeTrigger>(&client, args.of.place()).await?;
    let make = args
        .of
        .at
        .command("timer create --function NAME --cron SCHEDULE");
    app.out
        .list(items, &format!("there is no timer; `{make}` makes one"))
}

impl Row for TimeTrigger {
    const HEADS: &'static [&'static str] = &[
        "NAME",
        "NAMESPACE",
        "SCHEDULE",
        "FUNCTION",
        "NEXT",
        "READY",
        "AGE",
    ];

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let conditions = self.status.clone().unwrap_or_default().conditions;
        vec![
            self.name_any().into(),
            self.namespace().unwrap_or_default().into(),
            self.spec.cron.clone().into(),
            kinds::target(&self.spec.function_ref).into(),
            Cell::or_dash(schedule::next_of(self, now)),
            kinds::verdict(&conditions, "Ready"),
            age(self.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}
