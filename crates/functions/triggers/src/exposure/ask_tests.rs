//! What a hostile trigger asks for, and what it is told.

use serde_json::{Value, json};

use super::*;

const POLICY: &str = r#"{
    "hostnames": ["*.example.com"], "annotations": ["a.io/ok", "b.io/"],
    "parents": ["infra/web", "fission/own"], "tlsSecrets": ["wildcard"]
}"#;

fn trigger(spec: &Value) -> HTTPTrigger {
    let mut all = json!({
        "relativeurl": "/hello", "functionref": { "type": "name", "name": "f" },
    });
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    let metadata = json!({ "namespace": "ns", "name": "t", "uid": "u" });
    serde_json::from_value(json!({ "metadata": metadata, "spec": all })).unwrap()
}

fn asked_of(spec: &Value, policy: &str) -> Option<Result<Ask, Said>> {
    Ask::of(&trigger(spec), &policy.parse().unwrap(), "fission")
}

fn ask(spec: &Value) -> Ask {
    asked_of(spec, POLICY).unwrap().unwrap()
}

/// Reason and message.
fn refused_by(spec: &Value, policy: &str) -> (&'static str, String) {
    let said = asked_of(spec, policy).unwrap().unwrap_err();
    assert!(!said.holds);
    (said.reason, said.message)
}

fn refused(spec: &Value) -> (&'static str, String) {
    refused_by(spec, POLICY)
}

/// A `routeConfig` for an Ingress, with changes.
fn ingress(changes: &Value) -> Value {
    let mut config = json!({ "provider": "ingress", "hostnames": ["a.example.com"] });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    json!({ "routeConfig": config })
}

fn gateway(parents: &Value) -> Value {
    ingress(&json!({ "provider": "gateway", "gateway": { "parentRefs": parents } }))
}

#[test]
fn most_triggers_ask_for_nothing() {
    for spec in [
        json!({}),
        json!({ "createingress": false, "ingressconfig": { "host": "a.example.com" } }),
        json!({ "routeConfig": {} }),
        json!({ "routeConfig": { "provider": "" }, "createingress": true }),
    ] {
        assert_eq!(asked_of(&spec, POLICY), None, "{spec}");
    }
}

#[test]
fn both_forms_ask_for_the_same() {
    let old = json!({ "createingress": true, "ingressconfig": {
        "host": "a.example.com", "path": "/hello", "tls": "wildcard",
        "annotations": { "a.io/ok": "yes" },
    }});
    let new = ingress(&json!({ "tls": "wildcard", "annotations": { "a.io/ok": "yes" } }));
    let wanted = Ask {
        route: Route::Ingress {
            secret: Some("wildcard".to_owned()),
        },
        hostnames: vec!["a.example.com".to_owned()],
        path: Path::Exact("/hello".to_owned()),
        annotations: BTreeMap::from([("a.io/ok".to_owned(), "yes".to_owned())]),
    };
    assert_eq!(ask(&old), wanted);
    assert_eq!(ask(&new), wanted);
    // The new form comes first.
    let mut both = old;
    both["routeConfig"] = json!({ "provider": "gateway", "hostnames": ["b.example.com"] });
    assert_eq!(ask(&both).hostnames, ["b.example.com"]);
}

#[test]
fn what_go_writes_for_nothing_is_nothing() {
    let spec = json!({ "createingress": true, "host": "a.example.com",
        "ingressconfig": { "annotations": null, "path": "", "host": "", "tls": "" } });
    let asked = ask(&spec);
    assert_eq!(asked.hostnames, ["a.example.com"]);
    assert_eq!(asked.route, Route::Ingress { secret: None });
    assert_eq!(
        ask(&json!({ "createingress": true, "host": "a.example.com" })),
        asked
    );
}

