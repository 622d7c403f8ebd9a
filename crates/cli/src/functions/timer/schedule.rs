//! When a timer is due, by the very rules of the platform.

use farplane_functions_schedule::cron::Schedule;
use farplane_functions_types::TimeTrigger;
use k8s_openapi::jiff::Timestamp;

/// Checks a schedule before the cluster is asked.
pub(super) fn cron(text: &str) -> Result<String, String> {
    match text.parse::<Schedule>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The next times after `after`; `@every` counts from `anchor`.
pub(super) fn next(
    cron: &str,
    anchor: Timestamp,
    after: Timestamp,
    count: usize,
) -> Vec<Timestamp> {
    let Ok(schedule) = cron.parse::<Schedule>() else {
        return Vec::new();
    };
    let first = schedule.next(after, anchor);
    std::iter::successors(first, |last| schedule.next(*last, anchor))
        .take(count)
        .collect()
}

/// The next time of a timer, as it is shown.
pub(super) fn next_of(timer: &TimeTrigger, now: Timestamp) -> Option<String> {
    let made = timer.metadata.creation_timestamp.as_ref();
    let anchor = made.map_or(now, |made| made.0);
    let next = next(&timer.spec.cron, anchor, now, 1);
    next.first().map(Timestamp::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_each_other() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let noon = at("2026-01-01T12:00:00Z");
        let times = next("30 12 * * *", noon, noon, 2);
        assert_eq!(
            times,
            [at("2026-01-01T12:30:00Z"), at("2026-01-02T12:30:00Z")]
        );
        let every = next("@every 5m", at("2026-01-01T11:58:00Z"), noon, 1);
        assert_eq!(every, [at("2026-01-01T12:03:00Z")]);
        assert!(next("nonsense", noon, noon, 1).is_empty());
    }
}
