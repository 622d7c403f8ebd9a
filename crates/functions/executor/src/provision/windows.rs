//! How many instances a function asks for at a moment, by its windows. Pure.
//!
//! A window is open from each time of its schedule for its duration, that end left out. While
//! windows are open the largest of their targets counts, whatever the function's own is. Looking
//! a time up can be work, so an answer comes with the time until which it holds.

use std::time::Duration;

use farplane_functions_schedule::cron::Schedule;
use farplane_functions_schedule::duration;
use farplane_functions_types::function::{ProvisionedConcurrency, Window};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// As in the definition.
const MOST: usize = 32;
/// Of what is told; names and times are the user's, and as long as they like.
const LONGEST: usize = 512;

/// What a function asks for at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    pub target: usize,
    /// Ask again then; never when there is none.
    pub until: Option<Timestamp>,
}

/// A function's windows, read once.
#[derive(Debug)]
pub(crate) struct Windows {
    base: usize,
    all: Vec<Parsed>,
    /// What is wrong with those that are left out.
    pub wrong: Option<String>,
}

#[derive(Debug)]
struct Parsed {
    schedule: Schedule,
    length: SignedDuration,
    target: usize,
}

fn count(said: i64) -> usize {
    usize::try_from(said).unwrap_or(0)
}

impl Parsed {
    fn of(window: &Window) -> Result<Self, String> {
        let wrong = |field: &str, reason: &dyn std::fmt::Display| {
            let words = format!("{field} of window {} is invalid: {reason}", window.name);
            words.chars().take(LONGEST).collect::<String>()
        };
        let schedule = window
            .start
            .parse()
            .map_err(|error| wrong("start", &error))?;
        let length =
            duration::parse(&window.duration).map_err(|error| wrong("duration", &error))?;
        if length == Duration::ZERO {
            return Err(wrong("duration", &"it must be longer than nothing"));
        }
        let length = SignedDuration::try_from(length).map_err(|error| wrong("duration", &error))?;
        Ok(Self {
            schedule,
            length,
            target: count(window.target),
        })
    }

    /// Whether it is open, and until when that is so.
    fn at(&self, now: Timestamp, anchor: Timestamp) -> (bool, Option<Timestamp>) {
        let since = now.checked_sub(self.length).unwrap_or(Timestamp::MIN);
        match self.schedule.next(since, anchor) {
            None => (false, None),
            Some(start) if start > now => (false, Some(start)),
            // It may open again before, and is looked at then.
            Some(start) => (true, start.checked_add(self.length).ok()),
        }
    }
}

impl Windows {
    pub fn of(said: &ProvisionedConcurrency) -> Self {
        let (mut all, mut wrong) = (Vec::new(), None);
        for window in said.windows.iter().take(MOST) {
            match Parsed::of(window) {
                Ok(parsed) => all.push(parsed),
                Err(reason) => _ = wrong.get_or_insert(reason),
            }
        }
        Self {
            base: count(said.target),
            all,
            wrong,
        }
    }