#[test]
fn other_forms_are_told() {
    for config in [
        json!({ "provider": "nginx", "hostnames": ["a.example.com"] }),
        json!({ "provider": "ingress", "hostnames": "a.example.com" }),
        json!({ "provider": "ingress", "hostnames": [1] }),
        json!({ "provider": 7 }),
        json!({ "provider": "ingress", "backend": "kubernetes" }),
        json!({ "provider": "gateway", "gateway": { "parentRefs": [{ "kind": "Service" }] } }),
    ] {
        let (reason, message) = refused(&json!({ "routeConfig": config }));
        assert_eq!(reason, "InvalidIngressConfig", "{message}");
        assert!(message.contains("routeConfig"), "{message}");
    }
    let spec = json!({ "createingress": true, "ingressconfig": { "rules": [] } });
    assert!(refused(&spec).1.starts_with("ingressconfig cannot be read"));
}

#[test]
fn a_hostname_must_be_allowed() {
    for host in [
        "example.com",
        "evil.org",
        "a.example.com.evil.org",
        "*.org",
        "*.com",
    ] {
        let (reason, message) = refused(&ingress(&json!({ "hostnames": [host] })));
        assert_eq!(reason, "HostnameNotAllowed", "{host}");
        assert!(message.contains(host), "{message}");
        assert!(message.contains("exposure.hostnames"), "{message}");
    }
    // One good one does not carry the others.
    let two = json!({ "hostnames": ["a.example.com", "evil.org"] });
    assert_eq!(refused(&ingress(&two)).0, "HostnameNotAllowed");
    // By the host of the trigger neither.
    let own = json!({ "createingress": true, "host": "evil.org" });
    assert_eq!(refused(&own).0, "HostnameNotAllowed");
}

