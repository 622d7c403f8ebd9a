//! No tenant exposes what is of another one.

use serde_json::{Value, json};

use super::tests::{Tenants, reason, route, trigger};
use super::*;

fn aged(trigger: HTTPTrigger, day: u32) -> HTTPTrigger {
    let mut value = serde_json::to_value(trigger).unwrap();
    value["metadata"]["creationTimestamp"] = json!(format!("2026-01-{day:02}T00:00:00Z"));
    serde_json::from_value(value).unwrap()
}

/// The older one.
fn victim(spec: &Value) -> HTTPTrigger {
    aged(trigger("victim", "v", spec), 1)
}

fn thief(host: &str, spec: &Value) -> HTTPTrigger {
    let mut all = route("ingress", host);
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    aged(trigger("thief", "t", &all), 2)
}

#[test]
fn the_older_routes_of_other_tenants_are_not_exposed() {
    for (theirs, mine, is_refused) in [
        (
            json!({ "relativeurl": "/v" }),
            json!({ "relativeurl": "/v" }),
            true,
        ),
        (
            json!({ "relativeurl": "/v/x" }),
            json!({ "prefix": "/v" }),
            true,
        ),
        (
            json!({ "relativeurl": "/v/{x}" }),
            json!({ "prefix": "/v" }),
            true,
        ),
        (json!({ "prefix": "/v" }), json!({ "prefix": "/v" }), true),
        (
            json!({ "prefix": "/v/" }),
            json!({ "relativeurl": "/v/{x}" }),
            true,
        ),
        (
            json!({ "prefix": "/v" }),
            json!({ "relativeurl": "/v" }),
            true,
        ),
        (
            json!({ "relativeurl": "/v/x", "host": "A.example.com:80" }),
            json!({ "prefix": "/v" }),
            true,
        ),
        (
            json!({ "relativeurl": "/v/x", "host": "b.example.com" }),
            json!({ "prefix": "/v" }),
            false,
        ),
        (
            json!({ "relativeurl": "/vx" }),
            json!({ "prefix": "/v" }),
            false,
        ),
        (
            json!({ "relativeurl": "/v-x/y" }),
            json!({ "prefix": "/v" }),
            false,
        ),
        (
            json!({ "relativeurl": "/v/x" }),
            json!({ "relativeurl": "/v" }),
            false,
        ),
        (
            json!({ "prefix": "/v" }),
            json!({ "prefix": "/v/x" }),
            false,
        ),
    ] {
        let plan = Tenants::of(vec![victim(&theirs), thief("a.example.com", &mine)]).plan();
        let wanted = if is_refused {
            "false=RouteConflict"
        } else {
            "true=Exposed"
        };
        assert_eq!(reason(&plan, "t"), wanted, "{theirs} {mine}");
        assert_eq!(plan.apply.is_empty(), is_refused);
        // One's own are; and who comes later chose a path that is exposed.
        for other in [
            aged(trigger("thief", "v", &theirs), 1),
            aged(trigger("victim", "v", &theirs), 3),
        ] {
            let plan = Tenants::of(vec![other, thief("a.example.com", &mine)]).plan();
            assert_eq!(reason(&plan, "t"), "true=Exposed", "{theirs} {mine}");
        }
    }
}

#[test]
fn a_wildcard_is_for_all_its_hosts() {
    let mine = thief("*.example.com", &json!({ "prefix": "/v" }));
    for (host, wanted) in [
        ("b.example.com", "false=RouteConflict"),
        ("", "false=RouteConflict"),
        ("b.example.org", "true=Exposed"),
    ] {
        let theirs = victim(&json!({ "relativeurl": "/v/x", "host": host }));
        let plan = Tenants::of(vec![theirs, mine.clone()]).plan();
        assert_eq!(reason(&plan, "t"), wanted, "{host}");
    }
}
