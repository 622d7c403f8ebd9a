//! What is made, repaired, deleted and told, without an API server.

use serde_json::{Value, json};

use super::*;

const POLICY: &str = r#"{
    "hostnames": ["*.example.com"], "annotations": ["a.io/"],
    "parents": ["infra/web"], "tlsSecrets": ["wildcard"], "ingressClass": "public"
}"#;

pub(super) struct Tenants {
    triggers: Vec<Arc<HTTPTrigger>>,
    existing: Vec<Existing>,
    gateways: Gateways,
    policy: Exposure,
}

impl Tenants {
    pub(super) fn of(triggers: Vec<HTTPTrigger>) -> Self {
        Self {
            triggers: triggers.into_iter().map(Arc::new).collect(),
            existing: Vec::new(),
            gateways: Gateways::There,
            policy: POLICY.parse().unwrap(),
        }
    }

    pub(super) fn plan(&self) -> Plan {
        decide(&World {
            triggers: &self.triggers,
            existing: &self.existing,
            gateways: self.gateways,
            policy: &self.policy,
            namespace: "fission",
        })
    }

    /// Does what is decided.
    fn carry_out(&mut self) -> Plan {
        let plan = self.plan();
        self.existing.retain(|one| !plan.delete.contains(one));
        for apply in &plan.apply {
            let wanted = &apply.wanted;
            self.existing.retain(|one| one.name != wanted.name);
            self.existing.push(Existing {
                kind: wanted.kind,
                name: wanted.name.clone(),
                uid: format!("uid of {}", wanted.name),
                version: "1".to_owned(),
                body: wanted.body.clone(),
            });
        }
        plan
    }

    fn settled(&self) {
        let plan = self.plan();
        assert!(plan.apply.is_empty() && plan.delete.is_empty(), "{plan:?}");
    }

    fn names(&self) -> Vec<(Kind, &str)> {
        let names = self.existing.iter();
        names.map(|one| (one.kind, one.name.as_str())).collect()
    }
}

pub(super) fn trigger(namespace: &str, name: &str, spec: &Value) -> HTTPTrigger {
    let mut all = json!({
        "relativeurl": format!("/{name}"), "functionref": { "type": "name", "name": "f" },
    });
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    let metadata = json!({
        "namespace": namespace, "name": name, "uid": format!("{namespace}.{name}"), "generation": 2,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    });
    serde_json::from_value(json!({ "metadata": metadata, "spec": all })).unwrap()
}

pub(super) fn route(provider: &str, host: &str) -> Value {
    json!({ "routeConfig": { "provider": provider, "hostnames": [host] } })
}

fn exposed_trigger(namespace: &str, name: &str) -> HTTPTrigger {
    trigger(namespace, name, &route("ingress", "a.example.com"))
}

pub(super) fn reason(plan: &Plan, name: &str) -> String {
    let mut all = plan.tell.iter();
    let tell = all.find(|tell| tell.trigger.name_any() == name).unwrap();
    match &tell.word {
        Word::Say(said) => format!("{}={}", said.holds, said.reason),
        other => format!("{other:?}"),
    }
}

fn at(second: i64) -> Time {
    Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
}

#[test]
fn an_ingress_is_all_that_is_asked_and_nothing_else() {
    let spec = json!({
        "prefix": "/p",
        "routeConfig": {
            "provider": "ingress", "hostnames": ["b.example.com", "a.example.com"],
            "tls": "wildcard", "annotations": { "a.io/x": "y" },
        },
    });
    let mut tenants = Tenants::of(vec![trigger("team", "t", &spec)]);
    let plan = tenants.carry_out();
    assert_eq!(reason(&plan, "t"), "true=Exposed");
    let mut body = plan.apply[0].wanted.body.clone();
    let annotations = body["metadata"]["annotations"].as_object_mut().unwrap();
    assert_eq!(
        annotations
            .remove("farplane.io/applied")
            .unwrap()
            .as_str()
            .unwrap()
            .len(),
        64
    );
    let http = json!({ "paths": [{ "path": "/p", "pathType": "Prefix", "backend": {
        "service": { "name": "router", "port": { "number": 80 } },
    }}]});
    let wanted = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": "team-t-team.t", "namespace": "fission",
            "labels": {
                "functionName": "f", "triggerName": "t", "triggerNamespace": "team",
                "farplane.io/exposes": "team.t",
            },
            "annotations": { "a.io/x": "y" },
        },
        "spec": {
            "ingressClassName": "public",
            "rules": [
                { "host": "a.example.com", "http": http }, { "host": "b.example.com", "http": http },
            ],
            "tls": [{ "secretName": "wildcard", "hosts": ["a.example.com", "b.example.com"] }],
        },
    });
    assert_eq!(body, wanted);
    tenants.settled();
}

