//! When an instance ends.

use super::*;

#[test]
fn an_idle_instance_ends_and_a_used_one_does_not() {
    let mut bench = Bench::new();
    let f = revision("f", 9);
    bench.live(&f, 1);
    bench.live(&f, 2);
    bench.pass(119);
    bench.used(&[1], 0, 0);
    bench.used(&[2], 0, 119);
    assert!(bench.reap().is_empty());
    bench.pass(1);
    assert_eq!(bench.reap(), ["pod-2"]);
    bench.pass(300);
    bench.used(&[1], 1, 0);
    assert!(bench.reap().is_empty(), "a call runs there");
}

#[test]
fn a_pod_that_ends_and_never_got_code_is_hurried() {
    let mut bench = Bench::new();
    let f = revision("f", 9);
    bench.live(&f, 1);
    bench.ready(2);
    for number in [1, 2, 2] {
        let mut ending = pod(number);
        ending.ending = true;
        bench.observe(ending);
    }
    assert_eq!(bench.hurried, ["pod-2"], "once, and no instance");
}

#[test]
fn nothing_ends_while_no_router_is_heard_of() {
    let mut bench = Bench::new();
    let f = revision("f", 9);
    bench.live(&f, 1);
    bench.pass(10_000);
    assert!(bench.reap().is_empty());
    bench.used(&[], 0, 0);
    assert_eq!(bench.reap(), ["pod-1"]);
}

#[test]
fn retained_and_provisioned_instances_stay() {
    for (retain, provisioned) in [(1, 0), (0, 1)] {
        let mut bench = Bench::new();
        let f = with(&revision("f", 9), |f| {
            f.retain = retain;
        });
        let floor = Floor {
            target: provisioned,
            said: provisioned,
            wrong: None,
        };
        let floors = [(f.id(), floor)].into();
        assert!(bench.state.set_floors(floors));
        bench.live(&f, 1);
        bench.live(&f, 2);
        bench.pass(1000);
        bench.used(&[], 0, 0);
        assert_eq!(bench.reap(), ["pod-1"], "the one used last stays");
        assert!(bench.reap().is_empty());
    }
}

#[test]
fn an_instance_for_one_call_is_never_named_again_and_ends_after_it() {
    let mut bench = Bench::new();
    let f = with(&revision("f", 2), |f| f.once_only = true);
    bench.live(&f, 1);
    bench.ready(2);
    assert!(bench.acquire(&f, &[]).0.is_none());
    assert_eq!(bench.jobs.len(), 1);
    bench.used(&[1], 1, 0);
    assert!(bench.deleted.is_empty());
    bench.used(&[1], 0, 10);
    assert_eq!(bench.deleted, ["pod-1"]);
}

#[test]
fn outdated_instances_get_no_new_calls_and_end_when_idle() {
    let mut bench = Bench::new();
    let f = revision("f", 9);
    bench.live(&f, 1);
    bench.live(&f, 2);
    bench.used(&[1], 1, 0);
    let effects = bench.state.refresh(&f.id(), None, bench.now);
    bench.take(effects);
    assert!(bench.labelled.iter().all(|(_, labels)| !labels.served));
    assert_eq!(bench.labelled.len(), 2);
    let new = with(&f, |new| new.code_hash = "new".into());
    assert!(bench.acquire(&new, &[]).0.is_none());
    bench.pass(1);
    bench.used(&[1], 1, 0);
    bench.used(&[2], 0, 1);
    assert_eq!(bench.reap(), ["pod-2"]);
    bench.pass(15);
    assert_eq!(bench.reap(), ["pod-1"], "its grace period is enough");
}

#[test]
fn the_same_code_at_a_new_generation_stays_warm() {
    let mut bench = Bench::new();
    let f = revision("f", 9);
    bench.live(&f, 1);
    let newer = with(&f, |new| new.key.generation = 2);
    let effects = bench.state.refresh(&f.id(), Some(&newer), bench.now);
    bench.take(effects);
    let (_, labels) = bench.labelled.last().unwrap();
    assert_eq!(labels.key.generation, 2);
    let found = bench.acquire(&newer, &[]).0.unwrap().unwrap();
    assert_eq!((found.address, found.function.generation), (at(1), 2));
}
