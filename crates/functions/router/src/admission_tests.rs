//! Who gets which place.

use proptest::prelude::*;

use super::*;

#[test]
fn a_burst_of_short_calls_uses_one_instance() {
    let now = Instant::now();
    let mut state = Admission::new(1, 10);
    for number in 0..10 {
        assert!(matches!(state.enter(number, now), Entry::Wait(_)));
    }
    assert_eq!(state.ask(now), 1);
    assert_eq!(state.ask(now), 0);
    assert_eq!(state.add("a", now), [(0, "a".to_owned())]);
    state.answered(Answer::Added);
    for number in 1..10 {
        assert_eq!(state.leave("a", now), [(number, "a".to_owned())]);
    }
    assert_eq!(state.ask(now), 0);
}

#[test]
fn late_calls_get_more_instances_up_to_the_limit() {
    let now = Instant::now();
    let late = now + COLD_PATIENCE;
    let mut state = Admission::new(1, 3);
    for number in 0..10 {
        state.enter(number, now);
    }
    assert_eq!(state.ask(now), 1);
    assert_eq!(state.due(), Some(late));
    assert_eq!(state.ask(late), 2);
    assert_eq!(state.ask(late), 0);
}

#[test]
fn an_instance_that_came_works_the_line_off_before_more_are_asked_for() {
    let now = Instant::now();
    let mut state = Admission::new(1, 10);
    for number in 0..10 {
        state.enter(number, now);
    }
    assert_eq!(state.ask(now), 1);
    let came = now + 4 * PATIENCE;
    assert_eq!(state.ask(came), 0, "the first one is still on its way");
    assert_eq!(state.add("a", came).len(), 1);
    state.answered(Answer::Added);
    assert_eq!(state.ask(came), 0);
    assert_eq!(state.due(), Some(came + PATIENCE));
    assert_eq!(state.leave("a", came).len(), 1);
    // Being seen again is no news.
    assert!(state.seen("a", came + PATIENCE).is_empty());
    assert_eq!(state.ask(came + PATIENCE), 8);
}

#[test]
fn the_line_is_told_when_nothing_can_serve_it() {
    let now = Instant::now();
    let mut state = Admission::new(1, 3);
    state.enter('a', now);
    state.enter('b', now);
    assert_eq!(state.ask(now), 1);
    // The second is late, and asked for too.
    assert_eq!(state.ask(now + COLD_PATIENCE), 1);
    assert!(state.answered(Answer::Failed).is_empty());
    assert_eq!(state.ask(now + COLD_PATIENCE), 0);
    assert_eq!(state.answered(Answer::Failed), ['a', 'b']);
    state.enter('c', now);
    assert_eq!(state.ask(now), 1);
    assert!(state.answered(Answer::Outdated).is_empty());
    assert_eq!(state.ask(now), 1);
    // One that comes otherwise ends the failure.
    state.enter('d', now);
    assert_eq!(state.ask(now + COLD_PATIENCE), 1);
    assert!(state.answered(Answer::Failed).is_empty());
    assert_eq!(state.seen("a", now).len(), 1);
    assert!(state.answered(Answer::Failed).is_empty());
    assert_eq!(state.waiting(), 1);
}

#[test]
fn an_instance_that_leaves_ends_its_calls_first() {
    let now = Instant::now();
    let mut state = Admission::new(2, 3);
    state.add("a", now);
    assert_eq!(state.enter('a', now), Entry::Go("a".to_owned()));
    assert!(state.remove("a"));
    assert!(matches!(state.enter('b', now), Entry::Wait(_)));
    assert!(state.leave("a", now).is_empty());
    assert!(state.known().is_empty());
}

#[test]
fn what_does_not_answer_is_not_called_again_until_the_executor_names_it() {
    let now = Instant::now();
    let mut state = Admission::new(1, 3);
    state.seen("a", now);
    assert!(state.spend("a", now));
    state.seen("a", now);
    assert!(matches!(state.enter('b', now), Entry::Wait(_)));
    assert_eq!(state.known(), ["a"]);
    assert_eq!(state.add("a", now), [('b', "a".to_owned())]);
    state.spend("a", now);
    assert!(state.gone("a") && state.leave("a", now).is_empty());
    assert!(state.known().is_empty());
}