    /// `@every` counts from `anchor`.
    pub fn at(&self, now: Timestamp, anchor: Timestamp) -> Now {
        let (mut open, mut until) = (None::<usize>, None::<Timestamp>);
        for window in &self.all {
            let (is_open, next) = window.at(now, anchor);
            if is_open {
                open = open.max(Some(window.target));
            }
            until = [until, next].into_iter().flatten().min();
        }
        Now {
            target: open.unwrap_or(self.base),
            until,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn windows(all: &[(&str, &str, i64)]) -> Windows {
        let windows = all.iter().map(|(start, duration, target)| Window {
            name: "w".into(),
            start: (*start).into(),
            duration: (*duration).into(),
            target: *target,
        });
        Windows::of(&ProvisionedConcurrency {
            target: 2,
            windows: windows.collect(),
        })
    }

    fn at(windows: &Windows, time: &str) -> (usize, String) {
        let now = windows.at(time.parse().unwrap(), Timestamp::UNIX_EPOCH);
        let until = now.until.map(|until| until.to_string());
        (now.target, until.unwrap_or_default())
    }

    fn told(target: usize, until: &str) -> (usize, String) {
        (target, until.to_owned())
    }

    #[test]
    fn a_window_is_open_from_its_start_until_before_its_end() {
        let office = windows(&[("0 8 * * 1-5", "10h", 9)]);
        for (time, target, until) in [
            ("2026-11-27T07:59:59Z", 2, "2026-11-27T08:00:00Z"),
            ("2026-11-27T08:00:00Z", 9, "2026-11-27T18:00:00Z"),
            ("2026-11-27T17:59:59.9Z", 9, "2026-11-27T18:00:00Z"),
            ("2026-11-27T18:00:00Z", 2, "2026-11-30T08:00:00Z"),
        ] {
            assert_eq!(at(&office, time), told(target, until), "{time}");
        }
    }

    #[test]
    fn of_several_that_are_open_the_largest_counts_and_may_be_less_than_the_base() {
        let both = windows(&[("0 8 * * *", "4h", 5), ("0 10 * * *", "30m", 7)]);
        assert_eq!(
            at(&both, "2026-11-27T10:10:00Z"),
            told(7, "2026-11-27T10:30:00Z")
        );
        assert_eq!(
            at(&both, "2026-11-27T11:00:00Z"),
            told(5, "2026-11-27T12:00:00Z")
        );
        let night = windows(&[("0 22 * * *", "8h", 0)]);
        assert_eq!(
            at(&night, "2026-11-27T23:00:00Z"),
            told(0, "2026-11-28T06:00:00Z")
        );
    }

    #[test]
    fn clocks_that_are_put_forward_do_not_close_a_window() {
        // At two o'clock that night it became three.
        let rome = windows(&[("CRON_TZ=Europe/Rome 30 2 * * *", "1h", 4)]);
        assert_eq!(
            at(&rome, "2026-03-29T01:10:00Z"),
            told(4, "2026-03-29T02:00:00Z")
        );
    }

    #[test]
    fn what_cannot_be_read_is_told_and_the_rest_holds() {
        let some = windows(&[
            ("0 8 * * *", "1h", 5),
            ("61 * * * *", "1h", 9),
            ("* * * * *", "0", 9),
        ]);
        let wrong = some.wrong.clone().unwrap();
        assert!(wrong.starts_with("start of window w is invalid"), "{wrong}");
        assert_eq!(at(&some, "2026-11-27T08:30:00Z").0, 5);
        let none = windows(&[("* * * * *", &"soon".repeat(1000), 9)]);
        let wrong = none.wrong.unwrap();
        assert!(
            wrong.starts_with("duration of window w is invalid"),
            "{wrong}"
        );
        assert_eq!(wrong.len(), LONGEST);
        assert_eq!(windows(&[]).wrong, None);
        assert_eq!(at(&windows(&[]), "2026-11-27T08:30:00Z"), told(2, ""));
        // The thirtieth of February never comes.
        let never = windows(&[("0 0 30 2 *", "1h", 9)]);
        assert_eq!(at(&never, "2026-11-27T08:30:00Z").0, 2);
    }

    proptest! {
        /// What holds until a time holds at every moment before it.
        #[test]
        fn an_answer_holds_until_it_says(
            seconds in 0_i64..200_000_000,
            part in 0.0_f64..1.0,
            hour in 0_u8..24,
            minutes in 1_u32..3000,
            target in 0_i64..5,
        ) {
            let both = windows(&[
                (&format!("15 {hour} * * *"), &format!("{minutes}m"), target),
                ("@every 7h", "45m", 3),
            ]);
            let now = Timestamp::from_second(1_700_000_000 + seconds).unwrap();
            let first = both.at(now, Timestamp::UNIX_EPOCH);
            let until = first.until.unwrap();
            prop_assert!(until > now);
            let later = now + until.duration_since(now).mul_f64(part);
            if later < until {
                prop_assert_eq!(both.at(later, Timestamp::UNIX_EPOCH).target, first.target);
            }
        }
    }
}
