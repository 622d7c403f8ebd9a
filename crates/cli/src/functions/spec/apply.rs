//! `farplane spec apply`
//!
//! Kind after kind, so that what others refer to exists before they do. Functions follow a
//! package only when it was written: what is as it was is left alone.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use farplane_functions_types::package::{Archive, Checksum, MAX_LITERAL_BYTES};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde::Serialize;
use serde_json::Value;

use super::check::{self, ARCHIVE};
use super::files::{self, SpecObject, Specs};
use super::kinds::{ALL, SpecKind};
use super::live::{self, Live};
use super::plan::{self, Step};
use super::{Directory, archives};
use crate::App;
use crate::arguments::Format;
use crate::failure::Failure;
use crate::functions::place::InNamespace;
use crate::functions::{explain, facts, storage};
use crate::objects::{self, FIELD_MANAGER};
use crate::time;
use crate::wait::{self, Goal, Verdict};

const AFTER: &str = "\
Examples:
  farplane spec apply --wait
  farplane spec apply --dry-run
  farplane spec apply --delete --specdir deploy -n shop";

/// What is applied, and how.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    at: InNamespace,
    #[command(flatten)]
    directory: Directory,
    /// Delete what earlier specs made and these do not name
    #[arg(long)]
    delete: bool,
    /// Wait until packages are built and functions can be called
    #[arg(long)]
    wait: bool,
    /// How long to wait at most
    #[arg(long, default_value = "10m", value_parser = time::parse, value_name = "DURATION", requires = "wait")]
    wait_timeout: Duration,
    /// Tell what would be done, and do nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Take over objects that other specs, or people, made
    #[arg(long, alias = "allowconflicts")]
    allow_conflicts: bool,
    /// Put everything into --namespace, whatever the specs say
    #[arg(long)]
    force_namespace: bool,
}

/// What was done with an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Done {
    kind: &'static str,
    namespace: String,
    name: String,
    action: &'static str,
}

/// Applies it.
pub(crate) async fn run(app: &App, args: ApplyArgs) -> Result<()> {
    let mut specs = files::read(&args.directory)?;
    if args.force_namespace {
        for object in &mut specs.objects {
            object.namespace = None;
        }
    }
    let report = check::check(&specs, &args.at.namespace);
    for warning in &report.warnings {
        app.out.say(format_args!("warning: {warning}"));
    }
    if !report.errors.is_empty() {
        return Err(files::refused(&args.directory.specdir, &report.errors).into());
    }
    let packed = pack(&args, &specs)?;
    let client = args.at.connect(app).await?;
    let mut work = Work {
        app,
        args: &args,
        client: &client,
        specs: &specs,
        packed,
        uploaded: BTreeMap::new(),
        written: BTreeMap::new(),
        done: Vec::new(),
    };
    for kind in &ALL {
        work.kind(kind).await?;
    }
    if args.delete {
        work.delete().await?;
    }
    let done = work.done;
    report_all(app, &args, &done)?;
    match args.wait {
        true => wait_all(app, &args, &client, &specs).await,
        false => Ok(()),
    }
}

/// The bytes of every archive.
fn pack(args: &ApplyArgs, specs: &Specs) -> Result<BTreeMap<String, Vec<u8>>> {
    let specdir = &args.directory.specdir;
    let packed = specs
        .archives
        .iter()
        .map(|(name, spec)| Ok((name.clone(), archives::pack(spec, specdir)?)));
    packed.collect()
}

fn report_all(app: &App, args: &ApplyArgs, done: &[Done]) -> Result<()> {
    if app.out.format != Format::Table {
        let names: String = done.iter().map(|one| format!("{}\n", one.name)).collect();
        app.out.value(&done, |_| names)?;
    }
    if args.dry_run {
        app.out.say("(dry run - no changes made)");
        return Ok(());
    }
    let changed = done.iter().filter(|one| one.action != "unchanged").count();
    app.out.say(match (changed, done.len()) {
        (0, all) => format!("all {all} objects are as they should be"),
        (changed, all) => format!("{changed} of {all} objects were changed"),
    });
    Ok(())
}

/// An application under way.
struct Work<'a> {
    app: &'a App,
    args: &'a ApplyArgs,
    client: &'a Client,
    specs: &'a Specs,
    packed: BTreeMap<String, Vec<u8>>,
    /// Archives that are in the cluster already, by namespace and digest.
    uploaded: BTreeMap<(String, String), Archive>,
    /// Versions of packages that were written, by namespace and name; none in a dry run.
    written: BTreeMap<(String, String), Option<String>>,
    done: Vec<Done>,
}

