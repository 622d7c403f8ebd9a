//! Which route a request belongs to.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::path::internal;

/// A trigger; the older, the smaller `age`.
fn trigger(name: &str, age: i64, spec: &Value) -> HTTPTrigger {
    let time = format!("2026-01-01T00:00:{age:02}Z");
    let mut spec = spec.clone();
    spec["functionref"] = json!({"type": "name", "name": format!("f-{name}")});
    serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": name, "uid": name, "creationTimestamp": time},
        "spec": spec,
    }))
    .unwrap()
}

fn table(triggers: &[(&str, Value)]) -> Table {
    let mut table = Table::default();
    for (age, (name, spec)) in (0..).zip(triggers) {
        table.put(Route::of(&trigger(name, age, spec)).unwrap());
    }
    table
}

/// Name of the trigger and path that the function sees; or what else was said.
fn get(table: &Table, path: &str) -> String {
    find(table, "GET", "localhost", path)
}

fn find(table: &Table, method: &str, host: &str, path: &str) -> String {
    match table.find(&method.parse().unwrap(), host, path) {
        Found::Route(found) => {
            let variables: Vec<_> = found
                .variables
                .iter()
                .map(|(n, v)| format!(" {n}={v}"))
                .collect();
            format!(
                "{} {}{}",
                found.route.trigger,
                found.path,
                variables.concat()
            )
        }
        Found::OtherMethods(routes) => format!("{} others", routes.len()),
        Found::Nothing => "nothing".to_owned(),
    }
}

#[test]
fn an_exact_path_comes_before_variables_and_these_before_prefixes() {
    let table = table(&[
        ("prefix", json!({"prefix": "/a"})),
        ("variable", json!({"relativeurl": "/a/{id}"})),
        ("fixed", json!({"relativeurl": "/a/{id}/x"})),
        ("exact", json!({"relativeurl": "/a/b"})),
    ]);
    assert_eq!(get(&table, "/a/b"), "exact /");
    assert_eq!(get(&table, "/a/c"), "variable / id=c");
    assert_eq!(get(&table, "/a/c/x"), "fixed / id=c");
    assert_eq!(get(&table, "/a/c/y"), "prefix /c/y");
    assert_eq!(get(&table, "/b"), "nothing");
}

#[test]
fn variables_have_expressions() {
    let table = table(&[
        (
            "number",
            json!({"relativeurl": "/o/{id:[0-9]{2,3}}/{rest:.*}"}),
        ),
        ("any", json!({"relativeurl": "/o/{id}"})),
    ]);
    assert_eq!(get(&table, "/o/12/a/b"), "number / id=12 rest=a/b");
    assert_eq!(get(&table, "/o/1234/a"), "nothing");
    assert_eq!(get(&table, "/o/1234"), "any / id=1234");
    // What is between variables is text, not an expression.
    let table = super::tests::table(&[("dot", json!({"relativeurl": "/a.b/{x:a|b}"}))]);
    assert_eq!(get(&table, "/a.b/b"), "dot / x=b");
    assert_eq!(get(&table, "/acb/b"), "nothing");
    assert_eq!(get(&table, "/a.b/bb"), "nothing");
    for bad in ["/{", "/{x", "/{}", "/{:a}", "/{x:(}", "/{x:}"] {
        let spec = json!({"relativeurl": bad});
        assert!(Route::of(&trigger("t", 0, &spec)).is_err(), "{bad}");
    }
}

#[test]
fn the_longest_prefix_ends_at_a_slash_and_is_taken_away() {
    let table = table(&[
        ("short", json!({"prefix": "/a"})),
        ("long", json!({"prefix": "/a/b"})),
        ("kept", json!({"prefix": "/k", "keepPrefix": true})),
    ]);
    assert_eq!(get(&table, "/a"), "short /");
    assert_eq!(get(&table, "/a/"), "short /");
    assert_eq!(get(&table, "/a/bc"), "short /bc");
    assert_eq!(get(&table, "/a/b"), "long /");
    assert_eq!(get(&table, "/a/b/c/"), "long /c/");
    assert_eq!(get(&table, "/ab"), "nothing");
    assert_eq!(get(&table, "/k/x"), "kept /k/x");
    assert_eq!(get(&table, "/k"), "kept /k");
}

#[test]
fn an_encoded_path_is_the_same_path() {
    let table = table(&[
        ("exact", json!({"relativeurl": "/a b/ü"})),
        ("variable", json!({"relativeurl": "/v/{x}"})),
        ("prefix", json!({"prefix": "/p/a b"})),
    ]);
    assert_eq!(get(&table, "/a%20b/%C3%BC"), "exact /");
    assert_eq!(get(&table, "/v/a%20b"), "variable / x=a b");
    // A slash within a segment does not end it, and the function gets what was sent.
    assert_eq!(get(&table, "/v/a%2Fb"), "variable / x=a%2Fb");
    assert_eq!(get(&table, "/p/a%20b/c%20d%2Fe"), "prefix /c%20d%2Fe");
    assert_eq!(get(&table, "/v/%zz"), "variable / x=%zz");
}

