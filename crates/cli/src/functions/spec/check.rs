//! Finds what cannot work in specs, without a cluster. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::files::{SpecObject, Specs};

/// How references to archives begin.
pub(super) const ARCHIVE: &str = "archive://";

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// These cannot work.
    pub errors: Vec<String>,
    /// These may work, when the cluster has what is missing here.
    pub warnings: Vec<String>,
}

/// Archives that a package names.
pub(super) fn archives_of(package: &Value) -> Vec<&str> {
    ["source", "deployment"]
        .iter()
        .filter_map(|side| package[side]["url"].as_str()?.strip_prefix(ARCHIVE))
        .collect()
}

/// Looks at all of it; `namespace` is the one of objects that name none.
pub(super) fn check(specs: &Specs, namespace: &str) -> Report {
    let mut report = Report::default();
    let names = names(specs, namespace, &mut report);
    archives(specs, &mut report);
    for object in &specs.objects {
        references(object, namespace, &names, &mut report);
    }
    routes(specs, &mut report);
    report
}

type Names<'a> = BTreeSet<(&'a str, &'a str, &'a str)>;

fn names<'a>(specs: &'a Specs, namespace: &'a str, report: &mut Report) -> Names<'a> {
    let mut names = Names::new();
    for object in &specs.objects {
        let place = object.namespace.as_deref().unwrap_or(namespace);
        if !names.insert((object.kind.kind, place, &object.name)) {
            report.errors.push(format!(
                "{}: {} in namespace {place} is described twice",
                object.file,
                object.what()
            ));
        }
    }
    names
}

fn archives(specs: &Specs, report: &mut Report) {
    let mut used = BTreeSet::new();
    for package in specs
        .objects
        .iter()
        .filter(|one| one.kind.kind == "Package")
    {
        for name in archives_of(&package.spec) {
            used.insert(name);
            if !specs.archives.contains_key(name) {
                report.errors.push(format!(
                    "{}: {} is made of archive {name}, which no ArchiveUploadSpec describes",
                    package.file,
                    package.what()
                ));
            }
        }
    }
    for (name, archive) in &specs.archives {
        if archive.include.is_empty() {
            report
                .errors
                .push(format!("archive {name} includes nothing"));
        }
        if !used.contains(name.as_str()) {
            report
                .warnings
                .push(format!("archive {name} is used by no package"));
        }
    }
}

fn references(object: &SpecObject, namespace: &str, names: &Names<'_>, report: &mut Report) {
    let place = object.namespace.as_deref().unwrap_or(namespace);
    let spec = &object.spec;
    let mut wanted: Vec<(&str, &Value)> = Vec::new();
    match object.kind.kind {
        "Package" => wanted.push(("Environment", &spec["environment"])),
        "Function" => {
            wanted.push(("Environment", &spec["environment"]));
            wanted.push(("Package", &spec["package"]["packageref"]));
        }
        _ => {}
    }
    for (kind, reference) in wanted {
        let name = reference["name"].as_str().unwrap_or_default();
        let there = reference["namespace"]
            .as_str()
            .filter(|text| !text.is_empty());
        let what = format!("{}: {}", object.file, object.what());
        if there.is_some_and(|there| there != place) {
            report.errors.push(format!(
                "{what} is in namespace {place} and names {} {name} of namespace {}",
                kind.to_lowercase(),
                there.unwrap_or_default()
            ));
        } else if !name.is_empty() && !names.contains(&(kind, place, name)) {
            report.warnings.push(format!(
                "{what} names {} {name}, which is not in the specs",
                kind.to_lowercase()
            ));
        }
    }
    for function in functions_of(&spec["functionref"]) {
        if !names.contains(&("Function", place, function)) {
            report.warnings.push(format!(
                "{}: {} calls function {function}, which is not in the specs",
                object.file,
                object.what()
            ));
        }
    }
}

fn functions_of(reference: &Value) -> Vec<&str> {
    match reference["functionweights"].as_object() {
        Some(weights) if !weights.is_empty() => weights.keys().map(String::as_str).collect(),
        _ => reference["name"]
            .as_str()
            .filter(|name| !name.is_empty())
            .into_iter()
            .collect(),
    }
}

