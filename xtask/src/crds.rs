//! Definitions of the custom resources and their reference pages, made from `crates/types` and
//! `crates/functions/types`.
//!
//! Both are in the tree, so that a change of the API is seen in review; `--check`
//! fails when they are not what the types say.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

/// Kinds that are installed and described together.
struct Set {
    /// Crate that they are made from.
    from: &'static str,
    definitions: Vec<CustomResourceDefinition>,
    folder: &'static str,
    page: &'static str,
    group: &'static str,
}

fn sets() -> [Set; 2] {
    [
        Set {
            from: "crates/types",
            definitions: farplane_types::all_crds(),
            folder: "charts/farplane/crds",
            page: "docs/reference/resources.md",
            group: "Group `farplane.io`, version `v1alpha1`",
        },
        Set {
            from: "crates/functions/types",
            definitions: farplane_functions_types::all_crds(),
            folder: "charts/functions/crds",
            page: "docs/reference/functions.md",
            group: "Group `fission.io`, version `v1`",
        },
    ]
}

/// Writes the definitions and the reference page, or compares them when `check`.
///
/// # Errors
/// When a file cannot be read or written, or, with `check`, differs.
pub fn run(root: &Path, check: bool) -> Result<()> {
    let wanted = generate()?;
    let mut stale = Vec::new();
    for (path, text) in &wanted {
        let path = root.join(path);
        let have = fs::read_to_string(&path).unwrap_or_default();
        if have == *text {
            continue;
        }
        if check {
            stale.push(path.display().to_string());
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        }
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        println!("{}", path.display());
    }
    for path in strangers(root, &wanted)? {
        if check {
            stale.push(path.display().to_string());
        } else {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    if !stale.is_empty() {
        bail!(
            "not what the crates of types say: {}; run `cargo xtask crds`",
            stale.join(", ")
        );
    }
    Ok(())
}

/// Files among the definitions that no kind makes any more.
fn strangers(root: &Path, wanted: &BTreeMap<PathBuf, String>) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for set in sets() {
        let folder = root.join(set.folder);
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("read {}", folder.display()))?;
            if !wanted.contains_key(&Path::new(set.folder).join(entry.file_name())) {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Every generated file by its path within the tree.
fn generate() -> Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    for set in sets() {
        let mut page = format!(
            "# Custom resources\n\n\
             Made from `{}` by `cargo xtask crds`; do not edit. {}.\n",
            set.from, set.group
        );
        for definition in set.definitions {
            let text =
                serde_yaml_ng::to_string(&definition).context("write a definition as YAML")?;
            let plural = &definition.spec.names.plural;
            files.insert(Path::new(set.folder).join(format!("{plural}.yaml")), text);
            let value = serde_json::to_value(&definition).context("read a definition")?;
            describe_kind(&mut page, &value);
        }
        files.insert(PathBuf::from(set.page), page);
    }
    Ok(files)
}

fn describe_kind(page: &mut String, definition: &Value) {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let schema = &spec["versions"][0]["schema"]["openAPIV3Schema"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let short: Vec<String> = names["shortNames"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|name| format!("`{}`", text(name)))
        .collect();
    let short = match short.len() {
        0 => String::new(),
        _ => format!(" Short name {}.", short.join(", ")),
    };
    let _ = write!(
        page,
        "\n## {}\n\n{}.{short}\n\n{}\n",
        text(&names["kind"]),
        text(&spec["scope"]),
        text(&schema["properties"]["spec"]["description"]),
    );
    for rule in rules(schema) {
        let _ = writeln!(page, "\n- {rule}");
    }
    for part in ["spec", "status"] {
        let part_schema = &schema["properties"][part];
        if part_schema.is_null() {
            continue;
        }
        let _ = write!(page, "\n| field | type | meaning |\n|---|---|---|\n");
        describe_fields(page, part, part_schema);
    }
}

fn describe_fields(page: &mut String, path: &str, schema: &Value) {
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, field) in properties {
        let path = format!("{path}.{name}");
        describe_field(page, &path, field, required.contains(&name.as_str()));
    }
}

fn describe_field(page: &mut String, path: &str, field: &Value, required: bool) {
    let mut meaning = cell(field["description"].as_str().unwrap_or_default());
    if required {
        meaning.push_str(" Required.");
    }
    if !field["default"].is_null() {
        let _ = write!(
            meaning,
            " Default `{}`.",
            cell(&field["default"].to_string())
        );
    }
    for rule in rules(field) {
        let _ = write!(meaning, " {}.", cell(&rule));
    }
    let _ = writeln!(
        page,
        "| `{path}` | {} | {} |",
        type_of(field),
        meaning.trim()
    );
    if path.ends_with(".conditions") {
        return; // the same for every kind, known from Kubernetes
    }
    describe_fields(page, path, field);
    describe_fields(page, &format!("{path}[]"), &field["items"]);
}

fn rules(schema: &Value) -> Vec<String> {
    schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|rule| rule["message"].as_str().map(str::to_owned))
        .collect()
}

fn type_of(field: &Value) -> String {
    let one = field["type"].as_str().unwrap_or("any");
    if let Some(values) = field["enum"].as_array() {
        let values: Vec<String> = values
            .iter()
            .filter_map(Value::as_str)
            .map(|value| format!("`{value}`"))
            .collect();
        return values.join(", ");
    }
    if let Some(choices) = field["oneOf"].as_array().filter(|_| one == "object") {
        let choices: Vec<String> = choices
            .iter()
            .filter_map(|choice| choice["required"][0].as_str())
            .map(|choice| format!("`{choice}`"))
            .collect();
        return format!("one of {}", choices.join(", "));
    }
    match one {
        "array" => format!("list of {}", type_of(&field["items"])),
        "object" if !field["additionalProperties"].is_null() => {
            format!("map to {}", type_of(&field["additionalProperties"]))
        }
        other => other.to_owned(),
    }
}

/// Text that stays within one cell of a table.
fn cell(text: &str) -> String {
    let text = text.replace('|', "\\|");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_definition_and_a_section() {
        let files = generate().unwrap();
        let kinds: usize = sets().iter().map(|set| set.definitions.len()).sum();
        assert_eq!(files.len(), kinds + sets().len());
        let page = &files[Path::new("docs/reference/resources.md")];
        for heading in ["## Organization", "## KubernetesCluster", "## HostPlan"] {
            assert!(page.contains(heading), "{heading}");
        }
        assert!(page.contains("| `spec.hosts` | one of `names`"), "{page}");
    }

    #[test]
    fn drift_is_told_and_repaired() {
        let root = tempfile::tempdir().unwrap();
        assert!(run(root.path(), true).is_err());
        run(root.path(), false).unwrap();
        run(root.path(), true).unwrap();
        let stranger = root.path().join("charts/farplane/crds/gone.yaml");
        fs::write(&stranger, "x").unwrap();
        assert!(run(root.path(), true).is_err());
        run(root.path(), false).unwrap();
        assert!(!stranger.exists());
    }
}
