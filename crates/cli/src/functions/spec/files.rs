//! Reads a directory of specs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use farplane_functions_types::names::{GROUP, VERSION};
use serde::Deserialize;
use serde_json::Value;

use super::Directory;
use super::kinds::SpecKind;
use crate::failure::Failure;
use crate::functions::glob;

/// File that says whose specs they are, as Fission names it.
pub(super) const CONFIG: &str = "fission-deployment-config.yaml";
const IGNORE: &str = ".specignore";

/// Whose specs they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct DeploymentConfig {
    /// Name, for people.
    pub name: String,
    /// Uid, which every object that is made of them carries.
    pub uid: String,
}

/// What is packed into an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct ArchiveSpec {
    /// Name, for `archive://name`.
    pub name: String,
    /// Directory that patterns are told from; the parent of the specs' when empty.
    #[serde(default)]
    pub rootdir: String,
    /// Patterns of files and directories.
    #[serde(default)]
    pub include: Vec<String>,
    /// Patterns of what is left out again.
    #[serde(default)]
    pub exclude: Vec<String>,
}

/// An object as it is written down.
#[derive(Clone, Debug)]
pub(super) struct SpecObject {
    /// Its kind.
    pub kind: &'static SpecKind,
    /// Its name.
    pub name: String,
    /// Its namespace, when it names one.
    pub namespace: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its spec, word for word.
    pub spec: Value,
    /// File it is in.
    pub file: String,
}

impl SpecObject {
    /// `function hello`.
    pub fn what(&self) -> String {
        format!("{} {}", self.kind.noun, self.name)
    }
}

/// A directory of specs.
#[derive(Clone, Debug, Default)]
pub(super) struct Specs {
    /// Whose they are.
    pub config: DeploymentConfig,
    /// Archives by name.
    pub archives: BTreeMap<String, ArchiveSpec>,
    /// Objects, in the order in which they are applied.
    pub objects: Vec<SpecObject>,
}

/// Reads a directory; every problem of every file is told.
pub(super) fn read(directory: &Directory) -> Result<Specs> {
    let root = &directory.specdir;
    if !root.is_dir() {
        return Err(Failure::NotFound(format!(
            "there is no directory {}: `farplane spec init` makes it, --specdir names another",
            root.display()
        ))
        .into());
    }
    let ignored = ignored(directory)?;
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry.with_context(|| format!("read {}", root.display()))?;
        let below = entry.path().strip_prefix(root).unwrap_or(entry.path());
        let name = below.to_string_lossy().into_owned();
        let yaml = matches!(
            entry.path().extension().and_then(|end| end.to_str()),
            Some("yaml" | "yml")
        );
        if !entry.file_type().is_file() || !yaml || is_ignored(&ignored, &name) {
            continue;
        }
        let text = std::fs::read_to_string(entry.path())
            .with_context(|| format!("read {}", entry.path().display()))?;
        files.push((name, text));
    }
    parse(&files).map_err(|problems| refused(root, &problems).into())
}

/// Problems, one per line.
pub(super) fn refused(root: &Path, problems: &[String]) -> Failure {
    Failure::Refused(format!(
        "the specs in {} have {} problems:\n  {}",
        root.display(),
        problems.len(),
        problems.join("\n  ")
    ))
}

fn ignored(directory: &Directory) -> Result<Vec<String>> {
    let path = match &directory.specignore {
        Some(path) => path.clone(),
        None => directory.specdir.join(IGNORE),
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(patterns(&text)),
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound && directory.specignore.is_none() =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn patterns(text: &str) -> Vec<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// As in `.gitignore`: a pattern without a slash is for any depth, and a directory stands for
/// what is in it.
fn is_ignored(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| {
        let plain = pattern.trim_end_matches('/');
        let deep = match plain.contains('/') {
            true => plain.trim_start_matches('/').to_owned(),
            false => format!("**/{plain}"),
        };
        glob::matches(&deep, name) || glob::matches(&format!("{deep}/**"), name)
    })
}

/// Takes documents apart. Pure.
pub(super) fn parse(files: &[(String, String)]) -> Result<Specs, Vec<String>> {
    let mut specs = Specs::default();
    let mut configs = Vec::new();
    let mut problems = Vec::new();
    for (file, text) in files {
        for document in serde_yaml_ng::Deserializer::from_str(text) {
            let value = match Value::deserialize(document) {
                Ok(Value::Null) => continue,
                Ok(value) => value,
                Err(error) => {
                    problems.push(format!("{file}: {error}"));
                    // The rest of a file that is no YAML is no YAML either.
                    break;
                }
            };
            if let Err(problem) = take(&mut specs, &mut configs, file, value) {
                problems.push(format!("{file}: {problem}"));
            }
        }
    }
    match configs.len() {
        0 => problems.push(format!(
            "no DeploymentConfig: `farplane spec init` writes {CONFIG}"
        )),
        1 => {}
        several => problems.push(format!("{several} DeploymentConfigs; there may be one")),
    }
    specs.config = configs.into_iter().next().unwrap_or_default();
    specs.objects.sort_by_key(|object| object.kind.rank());
    match problems.is_empty() {
        true => Ok(specs),
        false => Err(problems),
    }
}

fn take(
    specs: &mut Specs,
    configs: &mut Vec<DeploymentConfig>,
    file: &str,
    value: Value,
) -> Result<(), String> {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let (kind, version) = (text("kind"), text("apiVersion"));
    if version != format!("{GROUP}/{VERSION}") {
        return Err(format!(
            "a {kind} of {version:?} is no kind of functions; apply it by kubectl"
        ));
    }
    match kind.as_str() {
        "DeploymentConfig" => {
            let config: DeploymentConfig = of(&kind, value)?;
            if config.uid.is_empty() {
                return Err("the DeploymentConfig has no uid".to_owned());
            }
            configs.push(config);
        }
        "ArchiveUploadSpec" => {
            let archive: ArchiveSpec = of(&kind, value)?;
            let name = archive.name.clone();
            if specs.archives.insert(name.clone(), archive).is_some() {
                return Err(format!("archive {name} is described twice"));
            }
        }
        _ => specs.objects.push(object(&kind, file, &value)?),
    }
    Ok(())
}

fn of<T: for<'a> Deserialize<'a>>(kind: &str, value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| format!("{kind}: {error}"))
}