/// Two routes to the same path and method.
fn routes(specs: &Specs, report: &mut Report) {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for object in specs
        .objects
        .iter()
        .filter(|one| one.kind.kind == "HTTPTrigger")
    {
        let spec = &object.spec;
        let text = |key: &str| spec[key].as_str().unwrap_or_default();
        let methods: Vec<&str> = match spec["methods"].as_array() {
            Some(list) if !list.is_empty() => list.iter().filter_map(Value::as_str).collect(),
            _ if text("method").is_empty() => vec!["GET"],
            _ => vec![text("method")],
        };
        let path = match text("prefix") {
            "" => text("relativeurl").to_owned(),
            prefix => format!("{prefix}/*"),
        };
        for method in methods {
            let key = format!("{method} {}{path}", text("host"));
            if let Some(other) = seen.insert(key.clone(), &object.name) {
                report.errors.push(format!(
                    "{}: {} and route {other} both answer {key}",
                    object.file,
                    object.what()
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::parse;
    use super::*;

    const HEAD: &str = "apiVersion: fission.io/v1\nkind: DeploymentConfig\nname: shop\nuid: u1\n";

    fn report(documents: &[&str]) -> Report {
        let text = documents.iter().fold(HEAD.to_owned(), |all, one| {
            format!("{all}---\napiVersion: fission.io/v1\n{one}\n")
        });
        check(&parse(&[("all.yaml".into(), text)]).unwrap(), "default")
    }

    const ENVIRONMENT: &str =
        "kind: Environment\nmetadata: {name: python}\nspec: {version: 3, runtime: {image: i}}";
    const PACKAGE: &str = "kind: Package\nmetadata: {name: p}\nspec: {environment: {name: python}, source: {url: 'archive://a'}}";
    const FUNCTION: &str = "kind: Function\nmetadata: {name: f}\nspec: {environment: {name: python}, package: {packageref: {name: p}}}";
    const ARCHIVE_A: &str = "kind: ArchiveUploadSpec\nname: a\ninclude: ['*']";
    const ROUTE: &str = "kind: HTTPTrigger\nmetadata: {name: r}\nspec: {relativeurl: /a, functionref: {type: name, name: f}}";

    #[test]
    fn what_fits_together_has_no_problem() {
        assert_eq!(
            report(&[ENVIRONMENT, PACKAGE, FUNCTION, ARCHIVE_A, ROUTE]),
            Report::default()
        );
    }

    #[test]
    fn what_is_missing_here_may_be_in_the_cluster_but_archives_may_not() {
        let found = report(&[PACKAGE, FUNCTION]);
        assert_eq!(found.errors.len(), 1, "{found:?}");
        assert!(found.errors[0].contains("archive a, which no ArchiveUploadSpec describes"));
        assert_eq!(found.warnings.len(), 2, "{found:?}");
        let unused = report(&[ARCHIVE_A, "kind: ArchiveUploadSpec\nname: b"]);
        assert!(unused.errors[0].contains("archive b includes nothing"));
        assert_eq!(unused.warnings.len(), 2);
    }

    #[test]
    fn what_meets_or_crosses_is_refused() {
        let other = "kind: HTTPTrigger\nmetadata: {name: s}\nspec: {relativeurl: /a, methods: [POST, GET], functionref: {type: name, name: f}}";
        let foreign = "kind: Function\nmetadata: {name: g}\nspec: {environment: {name: python, namespace: else}}";
        let found = report(&[ENVIRONMENT, ENVIRONMENT, FUNCTION, ROUTE, other, foreign]);
        let text = found.errors.join("\n");
        assert!(
            text.contains("environment python in namespace default is described twice"),
            "{text}"
        );
        assert!(
            text.contains("route s and route r both answer GET /a"),
            "{text}"
        );
        assert!(
            text.contains("names environment python of namespace else"),
            "{text}"
        );
        assert_eq!(found.errors.len(), 3, "{text}");
    }
}
