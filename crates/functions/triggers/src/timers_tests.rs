//! Timers: when they are due, and what their statuses say.

use super::*;
use serde_json::json;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn time(text: &str) -> Time {
    serde_json::from_value(json!(text)).unwrap()
}

fn trigger(name: &str, generation: i64, cron: &str) -> Arc<TimeTrigger> {
    let object = json!({
        "apiVersion": "fission.io/v1", "kind": "TimeTrigger",
        "metadata": {
            "namespace": "ns", "name": name, "uid": name, "generation": generation,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": { "cron": cron, "functionref": { "type": "name", "name": "f" } },
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn names(due: Vec<Key>) -> Vec<String> {
    due.into_iter().map(|(_, name)| name).collect()
}

#[test]
fn each_due_time_is_one_call() {
    let mut table = Table::default();
    let triggers = [trigger("a", 1, "@every 10s"), trigger("b", 1, "@every 15s")];
    let mut called = Vec::new();
    let start = at("2026-01-01T00:00:01Z").as_second();
    for second in start..start + 60 {
        let now = Timestamp::from_second(second).unwrap();
        table.sync(&triggers, now);
        called.extend(names(table.take_due(now)));
        // A second look at the same moment finds nothing.
        assert!(table.take_due(now).is_empty());
    }
    let count = |name: &str| called.iter().filter(|one| *one == name).count();
    assert_eq!((count("a"), count("b")), (6, 4));
}

#[test]
fn what_was_missed_is_made_up_for_once_while_leading_and_never_after_a_start() {
    let triggers = [trigger("a", 1, "@every 10s")];
    let mut table = Table::default();
    table.sync(&triggers, at("2026-01-01T00:00:01Z"));
    // Held up for half a minute.
    assert_eq!(names(table.take_due(at("2026-01-01T00:00:35Z"))), ["a"]);
    assert!(table.take_due(at("2026-01-01T00:00:36Z")).is_empty());
    assert_eq!(names(table.take_due(at("2026-01-01T00:00:40Z"))), ["a"]);
    // Another process takes over.
    let mut table = Table::default();
    table.sync(&triggers, at("2026-01-01T00:01:11Z"));
    assert!(table.take_due(at("2026-01-01T00:01:11Z")).is_empty());
    assert_eq!(
        table.quiet(at("2026-01-01T00:01:11Z")),
        Duration::from_secs(9)
    );
}

#[test]
fn a_changed_trigger_is_due_by_its_new_schedule_only() {
    let mut table = Table::default();
    let now = at("2026-01-01T00:00:01Z");
    table.sync(&[trigger("a", 1, "@every 10s")], now);
    table.sync(&[trigger("a", 2, "@every 60s")], now);
    assert!(table.take_due(at("2026-01-01T00:00:59Z")).is_empty());
    assert_eq!(names(table.take_due(at("2026-01-01T00:01:00Z"))), ["a"]);
    // A status that was written changes nothing.
    table.sync(&[trigger("a", 2, "@every 60s")], at("2026-01-01T00:01:30Z"));
    assert_eq!(names(table.take_due(at("2026-01-01T00:02:00Z"))), ["a"]);
    table.sync(&[], at("2026-01-01T00:02:01Z"));
    assert!(table.take_due(at("2026-01-02T00:00:00Z")).is_empty());
}

#[test]
fn a_bad_schedule_does_not_stop_the_others() {
    let mut table = Table::default();
    let triggers = [
        trigger("bad", 1, "61 * * * *"),
        trigger("good", 1, "@hourly"),
    ];
    table.sync(&triggers, at("2026-01-01T00:00:01Z"));
    assert_eq!(names(table.take_due(at("2026-01-01T01:00:00Z"))), ["good"]);
}

#[test]
fn nothing_is_due_for_at_most_ten_seconds_at_a_time() {
    let mut table = Table::default();
    let now = at("2026-01-01T00:00:01Z");
    assert_eq!(table.quiet(now), LONGEST_SLEEP);
    table.sync(&[trigger("a", 1, "@yearly")], now);
    assert_eq!(table.quiet(now), LONGEST_SLEEP);
    // The clock was set.
    assert_eq!(table.quiet(at("2028-01-01T00:00:00Z")), Duration::ZERO);
}

/// Reasons of `Scheduled` and `Ready`, with a mark for those that hold.
fn reasons(trigger: &TimeTrigger, has_function: bool) -> String {
    let now = time("2026-01-01T00:00:00Z");
    let status = decide(trigger, has_function, &now).unwrap();
    let said = |type_: &str| {
        let all = &status.conditions;
        let one = all.iter().find(|one| one.type_ == type_).unwrap();
        format!("{}={} ", one.status, one.reason)
    };
    said(SCHEDULED) + &said(READY)
}

#[test]
fn statuses_say_why_a_timer_does_not_work() {
    let good = trigger("a", 1, "@hourly");
    assert_eq!(
        reasons(&good, true),
        "True=CronRegistered True=CronRegistered "
    );
    assert_eq!(
        reasons(&good, false),
        "True=CronRegistered False=FunctionNotFound "
    );
    assert_eq!(
        reasons(&trigger("a", 1, "61 * * * *"), true),
        "False=InvalidCron False=InvalidCron "
    );
    assert_eq!(
        reasons(&trigger("a", 1, "0 0 30 2 *"), true),
        "False=InvalidCron False=InvalidCron "
    );
    let mut bad = (*good).clone();
    bad.spec.subpath = "/../other".into();
    assert_eq!(
        reasons(&bad, true),
        "False=NotScheduled False=InvalidFunctionReference "
    );
    bad.spec.subpath = "/x".into();
    bad.spec.method = "PO ST".into();
    assert_eq!(
        reasons(&bad, true),
        "False=NotScheduled False=InvalidMethod "
    );
}

#[test]
fn a_status_that_is_right_is_not_written_again() {
    let mut trigger = (*trigger("a", 1, "@hourly")).clone();
    trigger.status = decide(&trigger, true, &time("2026-01-01T00:00:00Z"));
    assert!(trigger.status.is_some());
    assert_eq!(decide(&trigger, true, &time("2026-01-02T00:00:00Z")), None);
}