#[test]
fn an_instance_named_again_while_it_leaves_stays() {
    let now = Instant::now();
    let mut state = Admission::new(2, 3);
    state.add("a", now);
    assert_eq!(state.enter('a', now), Entry::Go("a".to_owned()));
    state.remove("a");
    assert!(state.add("a", now).is_empty());
    assert_eq!(state.enter('b', now), Entry::Go("a".to_owned()));
    assert!(matches!(state.enter('c', now), Entry::Wait(_)));
}

#[test]
fn an_instance_for_one_call_gets_one() {
    let now = Instant::now();
    let mut state = Admission::new(1, 3);
    state.configure(1, 3, true);
    assert!(matches!(state.enter('a', now), Entry::Wait(_)));
    assert!(matches!(state.enter('b', now), Entry::Wait(_)));
    state.seen("a", now);
    assert_eq!(state.add("a", now), [('a', "a".to_owned())]);
    assert!(state.leave("a", now).is_empty());
    let used: Vec<_> = state.usage(now).collect();
    assert_eq!(used, [("a", 0, Duration::ZERO)]);
}

#[test]
fn without_a_bound_calls_are_spread() {
    let now = Instant::now();
    let mut state = Admission::new(usize::MAX, 1);
    state.add("a", now);
    state.add("b", now + PATIENCE);
    let mut go = |at: &str| assert_eq!(state.enter('x', now), Entry::Go(at.to_owned()));
    go("a");
    go("b");
    state.leave("a", now + 3 * PATIENCE);
    state.leave("b", now + 2 * PATIENCE);
    assert_eq!(state.enter('x', now), Entry::Go("b".to_owned()));
    assert_eq!(state.enter('x', now), Entry::Go("a".to_owned()));
}

#[derive(Clone, Debug)]
enum Event {
    Enter,
    Leave(usize),
    Add(usize),
    Remove(usize),
    Ask,
    Answered(bool),
    Late,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Enter),
        4 => (0usize..8).prop_map(Event::Leave),
        1 => (0usize..8).prop_map(Event::Add),
        1 => (0usize..8).prop_map(Event::Remove),
        2 => Just(Event::Ask),
        2 => any::<bool>().prop_map(Event::Answered),
        1 => Just(Event::Late),
    ]
}

proptest! {
    /// Whatever happens in whatever order: no instance has more calls than it may, no more
    /// instances are asked for than there may be, and nobody waits beside a free place.
    #[test]
    fn the_bounds_hold(
        events in proptest::collection::vec(event(), 0..300),
        per in 1usize..4,
        limit in 1usize..5,
    ) {
        let mut now = Instant::now();
        let mut state: Admission<u32> = Admission::new(per, limit);
        let mut calls: HashMap<String, usize> = HashMap::new();
        let mut number = 0;
        let mut made = 0;
        for event in events {
            let told = match event {
                Event::Enter => {
                    number += 1;
                    if let Entry::Go(address) = state.enter(number, now) {
                        *calls.entry(address).or_default() += 1;
                    }
                    Vec::new()
                }
                Event::Leave(which) => {
                    let mut busy: Vec<_> = calls.iter().filter(|it| *it.1 > 0).map(|it| it.0.clone()).collect();
                    busy.sort();
                    match busy.get(which % busy.len().max(1)) {
                        Some(address) => {
                            *calls.get_mut(address).unwrap() -= 1;
                            state.leave(address, now)
                        }
                        None => Vec::new(),
                    }
                }
                Event::Ask => { state.ask(now); Vec::new() }
                Event::Answered(good) if state.asked > 0 => {
                    made += 1;
                    let told = if good {
                        state.add(&format!("made-{made}"), now)
                    } else {
                        Vec::new()
                    };
                    state.answered(if good { Answer::Added } else { Answer::Failed });
                    told
                }
                Event::Answered(_) => Vec::new(),
                // Seen by the watch; only those that the limit has room for.
                Event::Add(which) if state.living() + state.asked < limit => state.add(&which.to_string(), now),
                Event::Add(_) => Vec::new(),
                Event::Remove(which) => { state.remove(&which.to_string()); Vec::new() }
                Event::Late => { now += COLD_PATIENCE; Vec::new() }
            };
            for (_, address) in told {
                *calls.entry(address).or_default() += 1;
            }
            prop_assert!(calls.values().all(|count| *count <= per));
            prop_assert!(state.living() + state.asked <= limit);
            let free = state.instances.values().any(|it| !it.leaving && it.calls < per);
            prop_assert!(state.line.is_empty() || !free);
        }
    }
}
