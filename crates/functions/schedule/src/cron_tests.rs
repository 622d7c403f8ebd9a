//! Schedules against times that were worked out by hand.

use super::*;
use proptest::prelude::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn schedule(text: &str) -> Schedule {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// The next `count` times after a moment.
fn times(text: &str, after: &str, count: usize) -> Vec<String> {
    let schedule = schedule(text);
    let mut moment = at(after);
    let mut found = Vec::new();
    for _ in 0..count {
        let Some(next) = schedule.next(moment, at("2026-01-01T00:00:07Z")) else {
            break;
        };
        moment = next;
        found.push(next.to_string());
    }
    found
}

#[test]
fn five_fields_and_six() {
    assert_eq!(
        times("*/15 * * * *", "2026-03-01T10:07:30Z", 3),
        [
            "2026-03-01T10:15:00Z",
            "2026-03-01T10:30:00Z",
            "2026-03-01T10:45:00Z"
        ]
    );
    assert_eq!(
        times("10/20 * * * * ?", "2026-03-01T10:07:30Z", 3),
        [
            "2026-03-01T10:07:50Z",
            "2026-03-01T10:08:10Z",
            "2026-03-01T10:08:30Z"
        ]
    );
    assert_eq!(
        times("0 30 9 ? JAN,jul Mon-Fri", "2026-01-30T09:30:00Z", 2),
        ["2026-07-01T09:30:00Z", "2026-07-02T09:30:00Z"]
    );
}

#[test]
fn day_of_month_or_of_week_is_enough() {
    // The 13th, or a Friday.
    assert_eq!(
        times("0 0 13 * 5", "2026-03-08T00:00:00Z", 3),
        [
            "2026-03-13T00:00:00Z",
            "2026-03-20T00:00:00Z",
            "2026-03-27T00:00:00Z"
        ]
    );
}

#[test]
fn words() {
    let after = "2026-03-01T10:07:30Z";
    let one = |text: &str| times(text, after, 1).concat();
    assert_eq!(one("@hourly"), "2026-03-01T11:00:00Z");
    assert_eq!(one("@daily"), "2026-03-02T00:00:00Z");
    assert_eq!(one("@midnight"), "2026-03-02T00:00:00Z");
    assert_eq!(one("@weekly"), "2026-03-08T00:00:00Z");
    assert_eq!(one("@monthly"), "2026-04-01T00:00:00Z");
    assert_eq!(one("@yearly"), "2027-01-01T00:00:00Z");
    assert_eq!(one("@annually"), "2027-01-01T00:00:00Z");
}

#[test]
fn every_counts_from_the_trigger_and_not_from_our_start() {
    let expected = ["2026-01-01T01:30:07Z", "2026-01-01T03:00:07Z"];
    assert_eq!(
        times("@every 1h30m", "2026-01-01T00:10:00Z", 2),
        expected[..]
    );
    assert_eq!(
        times("@every 1h30m", "2026-01-01T01:30:06Z", 2),
        expected[..]
    );
    // Less than a second is lengthened, as nobody meant to call a thousand times a second.
    assert_eq!(
        times("@every 1ms", "2026-01-01T00:10:00Z", 2),
        ["2026-01-01T00:10:01Z", "2026-01-01T00:10:02Z"]
    );
}

#[test]
fn zones() {
    let six = "0 0 6 * * *";
    let tokyo = format!("CRON_TZ=Asia/Tokyo {six}");
    assert_eq!(
        times(&tokyo, "2026-03-01T00:00:00Z", 1),
        ["2026-03-01T21:00:00Z"]
    );
    let rome = format!("TZ=Europe/Rome {six}");
    assert_eq!(
        times(&rome, "2026-07-01T05:00:00Z", 1),
        ["2026-07-02T04:00:00Z"]
    );
    assert_eq!(
        times("CRON_TZ=Asia/Tokyo @daily", "2026-03-01T00:00:00Z", 1),
        ["2026-03-01T15:00:00Z"]
    );
}

#[test]
fn a_time_of_day_within_the_gap_is_due_after_it() {
    // Rome, 2026-03-29: 02:00 becomes 03:00.
    assert_eq!(
        times("CRON_TZ=Europe/Rome 30 2 * * *", "2026-03-28T12:00:00Z", 2),
        ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
    );
}

#[test]
fn a_time_of_day_that_comes_twice_is_due_once() {
    // Rome, 2026-10-25: 03:00 becomes 02:00.
    assert_eq!(
        times("CRON_TZ=Europe/Rome 30 2 * * *", "2026-10-24T12:00:00Z", 2),
        ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
    );
    // An interval goes on through it.
    let half_hours = times(
        "CRON_TZ=Europe/Rome */30 * * * *",
        "2026-10-25T00:15:00Z",
        4,
    );
    let expected = ["00:30", "01:00", "01:30", "02:00"];
    assert_eq!(
        half_hours,
        expected.map(|time| format!("2026-10-25T{time}:00Z"))
    );
}

#[test]
fn a_date_that_never_comes_has_no_time() {
    assert!(times("0 0 30 2 *", "2026-01-01T00:00:00Z", 1).is_empty());
    assert_eq!(
        times("0 0 29 2 *", "2026-01-01T00:00:00Z", 1),
        ["2028-02-29T00:00:00Z"]
    );
}

#[test]
fn bad_schedules_say_what_is_wrong() {
    let reason = |text: &str| text.parse::<Schedule>().unwrap_err().to_string();
    assert!(reason("* * * *").contains("it has 4 fields"));
    assert!(reason("").contains("it has 0 fields"));
    assert!(reason("* * * * * * *").contains("it has 7 fields"));
    assert!(reason("61 * * * *").contains("61 * * * *"));
    assert!(reason("*/0 * * * *").contains("step"));
    assert!(reason("a * * * *").contains("not valid"));
    assert!(reason("@now").contains("@every"));
    assert!(reason("@every").contains("@every"));
    assert!(reason("@every 5").contains("not a duration"));
    assert!(reason("CRON_TZ=Mars/Base 0 0 * * *").contains("Mars/Base"));
    assert!(reason("* * * * @daily").contains("not valid"));
    assert!(matches!(
        " ".repeat(257).parse::<Schedule>(),
        Err(CronError::TooLong)
    ));
}

proptest! {
    #[test]
    fn no_text_is_too_strange(text in "[0-9*/,?@A-Za-z=# -]{0,60}", second in 0_i64..4_000_000_000) {
        if let Ok(schedule) = text.parse::<Schedule>() {
            let after = Timestamp::from_second(second).unwrap();
            if let Some(next) = schedule.next(after, after) {
                prop_assert!(next > after);
            }
        }
    }

    /// Every time is after the one before and fits the fields.
    #[test]
    fn times_fit_their_fields(
        minute in 0_i8..60,
        hour in 0_i8..24,
        step in 1_i8..30,
        second in 0_i64..4_000_000_000,
    ) {
        let schedule = schedule(&format!("{minute}/{step} {hour} * * *"));
        let mut moment = Timestamp::from_second(second).unwrap();
        for _ in 0..20 {
            let next = schedule.next(moment, moment).unwrap();
            prop_assert!(next > moment);
            let civil = next.to_zoned(TimeZone::UTC);
            prop_assert_eq!(civil.hour(), hour);
            prop_assert!(civil.minute() >= minute && (civil.minute() - minute) % step == 0);
            prop_assert_eq!(civil.second(), 0);
            // At most a day passes between two.
            prop_assert!(next.as_second() - moment.as_second() <= 86_400);
            moment = next;
        }
    }

    /// Wherever one asks from, the times of `@every` are the same.
    #[test]
    fn intervals_do_not_depend_on_when_one_asks(interval in 1_u64..100_000, anchor in 0_i64..2_000_000_000, offset in 0_i64..1_000_000) {
        let schedule = schedule(&format!("@every {interval}s"));
        let anchor = Timestamp::from_second(anchor).unwrap();
        let after = Timestamp::from_second(anchor.as_second() + offset).unwrap();
        let next = schedule.next(after, anchor).unwrap();
        prop_assert!(next > after);
        prop_assert_eq!((next.as_second() - anchor.as_second()) % i64::try_from(interval).unwrap(), 0);
        prop_assert!(next.as_second() - after.as_second() <= i64::try_from(interval).unwrap());
    }
}
