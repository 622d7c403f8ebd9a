//! Lays what users wrote over what we made, by the rules of a strategic merge.

use serde_json::Value;

/// Lists whose items are told apart by a field.
const KEYED: [(&str, &str); 13] = [
    ("containers", "name"),
    ("initContainers", "name"),
    ("volumes", "name"),
    ("env", "name"),
    ("imagePullSecrets", "name"),
    ("ports", "containerPort"),
    ("volumeMounts", "mountPath"),
    ("hostAliases", "ip"),
    ("topologySpreadConstraints", "topologyKey"),
    ("resourceClaims", "name"),
    ("schedulingGates", "name"),
    ("options", "name"),
    ("resizePolicy", "resourceName"),
];
/// Types of volumes are alternatives: another one replaces ours.
const ALTERNATIVES: &str = "volumes";

/// Lays `over` over `base`. `null` removes.
pub(crate) fn merge(base: &mut Value, over: Value) {
    merge_at("", base, over);
}

fn merge_at(name: &str, base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                if value.is_null() {
                    base.remove(&name);
                    continue;
                }
                match base.get_mut(&name) {
                    Some(old) => merge_at(&name, old, value),
                    None => {
                        base.insert(name, value);
                    }
                }
            }
        }
        (Value::Array(base), Value::Array(over)) => {
            match KEYED.iter().find(|(list, _)| *list == name) {
                Some((list, key)) => merge_list(list, key, base, over),
                None => *base = over,
            }
        }
        (base, over) => *base = over,
    }
}

fn merge_list(list: &str, key: &str, base: &mut Vec<Value>, over: Vec<Value>) {
    for item in over {
        let same = |old: &&mut Value| !item[key].is_null() && old[key] == item[key];
        match base.iter_mut().find(same) {
            Some(old) if list == ALTERNATIVES => *old = item,
            Some(old) => merge_at("", old, item),
            None => base.push(item),
        }
    }
}