impl Work<'_> {
    async fn kind(&mut self, kind: &'static SpecKind) -> Result<()> {
        let specs = self.specs;
        let wanted: Vec<&SpecObject> = specs
            .objects
            .iter()
            .filter(|object| object.kind.kind == kind.kind)
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut existing = BTreeMap::new();
        for object in live::all(self.client, kind).await? {
            let value = serde_json::to_value(&object).context("read an object")?;
            let key = (object.namespace().unwrap_or_default(), object.name_any());
            existing.insert(key, value);
        }
        if kind.kind == "Package" {
            self.uploaded = uploaded(existing.values());
        }
        for object in wanted {
            let namespace = self.namespace(object);
            let live = existing.get(&(namespace.clone(), object.name.clone()));
            let spec = self.spec(object, &namespace, live).await?;
            let step = plan::plan(
                object,
                &spec,
                &namespace,
                live,
                &specs.config,
                self.args.allow_conflicts,
            )
            .with_context(|| format!("compare {}", object.what()))?;
            self.take(object, namespace, step).await?;
        }
        Ok(())
    }

    fn namespace(&self, object: &SpecObject) -> String {
        let named = object.namespace.clone();
        named.unwrap_or_else(|| self.args.at.namespace.clone())
    }

    /// The spec with archives, versions and namespaces filled in.
    async fn spec(
        &mut self,
        object: &SpecObject,
        namespace: &str,
        live: Option<&Value>,
    ) -> Result<Value> {
        let mut spec = object.spec.clone();
        if self.args.force_namespace {
            plan::move_references(&mut spec, namespace);
        }
        match object.kind.kind {
            "Package" => {
                for side in ["source", "deployment"] {
                    let url = spec[side]["url"].as_str().unwrap_or_default();
                    if let Some(name) = url.strip_prefix(ARCHIVE) {
                        let archive = self.archive(namespace, name).await?;
                        spec[side] = serde_json::to_value(archive).context("write an archive")?;
                    }
                }
                if let Some(live) = live {
                    plan::keep_built(&mut spec, live);
                }
            }
            "Function" => {
                let package = spec["package"]["packageref"]["name"].as_str();
                let key = (namespace.to_owned(), package.unwrap_or_default().to_owned());
                let written = self.written.get(&key).cloned();
                let version = written.map(|version| version.unwrap_or_else(|| "new".to_owned()));
                plan::stamp(&mut spec, live, version.as_deref());
            }
            _ => {}
        }
        Ok(spec)
    }

    /// An archive of the specs; uploaded unless the cluster has its bytes, or they fit into
    /// the object.
    async fn archive(&mut self, namespace: &str, name: &str) -> Result<Archive> {
        let bytes = self.packed.get(name).cloned().unwrap_or_default();
        let checksum = Checksum::of(&bytes);
        if bytes.len() > MAX_LITERAL_BYTES
            && let Some(known) = self
                .uploaded
                .get(&(namespace.to_owned(), checksum.sum.clone()))
        {
            return Ok(known.clone());
        }
        if bytes.len() > MAX_LITERAL_BYTES && self.args.dry_run {
            return Ok(Archive {
                kind: "url".to_owned(),
                url: format!("{ARCHIVE}{name}"),
                checksum,
                ..Archive::default()
            });
        }
        let archive = storage::archive(self.client, namespace, bytes).await?;
        if !archive.url.is_empty() {
            self.uploaded
                .insert((namespace.to_owned(), checksum.sum), archive.clone());
        }
        Ok(archive)
    }

    /// Does what was planned.
    async fn take(&mut self, object: &SpecObject, namespace: String, step: Step) -> Result<()> {
        let action = match step {
            Step::Keep => "unchanged",
            Step::Conflict(why) => {
                return Err(Failure::Refused(format!(
                    "{} in namespace {namespace} is there already, and {why}; --allow-conflicts takes it over",
                    object.what()
                ))
                .into());
            }
            Step::Create(value) => {
                self.write(object, &namespace, &value, true).await?;
                "created"
            }
            Step::Change(value) => {
                self.write(object, &namespace, &value, false).await?;
                "updated"
            }
        };
        self.tell(object.kind, namespace, object.name.clone(), action);
        Ok(())
    }

    async fn write(
        &mut self,
        object: &SpecObject,
        namespace: &str,
        value: &Value,
        create: bool,
    ) -> Result<()> {
        let key = (namespace.to_owned(), object.name.clone());
        if self.args.dry_run {
            self.written.insert(key, None);
            return Ok(());
        }
        let api = live::api(self.client, object.kind, namespace);
        let manager = Some(FIELD_MANAGER.to_owned());
        let verb = if create { "create" } else { "change" };
        let written = if create {
            let new: DynamicObject =
                serde_json::from_value(value.clone()).context("write an object")?;
            let parameters = PostParams {
                field_manager: manager,
                ..PostParams::default()
            };
            api.create(&parameters, &new).await
        } else {
            let parameters = PatchParams {
                field_manager: manager,
                ..PatchParams::default()
            };
            api.patch(&object.name, &parameters, &Patch::Merge(value))
                .await
        };
        let written = written.map_err(|error| {
            live::about(verb, object.kind, Some(namespace), &object.name).explain(error)
        })?;
        if object.kind.kind == "Package" {
            self.written.insert(key, written.resource_version());
        }
        Ok(())
    }

    /// Deletes what carries our uid and is in no file; what refers to others goes first.
    async fn delete(&mut self) -> Result<()> {
        let made = live::made(self.client, Some(&self.specs.config.uid)).await?;
        for one in made.into_iter().rev() {
            let (namespace, name) = (one.namespace(), one.object.name_any());
            if self.is_wanted(&one) {
                continue;
            }
            if !self.args.dry_run {
                live::delete(self.client, &one).await?;
            }
            self.tell(one.kind, namespace, name, "deleted");
        }
        Ok(())
    }

    fn is_wanted(&self, live: &Live) -> bool {
        let (namespace, name) = (live.namespace(), live.object.name_any());
        self.specs.objects.iter().any(|object| {
            object.kind.kind == live.kind.kind
                && object.name == name
                && self.namespace(object) == namespace
        })
    }

    fn tell(&mut self, kind: &SpecKind, namespace: String, name: String, action: &'static str) {
        if self.app.out.format == Format::Table {
            let words = match (self.args.dry_run, action) {
                (true, "unchanged") | (false, _) => action.to_owned(),
                (true, action) => format!("would be {action}"),
            };
            self.app
                .out
                .say(format_args!("{} {name}: {words}", kind.noun));
        }
        self.done.push(Done {
            kind: kind.kind,
            namespace,
            name,
            action,
        });
    }
}

