//! Pods beside the pool: how many are missing, and which are ended.

use super::*;

pub(super) const SIZE: usize = 3;

fn pooled(number: u8) -> PodView {
    PodView {
        pooled: true,
        ..pod(number)
    }
}

impl Bench {
    fn ready_in_pool(&mut self, number: u8) {
        self.observe(pooled(number));
        let uid = pod(number).uid;
        let effects = self.state.probed(&uid, &generic(), None, self.now);
        self.take(effects);
    }

    fn missing(&self) -> usize {
        self.state.missing("env", SIZE)
    }

    fn shed(&mut self) -> Vec<String> {
        let effects = self.state.shed("env", SIZE);
        self.deleted.clear();
        self.take(effects);
        std::mem::take(&mut self.deleted)
    }
}

/// A pool that is full, and so many cold calls of as many functions.
pub(super) fn burst(calls: usize) -> (Bench, Vec<Receiver<Outcome>>) {
    let mut bench = Bench::new();
    for number in 1..=3 {
        bench.ready_in_pool(number);
    }
    let waiting =
        (0..calls).map(|number| bench.acquire(&revision(&format!("f{number}"), 1), &[]).1);
    let waiting = waiting.collect();
    (bench, waiting)
}

#[test]
fn what_a_burst_waits_for_is_made_once() {
    let (mut bench, _answers) = burst(10);
    assert_eq!(
        bench.missing(),
        7,
        "those that were taken are still the pool's"
    );
    for number in 11..=14 {
        bench.observe(pod(number));
    }
    assert_eq!(bench.missing(), 3);
    for number in 15..=17 {
        bench.observe(pod(number));
    }
    assert_eq!(bench.missing(), 0);
    for number in 11..=17 {
        bench.ready(number);
        assert_eq!(bench.missing(), 0);
    }
    assert_eq!(bench.jobs.len(), 10);
}

#[test]
fn what_fills_the_pool_again_counts() {
    let (mut bench, _answers) = burst(5);
    assert_eq!(bench.missing(), 2);
    // By its labels one has left the pool: the Deployment makes another.
    bench.done();
    let taken = Labels {
        key: revision("f0", 1).key.clone(),
        code_hash: "code".into(),
        served: true,
    };
    let view = PodView {
        labels: Some(taken),
        ..pod(1)
    };
    bench.observe(view);
    assert_eq!(bench.missing(), 1);
    bench.observe(pooled(4));
    assert_eq!(bench.missing(), 1);
}

#[test]
fn nobody_is_made_for_nobody_and_not_too_many() {
    assert_eq!(Bench::new().missing(), 0);
    assert_eq!(burst(3).0.missing(), 0);
    assert_eq!(burst(1000).0.missing(), 50);
    // The first call of a new environment: its pool is on its way.
    let mut bench = Bench::new();
    let _answer = bench.acquire(&revision("f", 1), &[]);
    assert_eq!(bench.missing(), 0);
    assert_eq!(bench.state.missing("env", 0), 1);
}

#[test]
fn what_nobody_took_is_ended_and_the_pool_is_not_touched() {
    let (mut bench, answers) = burst(5);
    bench.observe(pod(11));
    bench.observe(pod(12));
    drop(answers);
    let effects = bench.state.prune("env");
    bench.take(effects);
    bench.ready(11);
    bench.ready(12);
    assert_eq!(bench.shed(), Vec::<String>::new(), "the pool lacks as many");
    for number in 4..=6 {
        bench.ready_in_pool(number);
    }
    let mut ended = bench.shed();
    ended.sort();
    assert_eq!(ended, ["pod-11", "pod-12"]);
    assert_eq!(bench.state.ready("env"), SIZE);
    assert_eq!(bench.shed(), Vec::<String>::new());
}

#[test]
fn what_will_never_be_ready_is_ended() {
    let mut bench = Bench::new();
    let trouble = |lasting| {
        Some(Trouble {
            words: "no such image".into(),
            lasting,
        })
    };
    for (number, lasting) in [(1, true), (2, false)] {
        bench.observe(PodView {
            trouble: trouble(lasting),
            ..pod(number)
        });
    }
    bench.observe(PodView {
        trouble: trouble(true),
        ..pooled(3)
    });
    assert_eq!(bench.shed(), ["pod-1"]);
}
