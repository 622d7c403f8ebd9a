//! Any text is a schedule or refused, and a schedule only ever names later times.
#![no_main]

use farplane_functions_schedule::cron::Schedule;
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (&str, u32)| {
    let (text, second) = data;
    let Ok(schedule) = text.parse::<Schedule>() else {
        return;
    };
    let Ok(after) = Timestamp::from_second(second.into()) else {
        return;
    };
    if let Some(next) = schedule.next(after, Timestamp::UNIX_EPOCH) {
        assert!(next > after);
    }
});
