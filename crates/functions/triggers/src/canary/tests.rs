//! Canaries: which are looked at, and what their statuses say.

use super::*;
use serde_json::json;

fn canary(generation: i64, status: serde_json::Value) -> Arc<CanaryConfig> {
    let object = json!({
        "apiVersion": "fission.io/v1", "kind": "CanaryConfig",
        "metadata": { "namespace": "ns", "name": "c", "uid": "u", "generation": generation },
        "spec": { "trigger": "t", "newfunction": "new", "oldfunction": "old" },
        "status": status,
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

#[test]
fn one_that_is_over_stays_so_until_it_is_changed() {
    let now = Timestamp::from_second(1000).unwrap();
    let open = |canary: Arc<CanaryConfig>| {
        let mut entries = HashMap::new();
        sync(&mut entries, &[canary], now);
        !entries.is_empty()
    };
    for (status, is_open) in [
        ("", true),
        (PENDING, true),
        (SUCCEEDED, false),
        (FAILED, false),
        (ABORTED, false),
    ] {
        let told = json!({ "status": status, "observedGeneration": 1 });
        assert_eq!(open(canary(1, told.clone())), is_open, "{status}");
        assert!(open(canary(2, told)), "{status}");
    }
}

#[test]
fn its_window_goes_on_while_only_the_status_changes() {
    let mut entries = HashMap::new();
    let at = |second| Timestamp::from_second(second).unwrap();
    sync(&mut entries, &[canary(1, json!({}))], at(1000));
    let key = ("ns".to_owned(), "c".to_owned());
    entries.get_mut(&key).unwrap().due = at(2000);
    let told = json!({ "status": "pending", "observedGeneration": 1 });
    sync(&mut entries, &[canary(1, told.clone())], at(1500));
    assert_eq!(entries[&key].due, at(2000));
    sync(&mut entries, &[canary(2, told)], at(1500));
    assert_eq!(entries[&key].due, at(1500));
    sync(&mut entries, &[], at(1500));
    assert!(entries.is_empty());
}

#[test]
fn conditions_follow_the_word() {
    let said = |status: &'static str| {
        let canary = canary(1, json!({}));
        let told = decide_status(&canary, &Outcome::end(status, "why"), &objects::now()).unwrap();
        assert_eq!(told.status, status);
        let said = told
            .conditions
            .iter()
            .map(|one| format!("{}={}={} ", one.type_, one.status, one.reason));
        said.collect::<String>()
    };
    assert_eq!(
        said(PENDING),
        "Progressing=True=InProgress Ready=False=InProgress "
    );
    assert_eq!(
        said(SUCCEEDED),
        "Progressing=False=Succeeded Ready=True=Succeeded "
    );
    assert_eq!(said(FAILED), "Progressing=False=Failed Ready=False=Failed ");
    assert_eq!(
        said(ABORTED),
        "Progressing=False=Aborted Ready=False=Aborted "
    );
}
