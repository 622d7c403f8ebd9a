//! `farplane timer create`

use anyhow::Result;
use clap::Args;
use farplane_functions_types::triggers::TimeTriggerSpec;
use farplane_functions_types::{Function, FunctionReference, TimeTrigger};
use k8s_openapi::jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::schedule;
use crate::App;
use crate::functions::place::{InNamespace, label};
use crate::functions::route;
use crate::objects;

const AFTER: &str = "\
Examples:
  farplane timer create --function report --cron '0 6 * * *'
  farplane timer create --function tick --cron '@every 30s' --subpath /tick
  farplane timer create --function rome --cron 'CRON_TZ=Europe/Rome 30 9 * * mon-fri'
A field of seconds may stand before the five others. Times are UTC unless CRON_TZ says more.";

/// A new timer.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub(crate) struct CreateArgs {
    /// Function that is called
    #[arg(long, value_name = "FUNCTION", value_parser = label)]
    function: String,
    /// When: cron, `@every 5m`, `@hourly`, `@daily`, `@weekly`, `@monthly` or `@yearly`
    #[arg(long, value_name = "SCHEDULE", value_parser = schedule::cron)]
    cron: String,
    /// HTTP method
    #[arg(long, value_name = "METHOD", value_parser = route::method, default_value = "POST")]
    method: String,
    /// Path that the function sees
    #[arg(long, value_name = "PATH", default_value = "/")]
    subpath: String,
    /// Name of the timer; made from function and schedule when left out
    #[arg(long, value_name = "NAME", value_parser = label)]
    name: Option<String>,
    #[command(flatten)]
    at: InNamespace,
}

/// Makes it.
pub(crate) async fn run(app: &App, args: CreateArgs) -> Result<()> {
    let client = args.at.connect(app).await?;
    let place = Some(args.at.namespace.as_str());
    objects::get::<Function>(&client, place, &args.function).await?;
    let made = objects::create(&client, place, &timer(&args)).await?;
    let next = schedule::next_of(&made, Timestamp::now());
    let name = made.metadata.name.clone().unwrap_or_default();
    app.out.made(
        &made,
        format_args!(
            "timer {name} calls {}; next at {}",
            args.function,
            next.unwrap_or_else(|| "no time at all".to_owned())
        ),
    )
}

fn timer(args: &CreateArgs) -> TimeTrigger {
    let name = args.name.clone().unwrap_or_else(|| {
        let text = format!("{} {} {}", args.cron, args.method, args.subpath);
        let digest = hex::encode(Sha256::digest(text.as_bytes()));
        let mut stem = args.function.clone();
        stem.truncate(54);
        format!("{}-{}", stem.trim_end_matches('-'), &digest[..8])
    });
    let spec = TimeTriggerSpec {
        cron: args.cron.clone(),
        function_ref: FunctionReference {
            kind: "name".to_owned(),
            name: args.function.clone(),
            ..FunctionReference::default()
        },
        method: args.method.clone(),
        subpath: args.subpath.clone(),
    };
    TimeTrigger::new(&name, spec)
}