/// Archives of packages that are in storage, by namespace and digest: one that another
/// namespace uploaded cannot be read.
fn uploaded<'a>(packages: impl Iterator<Item = &'a Value>) -> BTreeMap<(String, String), Archive> {
    packages
        .flat_map(|package| {
            let spec = &package["spec"];
            let namespace = package["metadata"]["namespace"]
                .as_str()
                .unwrap_or_default();
            ["source", "deployment"].map(|side| (namespace.to_owned(), spec[side].clone()))
        })
        .filter_map(|(namespace, archive)| {
            Some((namespace, serde_json::from_value::<Archive>(archive).ok()?))
        })
        .filter(|(_, archive)| !archive.url.is_empty() && !archive.checksum.is_empty())
        .map(|(namespace, archive)| ((namespace, archive.checksum.sum.clone()), archive))
        .collect()
}

/// Until every function of the specs can be called; a build that fails ends it.
async fn wait_all(app: &App, args: &ApplyArgs, client: &Client, specs: &Specs) -> Result<()> {
    let namespace = |object: &SpecObject| {
        let named = object.namespace.clone();
        named.unwrap_or_else(|| args.at.namespace.clone())
    };
    for object in &specs.objects {
        let (name, namespace) = (object.name.clone(), namespace(object));
        let at = InNamespace {
            namespace: namespace.clone(),
            at: args.at.at.clone(),
        };
        let repeat = |words: &str| at.command(words);
        let goal = Goal {
            what: format!("{} in namespace {namespace} to be ready", object.what()),
            look: at.command(&format!("fn describe {name}")),
            timeout: args.wait_timeout,
            out: &app.out,
        };
        match object.kind.kind {
            "Package" => {
                let look = async || -> Result<Verdict> {
                    let package = objects::get(client, Some(&namespace), &name).await?;
                    Ok(explain::built(&package, &repeat))
                };
                wait::poll(goal, look).await?;
            }
            "Function" => {
                wait::poll(goal, async || {
                    let facts = facts::gather(client, &namespace, &name).await?;
                    Ok(explain::callable(&facts, &repeat))
                })
                .await?;
            }
            _ => {}
        }
    }
    app.out.say(format_args!("{} is ready", specs.config.name));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn archives_in_storage_are_known_by_their_digest() {
        let packages = [
            json!({ "metadata": { "namespace": "n" }, "spec": { "source": { "url": "http://a", "checksum": { "type": "sha256", "sum": "1" } } } }),
            json!({ "spec": { "deployment": { "literal": "eA==", "checksum": { "type": "sha256", "sum": "2" } } } }),
            json!({ "spec": { "deployment": { "url": "http://c" } } }),
        ];
        let known = uploaded(packages.iter());
        let key = ("n".to_owned(), "1".to_owned());
        assert_eq!(known.keys().collect::<Vec<_>>(), [&key]);
        assert_eq!(known[&key].url, "http://a");
    }
}