#[test]
fn a_gateway_route_is_all_that_is_asked_and_nothing_else() {
    let mut spec = route("gateway", "a.example.com");
    let parents = json!([{ "name": "web", "namespace": "infra", "sectionName": "s", "port": 443 }]);
    spec["routeConfig"]["gateway"] = json!({ "parentRefs": parents });
    let mut tenants = Tenants::of(vec![trigger("team", "t", &spec)]);
    let plan = tenants.carry_out();
    let body = &plan.apply[0].wanted.body;
    assert_eq!(body["apiVersion"], "gateway.networking.k8s.io/v1");
    assert_eq!(
        (&body["kind"], &body["metadata"]["namespace"]),
        (&json!("HTTPRoute"), &json!("fission"))
    );
    let wanted = json!({
        "hostnames": ["a.example.com"],
        "parentRefs": [{
            "group": "gateway.networking.k8s.io", "kind": "Gateway",
            "name": "web", "namespace": "infra", "sectionName": "s", "port": 443,
        }],
        "rules": [{
            "matches": [{ "path": { "type": "Exact", "value": "/t" } }],
            "backendRefs": [
                { "group": "", "kind": "Service", "name": "router", "port": 80, "weight": 1 },
            ],
        }],
    });
    assert_eq!(body["spec"], wanted);
    tenants.settled();
}

#[test]
fn any_host_has_no_hostname() {
    let mut tenants = Tenants::of(vec![
        trigger("ns", "a", &json!({ "createingress": true })),
        trigger(
            "ns",
            "b",
            &json!({ "routeConfig": { "provider": "gateway" } }),
        ),
    ]);
    tenants.policy = r#"{"hostnames":["*"],"parents":["infra/web"]}"#.parse().unwrap();
    let plan = tenants.carry_out();
    let spec = |at: usize| plan.apply[at].wanted.body["spec"].clone();
    assert_eq!(spec(0)["rules"][0].get("host"), None);
    assert_eq!(spec(0).get("ingressClassName"), None);
    assert_eq!(spec(0).get("tls"), None);
    assert_eq!(spec(1).get("hostnames"), None);
}

#[test]
fn by_default_nothing_is_made() {
    let mut tenants = Tenants::of(vec![
        exposed_trigger("ns", "a"),
        trigger("ns", "b", &json!({ "createingress": true })),
        trigger("ns", "c", &route("gateway", "a.example.com")),
    ]);
    tenants.policy = Exposure::default();
    let plan = tenants.carry_out();
    assert!(plan.apply.is_empty());
    for name in ["a", "b", "c"] {
        assert_eq!(reason(&plan, name), "false=HostnameNotAllowed");
    }
}

#[test]
fn names_of_tenants_do_not_meet() {
    let long = "x".repeat(200);
    let mut tenants = Tenants::of(vec![
        exposed_trigger("a", "b-c"),
        exposed_trigger("a-b", "c"),
        exposed_trigger("a", "b.c"),
        exposed_trigger("a", &long),
        exposed_trigger("a", &format!("{long}y")),
    ]);
    let count = tenants.carry_out().apply.len();
    assert_eq!((count, tenants.existing.len()), (5, 5));
    // Whatever is chosen: the UID is not.
    let uid = "0b6a1f3e-8d1c-4a52-9a3e-0123456789ab";
    let mut one = exposed_trigger("kube-system", &long);
    one.metadata.uid = Some(uid.to_owned());
    let plan = Tenants::of(vec![one]).plan();
    let name = &plan.apply[0].wanted.name;
    assert!(name.ends_with(uid) && name.len() <= 63, "{name}");
}