#[test]
fn any_host_must_be_allowed_as_such() {
    for hosts in [
        json!([]),
        json!(null),
        json!([""]),
        json!(["*"]),
        json!(["*", ""]),
    ] {
        let spec = ingress(&json!({ "hostnames": hosts }));
        assert_eq!(refused(&spec).0, "HostnameNotAllowed", "{spec}");
        let any = asked_of(&spec, r#"{"hostnames":["*"]}"#).unwrap().unwrap();
        assert!(any.hostnames.is_empty());
    }
    let old = json!({ "createingress": true, "ingressconfig": { "host": "*" } });
    assert_eq!(refused(&old).0, "HostnameNotAllowed");
    // The host of the trigger is not put in the place of an explicit star.
    let star = json!({ "createingress": true, "host": "a.example.com",
        "ingressconfig": { "host": "*" } });
    assert_eq!(refused(&star).0, "HostnameNotAllowed");
    // As in Fission: beside a name, a star says nothing.
    let beside = ingress(&json!({ "hostnames": ["*", "b.example.com"] }));
    assert_eq!(ask(&beside).hostnames, ["b.example.com"]);
}

#[test]
fn nothing_can_be_written_into_a_hostname() {
    let policies = [POLICY, r#"{"hostnames":["*"]}"#];
    for host in [
        "A.example.com",
        "a.example.com:80",
        "a.example.com/b",
        "a.example.com;x.example.com",
        "a.example.com\n.example.com",
        "{}.example.com",
        "a b.example.com",
        "..example.com",
        ".example.com",
        "*.*.example.com",
        "a.*.example.com",
        "10.0.0.1",
        "ä.example.com",
    ] {
        for policy in policies {
            let (reason, message) = refused_by(&ingress(&json!({ "hostnames": [host] })), policy);
            assert_eq!(reason, "InvalidIngressConfig", "{host:?}");
            assert!(!message.contains('\n'));
        }
    }
    let many: Vec<String> = (0..17).map(|n| format!("{n}.example.com")).collect();
    let (reason, message) = refused(&ingress(&json!({ "hostnames": many })));
    assert_eq!(reason, "InvalidIngressConfig");
    assert!(message.contains("17"), "{message}");
}

#[test]
fn the_path_is_that_of_the_trigger() {
    let exact = |path: &str| Path::Exact(path.to_owned());
    let prefix = |path: &str| Path::Prefix(path.to_owned());
    for (route, path, wanted) in [
        (json!({ "relativeurl": "/a" }), "", exact("/a")),
        (json!({ "relativeurl": "/a/" }), "/a/", exact("/a/")),
        (json!({ "prefix": "/p" }), "", prefix("/p")),
        (json!({ "prefix": "/p/" }), "/p/", prefix("/p")),
        (json!({ "prefix": "/p" }), "/p/q", prefix("/p/q")),
        (json!({ "prefix": "" }), "/hello", exact("/hello")),
        // Of a template what does not vary, by whole segments.
        (json!({ "relativeurl": "/a/{id}" }), "", prefix("/a")),
        (
            json!({ "relativeurl": "/a/b{x:[0-9;]+}/c" }),
            "",
            prefix("/a"),
        ),
        (json!({ "relativeurl": "/a/{id}" }), "/a/{id}", prefix("/a")),
    ] {
        let mut spec = ingress(&json!({ "path": path }));
        for (key, value) in route.as_object().unwrap() {
            spec[key] = value.clone();
        }
        assert_eq!(ask(&spec).path, wanted, "{spec}");
    }
}

#[test]
fn a_path_exposes_no_other_route() {
    for (route, path) in [
        (json!({ "relativeurl": "/a" }), "/"),
        (json!({ "relativeurl": "/a" }), "/b"),
        (json!({ "relativeurl": "/a" }), "/a/b"),
        (json!({ "relativeurl": "/a" }), "a"),
        (json!({ "prefix": "/p" }), "/"),
        (json!({ "prefix": "/p" }), "/pq"),
        (json!({ "prefix": "/p" }), "p/"),
        (json!({ "prefix": "/p/q" }), "/p"),
        (json!({ "relativeurl": "/{x}" }), ""),
        (json!({ "relativeurl": "/a{x}" }), ""),
        (json!({ "relativeurl": "/{x}" }), "/"),
    ] {
        let mut spec = ingress(&json!({ "path": path }));
        for (key, value) in route.as_object().unwrap() {
            spec[key] = value.clone();
        }
        assert_eq!(refused(&spec).0, "PathNotAllowed", "{spec}");
    }
}

#[test]
fn nothing_can_be_written_into_a_path() {
    let long = format!("/{}", "a".repeat(TEXT));
    for path in [
        "/a;b", "/a b", "/a\nb", "/a\"b", "/a'b", "/a}b", "/a$b", "/a#b", "/a?b", "/a\\b",
        "/a%2fb", "/a*", "/a(b)", "/a^b", "/a|b", "/./b", "/..", "/a/../b", "//b", "/a//b", "/ä",
        "/", "", &long,
    ] {
        let mut spec = ingress(&json!({}));
        spec["relativeurl"] = json!(path);
        let (reason, message) = refused(&spec);
        assert_eq!(reason, "InvalidIngressConfig", "{path:?}");
        assert!(message.len() < 500, "{message}");
        // As a prefix, and below one.
        if path.len() > 1 {
            spec["relativeurl"] = json!("/x");
            spec["prefix"] = json!(path);
            assert_eq!(refused(&spec).0, "InvalidIngressConfig", "{path:?}");
            spec["prefix"] = json!("/x");
            spec["routeConfig"]["path"] = json!(format!("/x{path}"));
            assert_eq!(refused(&spec).0, "InvalidIngressConfig", "{path:?}");
        }
    }
}

#[test]
fn an_annotation_must_be_allowed() {
    for key in [
        "nginx.ingress.kubernetes.io/configuration-snippet",
        "kubernetes.io/ingress.class",
        "a.io/okay",
        "a.io",
        "farplane.io/applied",
    ] {
        let spec = ingress(&json!({ "annotations": { key: "x" } }));
        let (reason, message) = refused(&spec);
        assert_eq!(reason, "AnnotationNotAllowed", "{key}");
        assert!(message.contains(key), "{message}");
    }
    // Ours are not anybody's, whatever is allowed.
    let ours = ingress(&json!({ "annotations": { "farplane.io/applied": "x" } }));
    let policy = r#"{"hostnames":["*"],"annotations":["farplane.io/"]}"#;
    assert_eq!(refused_by(&ours, policy).0, "AnnotationNotAllowed");
    let good = ingress(&json!({ "annotations": { "a.io/ok": "1", "b.io/any": "/x/$1, 10m" } }));
    assert_eq!(ask(&good).annotations.len(), 2);
}

#[test]
fn nothing_can_be_written_into_an_annotation() {
    let long = "a".repeat(TEXT + 1);
    for value in [
        "on;\nlua_code",
        "a;b",
        "a{",
        "a}",
        "a\"",
        "a'",
        "a`",
        "a\\",
        "a #",
        "a\r",
        "a\0",
        "ä",
        &long,
    ] {
        let (reason, message) = refused(&ingress(&json!({ "annotations": { "a.io/ok": value } })));
        assert_eq!(reason, "AnnotationNotAllowed", "{value:?}");
        assert!(!message.contains(char::is_control), "{message}");
    }
    for key in [
        "", "b.io/", "b.io/a/b", "b.io/a b", "b.io/a\n", "b.io/a:b", "B.io/-",
    ] {
        let (reason, _) = refused(&ingress(&json!({ "annotations": { key: "x" } })));
        assert_eq!(reason, "InvalidIngressConfig", "{key:?}");
    }
    let many: BTreeMap<String, String> = (0..33)
        .map(|n| (format!("b.io/{n}"), String::new()))
        .collect();
    assert_eq!(
        refused(&ingress(&json!({ "annotations": many }))).0,
        "InvalidIngressConfig"
    );
}

#[test]
fn a_secret_must_be_allowed() {
    for secret in ["fission-internal-auth", "wildcard2", "*", "../wildcard"] {
        let (reason, message) = refused(&ingress(&json!({ "tls": secret })));
        assert_eq!(reason, "TlsSecretNotAllowed");
        assert!(message.contains("exposure.tlsSecrets"), "{message}");
    }
    let old = json!({ "createingress": true, "host": "a.example.com",
        "ingressconfig": { "tls": "fission-internal-auth" } });
    assert_eq!(refused(&old).0, "TlsSecretNotAllowed");
}

#[test]
fn a_gateway_must_be_allowed() {
    for parent in [
        json!({ "name": "other", "namespace": "infra" }),
        json!({ "name": "web" }),
        json!({ "name": "own", "namespace": "infra" }),
    ] {
        let (reason, message) = refused(&gateway(&json!([parent])));
        assert_eq!(reason, "GatewayNotAllowed", "{parent}");
        assert!(message.contains("exposure.parents"), "{message}");
    }
    for parent in [
        json!({ "name": "" }),
        json!({ "name": "web", "namespace": "infra/web" }),
        json!({ "name": "a b", "namespace": "infra" }),
        json!({ "name": "web", "namespace": "infra", "sectionName": "a b" }),
        json!({ "name": "web", "namespace": "infra", "port": 65536 }),
        json!({ "name": "web", "namespace": "infra", "port": -1 }),
    ] {
        let (reason, _) = refused(&gateway(&json!([parent])));
        assert_eq!(reason, "InvalidIngressConfig", "{parent}");
    }
    let both = json!([{ "name": "web", "namespace": "infra" }, { "name": "evil" }]);
    assert_eq!(refused(&gateway(&both)).0, "GatewayNotAllowed");
    let none = refused_by(&gateway(&json!([])), r#"{"hostnames":["*"]}"#);
    assert_eq!(none.0, "GatewayNotAllowed");
}

#[test]
fn gateways_are_of_the_platforms_namespace_or_the_operators_first() {
    let parent = |namespace: &str, name: &str, section: Option<&str>, port| Parent {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        section: section.map(str::to_owned),
        port,
    };
    for (wanted, parents) in [
        (json!([]), parent("infra", "web", None, None)),
        (
            json!([{ "name": "own" }]),
            parent("fission", "own", None, None),
        ),
        (
            json!([{ "name": "web", "namespace": "infra", "sectionName": "https", "port": 443 }]),
            parent("infra", "web", Some("https"), Some(443)),
        ),
    ] {
        let parents = vec![parents];
        assert_eq!(ask(&gateway(&wanted)).route, Route::Gateway { parents });
    }
    // The Gateway's own certificates are used.
    let mut spec = gateway(&json!([]));
    spec["routeConfig"]["tls"] = json!("any");
    assert!(matches!(ask(&spec).route, Route::Gateway { .. }));
}

#[test]
fn a_message_quotes_no_more_than_it_needs() {
    let host = "\n".repeat(100_000);
    let (_, message) = refused(&ingress(&json!({ "hostnames": [host] })));
    assert!(
        message.len() < 500 && !message.contains('\n'),
        "{}",
        message.len()
    );
}
