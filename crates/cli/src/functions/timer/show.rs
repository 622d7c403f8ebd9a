//! `farplane timer show`

use anyhow::Result;
use clap::Args;
use k8s_openapi::jiff::Timestamp;

use super::schedule;
use crate::App;

/// Which schedule.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  farplane timer show --cron '*/15 * * * *' --round 4")]
pub(crate) struct ShowArgs {
    /// When: cron, `@every 5m`, `@hourly`, ...
    #[arg(long, value_name = "SCHEDULE", value_parser = schedule::cron)]
    cron: String,
    /// How many times
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1000))]
    round: u16,
}

/// Prints the next times.
pub(crate) fn run(app: &App, args: &ShowArgs) -> Result<()> {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    let times: Vec<String> = schedule::next(&args.cron, now, now, usize::from(args.round))
        .iter()
        .map(Timestamp::to_string)
        .collect();
    if times.is_empty() {
        app.out.say("this schedule is never due");
    }
    app.out.value(&times, |_| {
        times.iter().map(|time| format!("{time}\n")).collect()
    })
}
