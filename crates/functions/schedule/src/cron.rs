//! When a timer is due: cron, with seconds or without, or every so often.
//!
//! Understood, as in Fission: five fields, six with seconds before them, `?` for `*`, names of
//! months and days, `1/15` for `1-59/15`; `@every 1h30m`; `@hourly`, `@daily`, `@midnight`,
//! `@weekly`, `@monthly`, `@yearly`, `@annually`; a time zone before all of it, as
//! `CRON_TZ=Europe/Rome` or `TZ=`, otherwise UTC. `L`, `W` and `#` work as well.
//!
//! When clocks are put forward, a time of day that does not exist that day is due at the
//! first moment after the gap; when they are put back, it is due once.

use std::time::Duration;

use croner::errors::CronError as Cause;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::duration;

/// Longest text that is looked at, as in the definition.
const LONGEST: usize = 256;
/// Shortest interval of `@every`; shorter ones are lengthened, as in Fission.
const SHORTEST: Duration = Duration::from_secs(1);

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Longer than the definition allows.
    #[error("the schedule is longer than {LONGEST} characters")]
    TooLong,
    /// The zone is not in the database.
    #[error("time zone {0:?} is not known; write one such as Europe/Rome")]
    Zone(String),
    /// The interval after `@every` is no duration.
    #[error("the interval after @every is not valid: {0}")]
    Interval(#[from] duration::DurationError),
    /// A word after `@` that is none of ours.
    #[error("{0:?} is not a schedule; @every, @hourly, @daily, @weekly, @monthly and @yearly are")]
    Word(String),
    /// The fields.
    #[error("cron {text:?} is not valid: {reason}")]
    Fields {
        /// Fields as written.
        text: String,
        /// Why.
        reason: String,
    },
}

/// A schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Every(Duration),
    Cron {
        pattern: Box<croner::Cron>,
        zone: TimeZone,
    },
}

impl std::str::FromStr for Schedule {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > LONGEST {
            return Err(CronError::TooLong);
        }
        let (zone, text) = zone(text.trim())?;
        if let Some(interval) = text.strip_prefix("@every ") {
            let interval = duration::parse(interval.trim())?;
            // Whole seconds, so that a call is due at one.
            let interval = Duration::from_secs(interval.as_secs()).max(SHORTEST);
            let kind = Kind::Every(interval);
            return Ok(Self { kind });
        }
        let fields = match text {
            "@hourly" => "0 0 * * * *",
            "@daily" | "@midnight" => "0 0 0 * * *",
            "@weekly" => "0 0 0 * * 0",
            "@monthly" => "0 0 0 1 * *",
            "@yearly" | "@annually" => "0 0 0 1 1 *",
            text if text.starts_with('@') => return Err(CronError::Word(text.to_owned())),
            text => text,
        };
        let kind = Kind::Cron {
            pattern: Box::new(pattern(fields)?),
            zone,
        };
        Ok(Self { kind })
    }
}

/// Takes the zone from the beginning.
fn zone(text: &str) -> Result<(TimeZone, &str), CronError> {
    let Some(rest) = text
        .strip_prefix("CRON_TZ=")
        .or_else(|| text.strip_prefix("TZ="))
    else {
        return Ok((TimeZone::UTC, text));
    };
    let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let zone = TimeZone::get(name).map_err(|_| CronError::Zone(name.to_owned()))?;
    Ok((zone, rest.trim_start()))
}

fn pattern(text: &str) -> Result<croner::Cron, CronError> {
    let refused = |reason: String| CronError::Fields {
        text: text.to_owned(),
        reason,
    };
    let count = text.split_whitespace().count();
    if !(5..=6).contains(&count) {
        return Err(refused(format!(
            "it has {count} fields; 5 are needed, or 6 with seconds first"
        )));
    }
    // The crate knows `@` words of its own, and would read them within a field.
    if !text.is_ascii() || text.contains('@') {
        return Err(refused(
            "only numbers, names, and * ? , - / L W # are allowed".into(),
        ));
    }
    CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Disallowed)
        .sloppy_ranges(true)
        .build()
        .parse(&text.replace('?', "*"))
        .map_err(|cause| {
            refused(match cause {
                Cause::InvalidPattern(reason)
                | Cause::IllegalCharacters(reason)
                | Cause::ComponentError(reason) => reason.trim_end_matches('.').to_lowercase(),
                other => other.to_string().trim_end_matches('.').to_lowercase(),
            })
        })
}

impl Schedule {
    /// The first time after `after`; none when there is none.
    ///
    /// `@every` counts from `anchor`, the making of the trigger: a restart or another leader
    /// does not move it.
    pub fn next(&self, after: Timestamp, anchor: Timestamp) -> Option<Timestamp> {
        match &self.kind {
            Kind::Every(interval) => every(*interval, after, anchor),
            Kind::Cron { pattern, zone } => {
                let start = after.to_zoned(zone.clone());
                let next = pattern.find_next_occurrence(&start, false).ok()?;
                let next = next.timestamp();
                // Never the same again, whatever a zone's rules are.
                (next > after).then_some(next)
            }
        }
    }
}

fn every(interval: Duration, after: Timestamp, anchor: Timestamp) -> Option<Timestamp> {
    let step = i64::try_from(interval.as_secs()).ok()?;
    let anchor = anchor.as_second();
    let elapsed = after.as_second().checked_sub(anchor)?;
    let count = elapsed.div_euclid(step).checked_add(1)?;
    let seconds = anchor.checked_add(count.checked_mul(step)?)?;
    Timestamp::from_second(seconds).ok()
}

#[cfg(test)]
#[path = "cron_tests.rs"]
mod tests;