#[test]
fn what_is_no_label_is_left_empty() {
    let spec = json!({
        "functionref": { "type": "name", "name": "f\nfarplane.io/exposes: x" },
        "routeConfig": { "provider": "ingress", "hostnames": ["a.example.com"] },
    });
    let long = "x".repeat(64);
    let plan = Tenants::of(vec![trigger("ns", &long, &spec)]).plan();
    let labels = &plan.apply[0].wanted.body["metadata"]["labels"];
    assert_eq!(
        (&labels["functionName"], &labels["triggerName"]),
        (&json!(""), &json!(""))
    );
    assert_eq!(labels.as_object().unwrap().len(), 4);
}

#[test]
fn what_somebody_changed_is_repaired() {
    let mut tenants = Tenants::of(vec![
        exposed_trigger("ns", "a"),
        trigger("ns", "b", &route("gateway", "a.example.com")),
    ]);
    tenants.carry_out();
    let changes: [fn(&mut Value); 7] = [
        |body| body["metadata"]["labels"]["functionName"] = json!("g"),
        |body| body["metadata"]["annotations"] = json!({}),
        |body| body["spec"]["rules"] = json!([]),
        |body| body["spec"]["rules"][0]["filters"] = json!([]),
        |body| body["spec"]["rules"][0]["host"] = json!("b.example.com"),
        |body| {
            let more = body["spec"]["rules"][0].clone();
            body["spec"]["rules"].as_array_mut().unwrap().push(more);
        },
        |body| _ = body["spec"].as_object_mut().unwrap().remove("rules"),
    ];
    for at in [0, 1] {
        for (number, change) in changes.iter().enumerate() {
            change(&mut tenants.existing[at].body);
            let name = tenants.existing[at].name.clone();
            let plan = tenants.plan();
            let applied: Vec<_> = plan.apply.iter().map(|one| &one.wanted.name).collect();
            assert_eq!(applied, [&name], "change {number}");
            assert!(plan.delete.is_empty());
            tenants.carry_out();
            tenants.existing.sort_by_key(|one| one.kind);
            tenants.settled();
        }
    }
    // What others need beside is theirs.
    tenants.existing[0].body["metadata"]["annotations"]["cert-manager/x"] = json!("y");
    tenants.existing[0].body["metadata"]["finalizers"] = json!(["x"]);
    tenants.existing[0].body["status"] = json!({ "loadBalancer": {} });
    tenants.settled();
    // And what is gone comes again.
    tenants.existing.clear();
    assert_eq!(tenants.plan().apply.len(), 2);
}

#[test]
fn less_than_before_is_a_change_too() {
    let mut more = route("ingress", "a.example.com");
    more["routeConfig"]["annotations"] = json!({ "a.io/x": "y" });
    more["routeConfig"]["tls"] = json!("wildcard");
    let mut tenants = Tenants::of(vec![trigger("ns", "a", &more)]);
    tenants.carry_out();
    tenants.triggers = vec![Arc::new(exposed_trigger("ns", "a"))];
    let plan = tenants.carry_out();
    assert_eq!(plan.apply.len(), 1);
    assert!(plan.apply[0].before.is_some());
    tenants.settled();
}

#[test]
fn what_no_trigger_may_have_is_deleted() {
    let both = || vec![exposed_trigger("ns", "a"), exposed_trigger("ns", "b")];
    let mut leaving = exposed_trigger("ns", "b");
    leaving.metadata.deletion_timestamp = Some(at(1));
    let mut anew = exposed_trigger("ns", "b");
    anew.metadata.uid = Some("another".to_owned());
    for (second, remade) in [
        (None, 0),
        (Some(leaving), 0),
        (Some(anew), 1),
        (Some(trigger("ns", "b", &json!({}))), 0),
        (Some(trigger("ns", "b", &route("ingress", "evil.org"))), 0),
        (
            Some(trigger("ns", "b", &route("gateway", "a.example.com"))),
            1,
        ),
    ] {
        let mut tenants = Tenants::of(both());
        tenants.carry_out();
        tenants.triggers.truncate(1);
        tenants.triggers.extend(second.map(Arc::new));
        let plan = tenants.carry_out();
        let deleted: Vec<_> = plan.delete.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(deleted, ["ns-b-ns.b"]);
        assert_eq!(plan.apply.len(), remade);
        assert!(tenants.names().contains(&(Kind::Ingress, "ns-a-ns.a")));
        tenants.settled();
    }
}

