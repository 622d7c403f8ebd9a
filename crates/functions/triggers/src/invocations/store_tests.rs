//! The store with a real file.

use super::*;
use crate::invocations::policy::tests::record;
use crate::invocations::record::Dead;

fn added(id: &str, key: Option<&str>) -> Box<Added> {
    let mut record = record();
    record.id = id.into();
    Box::new(Added {
        record,
        body: id.as_bytes().to_vec(),
        dedup_key: key.map(str::to_owned),
    })
}

fn dead(id: &str) -> Box<Record> {
    let mut record = added(id, None).record;
    record.attempts = 3;
    record.dead = Some(Dead {
        reason: "x".into(),
        died_ms: 5,
    });
    Box::new(record)
}

fn waiting(store: &Store) -> Vec<(u64, String)> {
    let waiting = store.waiting().unwrap().into_iter();
    let mut waiting: Vec<_> = waiting.map(|(due, record)| (due, record.id)).collect();
    waiting.sort();
    waiting
}

#[tokio::test]
async fn what_was_answered_is_there_after_the_process_died() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for id in ["a", "b", "c"] {
        let answer = store.change(Change::Add(added(id, None))).await.unwrap();
        assert_eq!(answer, Changed::Added(id.into()));
    }
    let later = added("b", None).record;
    let change = Change::Later {
        record: Box::new(later),
        due_ms: 2_000_000,
    };
    store.change(change).await.unwrap();
    let change = Change::Done {
        id: "a".into(),
        next: Some(added("n", None)),
    };
    store.change(change).await.unwrap();
    // As a killed process leaves it: nothing is closed.
    let copy = tempfile::tempdir().unwrap();
    let file = "invocations.redb";
    std::fs::copy(directory.path().join(file), copy.path().join(file)).unwrap();
    let store = Store::open(copy.path()).unwrap();
    assert_eq!(
        waiting(&store),
        [
            (1_000_000, "c".into()),
            (1_000_000, "n".into()),
            (2_000_000, "b".into())
        ]
    );
    assert_eq!(store.get("c").unwrap().unwrap().1, b"c");
    assert!(store.get("a").unwrap().is_none());
}

#[tokio::test]
async fn a_key_makes_a_second_call_the_first_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let add = async |id, key| store.change(Change::Add(added(id, key))).await.unwrap();
    assert_eq!(add("a", Some("k")).await, Changed::Added("a".into()));
    assert_eq!(add("b", Some("k")).await, Changed::Added("a".into()));
    assert_eq!(add("c", Some("other")).await, Changed::Added("c".into()));
    // The same key of another function is another one.
    let mut foreign = added("d", Some("k"));
    foreign.record.function = "g".into();
    let answer = store.change(Change::Add(foreign)).await.unwrap();
    assert_eq!(answer, Changed::Added("d".into()));
    // A day later it is free again.
    let mut late = added("e", Some("k"));
    late.record.enqueued_ms += 24 * 3_600_000;
    let answer = store.change(Change::Add(late)).await.unwrap();
    assert_eq!(answer, Changed::Added("e".into()));
}

#[tokio::test]
async fn dead_letters_are_listed_redriven_and_purged() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for id in ["a", "b", "c", "d"] {
        store.change(Change::Add(added(id, None))).await.unwrap();
    }
    for id in ["a", "b", "c"] {
        let change = Change::Dead {
            record: dead(id),
            next: None,
        };
        store.change(change).await.unwrap();
    }
    let list = |after: &str, limit| {
        let dead = store.dead(after, limit, None).unwrap().into_iter();
        dead.map(|record| record.id).collect::<String>()
    };
    assert_eq!((list("", 2).as_str(), list("b", 2).as_str()), ("ab", "c"));
    assert!(store.dead("", 9, Some("other")).unwrap().is_empty());
    // Only dead ones: `d` waits.
    let ids = ["b", "d", "x"].map(str::to_owned).to_vec();
    let change = Change::Redrive {
        ids,
        now_ms: 3_000_000,
    };
    assert_eq!(store.change(change).await.unwrap(), Changed::Count(1));
    let redriven = store.get("b").unwrap().unwrap().0;
    assert_eq!((redriven.attempts, redriven.dead), (0, None));
    assert_eq!(
        waiting(&store),
        [(1_000_000, "d".into()), (3_000_000, "b".into())]
    );
    let purge = async |namespace: Option<&str>| {
        let change = Change::Purge {
            ids: Vec::new(),
            namespace: namespace.map(str::to_owned),
        };
        store.change(change).await.unwrap()
    };
    assert_eq!(purge(Some("other")).await, Changed::Count(0));
    assert_eq!(purge(None).await, Changed::Count(2));
    assert_eq!((list("", 9).as_str(), waiting(&store).len()), ("", 2));
}

#[tokio::test]
async fn many_at_once_are_all_stored() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let all = (0..500).map(|number| {
        let store = store.clone();
        async move {
            let id = format!("{number:04}");
            store.change(Change::Add(added(&id, None))).await.unwrap();
        }
    });
    futures::future::join_all(all).await;
    assert_eq!(waiting(&store).len(), 500);
}

#[tokio::test]
async fn a_store_that_is_open_elsewhere_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let change = Change::Add(added("a", None));
    store.change(change).await.unwrap();
    let refused = Store::open_patiently(directory.path(), Duration::ZERO).await;
    assert!(matches!(refused.err(), Some(StoreError::InUse)));
    let patience = Duration::from_secs(60);
    let mut next = Box::pin(Store::open_patiently(directory.path(), patience));
    assert!(futures::poll!(&mut next).is_pending());
    drop(store);
    assert_eq!(waiting(&next.await.unwrap()).len(), 1);
}