fn object(kind: &str, file: &str, value: &Value) -> Result<SpecObject, String> {
    let known = SpecKind::of(kind).ok_or_else(|| match kind {
        "WorkflowRun" => "a WorkflowRun is made once; make it by kubectl".to_owned(),
        "" => "a document without a kind".to_owned(),
        _ => format!("{kind} is no kind that specs may have"),
    })?;
    let metadata = &value["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() {
        return Err(format!("a {kind} without a name"));
    }
    let map = |key: &str| -> Result<BTreeMap<String, String>, String> {
        match &metadata[key] {
            Value::Null => Ok(BTreeMap::new()),
            map => serde_json::from_value(map.clone())
                .map_err(|error| format!("{kind} {name}: metadata.{key}: {error}")),
        }
    };
    let spec = value["spec"].clone();
    // Found out here and not by the third object that the cluster is given.
    known
        .normal(&spec)
        .map_err(|error| format!("{kind} {name}: spec: {error}"))?;
    Ok(SpecObject {
        kind: known,
        namespace: metadata["namespace"]
            .as_str()
            .filter(|namespace| !namespace.is_empty())
            .map(str::to_owned),
        labels: map("labels")?,
        annotations: map("annotations")?,
        spec,
        file: file.to_owned(),
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(in crate::functions::spec) const CONFIG_TEXT: &str =
        "apiVersion: fission.io/v1\nkind: DeploymentConfig\nname: shop\nuid: u1\n";

    fn files(texts: &[&str]) -> Vec<(String, String)> {
        let named = texts.iter().enumerate();
        named
            .map(|(index, text)| (format!("{index}.yaml"), (*text).to_owned()))
            .collect()
    }

    #[test]
    fn a_directory_as_fission_writes_it_is_read_in_the_order_of_application() {
        let all = files(&[
            CONFIG_TEXT,
            "# made by hand\napiVersion: fission.io/v1\nkind: Function\nmetadata:\n  creationTimestamp: null\n  name: hello\n  namespace: default\n\
             spec:\n  InvokeStrategy:\n    ExecutionStrategy:\n      ExecutorType: poolmgr\n    StrategyType: execution\n\
             \x20 environment:\n    name: python\n    namespace: default\n  configmaps: null\n\
             ---\ninclude:\n- hello.py\nkind: ArchiveUploadSpec\napiVersion: fission.io/v1\nname: hello-py\n\
             ---\napiVersion: fission.io/v1\nkind: Package\nmetadata: {name: hello-1}\n\
             spec: {deployment: {checksum: {}, type: url, url: 'archive://hello-py'}, environment: {name: python}, source: {checksum: {}}}\n\
             status: {buildstatus: succeeded}\n",
        ]);
        let specs = parse(&all).unwrap();
        assert_eq!(specs.config.uid, "u1");
        assert_eq!(specs.archives["hello-py"].include, ["hello.py"]);
        let order: Vec<String> = specs.objects.iter().map(SpecObject::what).collect();
        assert_eq!(order, ["package hello-1", "function hello"]);
        assert_eq!(specs.objects[1].namespace.as_deref(), Some("default"));
        assert_eq!(specs.objects[0].namespace, None);
    }

    #[test]
    fn every_problem_is_told_with_its_file() {
        let all = files(&[
            "a: [",
            "apiVersion: v1\nkind: ConfigMap\n",
            "apiVersion: fission.io/v1\nkind: WorkflowRun\nmetadata: {name: w}\n",
            "apiVersion: fission.io/v1\nkind: Environment\nmetadata: {name: e}\nspec: {version: x}\n",
            "apiVersion: fission.io/v1\nkind: Function\nmetadata: {}\n",
        ]);
        let problems = parse(&all).unwrap_err();
        let text = problems.join("\n");
        for expected in [
            "0.yaml: ",
            "1.yaml: a ConfigMap of \"v1\" is no kind of functions; apply it by kubectl",
            "2.yaml: a WorkflowRun is made once; make it by kubectl",
            "3.yaml: Environment e: spec: ",
            "4.yaml: a Function without a name",
            "no DeploymentConfig",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        let twice = files(&[CONFIG_TEXT, CONFIG_TEXT]);
        assert!(parse(&twice).unwrap_err()[0].contains("2 DeploymentConfigs"));
    }

    #[test]
    fn what_is_ignored_is_told_as_to_git() {
        let patterns = patterns("# no\n\ndraft*\nold/\n/a/b.yaml\n");
        for name in [
            "draft.yaml",
            "x/draft-1.yaml",
            "old/x.yaml",
            "y/old/z.yaml",
            "a/b.yaml",
        ] {
            assert!(is_ignored(&patterns, name), "{name}");
        }
        for name in ["fn.yaml", "x/a/b.yaml", "older.yaml"] {
            assert!(!is_ignored(&patterns, name), "{name}");
        }
    }
}