#[test]
fn methods_and_hosts_are_asked() {
    let table = table(&[
        ("any", json!({"relativeurl": "/a"})),
        (
            "post",
            json!({"relativeurl": "/a", "methods": ["post", "PUT"]}),
        ),
        ("host", json!({"relativeurl": "/a", "host": "Example.com"})),
        ("prefix", json!({"prefix": "/a", "method": "DELETE"})),
    ]);
    assert_eq!(get(&table, "/a"), "any /");
    assert_eq!(find(&table, "POST", "x", "/a"), "post /");
    // The one for this host only comes first, though it is younger.
    assert_eq!(find(&table, "GET", "EXAMPLE.com:8080", "/a"), "host /");
    assert_eq!(find(&table, "DELETE", "[::1]:80", "/a/b"), "prefix /b");
    assert_eq!(find(&table, "PATCH", "Example.com", "/a"), "4 others");
}

#[test]
fn the_older_trigger_has_the_path_until_it_goes() {
    let mut table = table(&[
        ("old", json!({"relativeurl": "/a"})),
        (
            "new",
            json!({"relativeurl": "/a", "methods": ["GET", "POST"]}),
        ),
    ]);
    assert_eq!(get(&table, "/a"), "old /");
    assert_eq!(find(&table, "POST", "x", "/a"), "new /");
    let old = ("ns".to_owned(), "old".to_owned());
    assert_eq!(table.conflict("ns", "new"), Some(old));
    assert_eq!(table.conflict("ns", "old"), None);
    table.remove("ns", "old");
    assert_eq!(get(&table, "/a"), "new /");
    assert_eq!(table.conflict("ns", "new"), None);
    let moved = trigger("new", 1, &json!({"relativeurl": "/b"}));
    table.put(Route::of(&moved).unwrap());
    assert_eq!((get(&table, "/a").as_str(), table.len()), ("nothing", 1));
}

#[test]
fn internal_paths_name_functions() {
    let known = |namespace: &str, name: &str| {
        matches!((namespace, name), ("default", "f" | "ns") | ("ns", "f"))
    };
    let of = |path| internal(path, known).map(|(a, b, c, d)| format!("{a} {b} {c} {d}"));
    let is = |text: &str| Some(text.to_owned());
    assert_eq!(of("/fission-function/f"), is("default f  /"));
    assert_eq!(of("/fission-function/f/a/b"), is("default f  /a/b"));
    assert_eq!(of("/fission-function/ns/f"), is("ns f  /"));
    assert_eq!(of("/fission-function/ns/f:live/x"), is("ns f live /x"));
    assert_eq!(of("/fission-function/f:f-v1/x"), is("default f f-v1 /x"));
    assert_eq!(of("/fission-function/ns/g"), is("default ns  /g"));
    assert_eq!(of("/fission-function/other/g"), None);
    assert_eq!(of("/fission-functions/f"), None);
}

/// What the table should say, found by looking at every trigger.
fn expected(triggers: &[(String, i64, Value)], path: &str) -> Option<String> {
    let best = triggers
        .iter()
        .filter_map(|(name, age, spec)| {
            let exact = spec["relativeurl"].as_str().unwrap_or_default();
            let prefix = spec["prefix"].as_str().unwrap_or_default();
            let rank = if exact.contains('{') {
                let start = exact.split('{').next().unwrap_or_default();
                let rest = path.strip_prefix(start)?;
                (!rest.is_empty() && !rest.contains('/')).then_some((1, usize::MAX - start.len()))
            } else if exact.is_empty() {
                let rest = path.strip_prefix(prefix)?;
                (rest.is_empty() || rest.starts_with('/')).then_some((2, usize::MAX - prefix.len()))
            } else {
                (exact == path).then_some((0, 0))
            }?;
            Some((rank, *age, name))
        })
        .min();
    best.map(|(.., name)| name.clone())
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec("[ab]", 1..4).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn spec() -> impl Strategy<Value = Value> {
    prop_oneof![
        path().prop_map(|path| json!({"relativeurl": path})),
        path().prop_map(|path| json!({"relativeurl": format!("{path}/{{v}}")})),
        path().prop_map(|path| json!({"prefix": path})),
    ]
}

proptest! {
    /// In whatever order triggers come, change and go, the table says what looking at all of
    /// them says.
    #[test]
    fn changes_lead_to_the_same_table(
        changes in proptest::collection::vec((0usize..8, proptest::option::of(spec())), 1..30),
        paths in proptest::collection::vec(path(), 1..10),
    ) {
        let mut table = Table::default();
        let mut triggers: Vec<(String, i64, Value)> = Vec::new();
        for (which, spec) in changes {
            let name = format!("t{which}");
            let age = i64::try_from(which).unwrap() * 7 % 5;
            triggers.retain(|(other, ..)| *other != name);
            match spec {
                Some(spec) => {
                    table.put(Route::of(&trigger(&name, age, &spec)).unwrap());
                    triggers.push((name, age, spec));
                }
                None => table.remove("ns", &name),
            }
            prop_assert_eq!(table.len(), triggers.len());
            for path in &paths {
                let found = match table.find(&Method::GET, "x", path) {
                    Found::Route(found) => Some(found.route.trigger.clone()),
                    _ => None,
                };
                prop_assert_eq!(found, expected(&triggers, path), "{} {:?}", path, triggers);
            }
        }
    }
}
