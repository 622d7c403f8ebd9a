//! What the chart says of exposure: nothing by default, and rights in one namespace only.

use std::path::Path;

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::Value;

use super::Exposure;

fn read(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../charts/functions");
    std::fs::read_to_string(root.join(file)).unwrap()
}

/// An object of `rbac.yaml` without its labels, of a release in namespace `fission`.
pub(crate) fn rbac(kind: &str, name: &str) -> Value {
    let all = objects();
    let mut found = all
        .into_iter()
        .filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let object = found.next().unwrap();
    assert!(found.next().is_none(), "{kind} {name} is there twice");
    object
}

fn objects() -> Vec<Value> {
    let text = read("templates/rbac.yaml");
    let (_, text) = text.split_once("{{- end }}\n---\n").unwrap();
    let text = text.replace("{{ .Release.Namespace }}", "fission");
    let plain = |line: &&str| !line.contains("{{") && line.trim() != "labels:";
    let text: Vec<&str> = text.lines().filter(plain).collect();
    let text = text.join("\n");
    let objects = text.split("---\n").filter(|one| one.contains("kind:"));
    objects
        .map(|one| serde_yaml_ng::from_str(one).unwrap())
        .collect()
}

#[test]
fn by_default_nothing_is_exposed() {
    let values: Value = serde_yaml_ng::from_str(&read("values.yaml")).unwrap();
    let lists = values["exposure"].as_object().unwrap();
    assert_eq!(lists.len(), 5, "all of them are told of");
    let policy: Exposure = values["exposure"].to_string().parse().unwrap();
    assert_eq!(policy, Exposure::default());
}

#[test]
fn nobody_may_touch_ingresses_of_other_namespaces() {
    let all = objects();
    assert!(all.len() >= 11, "{}", all.len());
    for object in all {
        let rules = object["rules"].clone();
        let rules: Option<Vec<PolicyRule>> = serde_json::from_value(rules).unwrap();
        let groups = rules.iter().flatten().flat_map(|rule| &rule.api_groups);
        let groups: Vec<&String> = groups.flatten().collect();
        let exposes = groups
            .iter()
            .any(|group| group.ends_with("networking.k8s.io") || *group == "*");
        let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
        // Bindings have no rules.
        let is_ours = name == "fission-exposure" && kind == "Role";
        assert_eq!(exposes, is_ours, "{kind} {name}");
    }
    let bound = rbac("RoleBinding", "fission-exposure");
    assert_eq!(bound["metadata"]["namespace"], "fission");
    assert_eq!(bound["roleRef"]["name"], "fission-exposure");
    let subjects = bound["subjects"].as_array().unwrap();
    assert_eq!(subjects.len(), 1);
    assert_eq!(subjects[0]["name"], "fission-controllers");
}