#[test]
fn an_operator_who_allows_less_takes_it_away() {
    let mut tenants = Tenants::of(vec![exposed_trigger("ns", "a")]);
    tenants.carry_out();
    tenants.policy = r#"{"hostnames":["*.example.org"]}"#.parse().unwrap();
    let plan = tenants.carry_out();
    assert_eq!(plan.delete.len(), 1);
    assert_eq!(reason(&plan, "a"), "false=HostnameNotAllowed");
    assert!(tenants.existing.is_empty());
}

#[test]
fn without_the_gateway_api_ingresses_are_made() {
    let mut tenants = Tenants::of(vec![
        exposed_trigger("ns", "a"),
        trigger("ns", "b", &route("gateway", "a.example.com")),
    ]);
    tenants.gateways = Gateways::Missing;
    let plan = tenants.carry_out();
    assert_eq!(reason(&plan, "a"), "true=Exposed");
    assert_eq!(reason(&plan, "b"), "false=GatewayApiMissing");
    assert_eq!(tenants.names(), [(Kind::Ingress, "ns-a-ns.a")]);
    // Not known: nothing is said and nothing is done.
    tenants.gateways = Gateways::Unknown;
    assert_eq!(tenants.plan().tell.len(), 1);
    tenants.gateways = Gateways::There;
    let plan = tenants.carry_out();
    assert_eq!(reason(&plan, "b"), "true=Exposed");
    assert_eq!(tenants.existing.len(), 2);
    // What is there stays while it is not known whether it should be.
    tenants.triggers.clear();
    tenants.gateways = Gateways::Unknown;
    let kinds: Vec<_> = tenants.plan().delete.iter().map(|one| one.kind).collect();
    assert_eq!(kinds, [Kind::Ingress]);
}

#[test]
fn a_condition_is_written_once_and_taken_back() {
    let mut tenants = Tenants::of(vec![
        exposed_trigger("ns", "a"),
        trigger("ns", "b", &json!({})),
    ]);
    let plan = tenants.carry_out();
    assert_eq!(plan.tell.len(), 1, "who asks for nothing is told nothing");
    let first = status(&plan.tell[0], &at(1)).unwrap();
    assert_eq!(first.observed_generation, None, "the router's");
    assert_eq!(first.conditions.len(), 1);
    let condition = &first.conditions[0];
    assert_eq!(
        (condition.type_.as_str(), condition.status.as_str()),
        ("Exposed", "True")
    );
    assert_eq!(condition.observed_generation, Some(2));
    assert!(
        condition.message.contains("Ingress fission/ns-a-ns.a"),
        "{}",
        condition.message
    );

    let mut told = exposed_trigger("ns", "a");
    told.status = Some(first.clone());
    tenants.triggers = vec![Arc::new(told)];
    assert_eq!(status(&tenants.plan().tell[0], &at(2)), None);

    tenants.policy = Exposure::default();
    let second = status(&tenants.plan().tell[0], &at(3)).unwrap();
    assert_eq!(second.conditions[0].status, "False");
    assert_eq!(second.conditions[0].last_transition_time, at(3));

    let mut quiet = trigger("ns", "a", &json!({}));
    quiet.status = Some(first);
    tenants.triggers = vec![Arc::new(quiet)];
    let plan = tenants.plan();
    assert_eq!(plan.tell[0].word, Word::Nothing);
    let last = status(&plan.tell[0], &at(4)).unwrap();
    assert_eq!(last, HTTPTriggerStatus::default());
    let before = Tell {
        trigger: plan.tell[0].trigger.clone(),
        word: Word::AsBefore,
    };
    assert_eq!(status(&before, &at(5)), None);
}
