//! `farplane functions install`
//!
//! Renders the chart, applies it, and waits for its Deployments. Repeating it brings the
//! platform up to date and keeps where archives are.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use farplane_embedded::chart::{Chart, Identity, Rendered};
use farplane_embedded::lateness;
use farplane_functions_types::names;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use super::images::{self, Images};
use super::place::InCluster;
use super::platform;
use crate::App;
use crate::engine;
use crate::failure::Failure;
use crate::time;
use crate::wait::{self, Board, Goal, State, Step, Verdict};

const AFTER: &str = "\
Examples:
  farplane functions install --cluster first --org demo
  farplane functions install --kubeconfig ~/.kube/config --registry registry.example.org/farplane --replicas 2
Then:
  farplane fn create hello --env python --code hello.py --cluster first --org demo";
/// Directory of a node for what is kept, where no storage class is the default one.
const HOST_PATH: &str = "/var/lib/farplane-functions";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Oldest Kubernetes with everything that the chart uses.
const OLDEST_MINOR: u32 = 32;

/// Where to, and with what.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    at: InCluster,
    /// Image of the platform; the distribution's when left out
    #[arg(long, value_name = "REFERENCE")]
    image: Option<String>,
    /// Registry that the distribution's images were pushed to, for clusters whose nodes do not
    /// get them from a hub
    #[arg(long, value_name = "HOST/PATH")]
    registry: Option<String>,
    /// Replicas of router, executor and controllers
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=9))]
    replicas: u32,
    /// File with more values for the chart; may be repeated, later ones win
    #[arg(long = "values", value_name = "PATH")]
    values: Vec<PathBuf>,
    /// Directory of the distribution; that of this program when left out
    #[arg(long, value_name = "DIR")]
    dist: Option<PathBuf>,
    /// Directory of the chart; the one beside the distribution when left out
    #[arg(long, value_name = "DIR")]
    chart: Option<PathBuf>,
    /// How long to wait at most
    #[arg(long, default_value = "5m", value_parser = time::parse, value_name = "DURATION")]
    timeout: Duration,
}

/// Installs it and waits until it works.
pub(crate) async fn run(app: &App, args: InstallArgs) -> Result<()> {
    let client = args.at.connect(app).await?;
    new_enough(&client).await?;
    let dist = args.dist.clone().unwrap_or_else(engine::default_dist);
    let images = images(&dist, args.image.as_deref(), args.registry.as_deref())?;
    let board = Board::new(&app.out);
    let started = Instant::now();
    board.show(&step("chart", "applying the platform's manifests"));
    let storage = storage(&client).await?;
    let values = values(&images, &storage, args.replicas);
    let rendered = render(&args, &dist, &values).await?;
    apply(&client, &rendered).await?;
    board.show(&Step::new("chart", State::Done(Some(started.elapsed()))));
    drop(board);
    wait_ready(app, &args, client.clone(), &rendered).await?;
    report(app, &args, &images)
}

fn step(name: &str, words: &str) -> Step {
    Step::new(name, State::Working(words.to_owned()))
}

/// The images of the distribution, in another registry when one is named; with another image
/// for the platform when that is named.
fn images(dist: &Path, image: Option<&str>, registry: Option<&str>) -> Result<Images> {
    let mut images = match (images::of(dist), image) {
        (Ok(images), _) => images,
        (Err(_), Some(_)) => Images::default(),
        (Err(error), None) => return Err(error),
    };
    if let Some(registry) = registry {
        images.move_to(registry);
    }
    if let Some(image) = image {
        image.clone_into(&mut images.functions);
    }
    if images.functions.is_empty() {
        return Err(Failure::Refused(
            "the distribution has no image of the functions platform: run `make build`, or name one by --image".to_owned(),
        )
        .into());
    }
    Ok(images)
}

async fn new_enough(client: &Client) -> Result<()> {
    let version = client
        .apiserver_version()
        .await
        .map_err(|error| platform::about("read", "version of the cluster", "").explain(error))?;
    let digits: String = version
        .minor
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    match digits.parse::<u32>() {
        Ok(minor) if version.major == "1" && minor < OLDEST_MINOR => {
            Err(Failure::Refused(format!(
                "the cluster has Kubernetes {}.{}; functions need 1.{OLDEST_MINOR} or later",
                version.major, version.minor
            ))
            .into())
        }
        _ => Ok(()),
    }
}

/// Where archives are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Storage {
    /// In a volume of a class; the default one when empty.
    Claim(String),
    /// In a directory of a node.
    Directory { path: String, node: String },
}

async fn storage(client: &Client) -> Result<Storage> {
    let api = Api::<Deployment>::namespaced(client.clone(), names::NAMESPACE);
    let existing = api
        .get_opt("storagesvc")
        .await
        .map_err(|error| platform::about("read", "Deployment", "storagesvc").explain(error))?;
    let classes = Api::<StorageClass>::all(client.clone())
        .list(&ListParams::default())
        .await
        .map_err(|error| platform::about("list", "storage class", "").explain(error))?;
    let nodes = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await
        .map_err(|error| platform::about("list", "node", "").explain(error))?;
    Ok(choose(existing.as_ref(), &classes.items, &nodes.items)?)
}

/// Archives stay where they are; else a volume, where a class is the default one; else a
/// directory of a node that takes Pods.
fn choose(
    existing: Option<&Deployment>,
    classes: &[StorageClass],
    nodes: &[Node],
) -> Result<Storage, Failure> {
    if let Some(kept) = existing.and_then(current) {
        return Ok(kept);
    }
    let default = |class: &&StorageClass| {
        let value = class.annotations().get(DEFAULT_CLASS);
        value.map(String::as_str) == Some("true")
    };
    if classes.iter().any(|class| default(&class)) {
        return Ok(Storage::Claim(String::new()));
    }
    let mut names: Vec<&str> = nodes.iter().filter_map(usable).collect();
    names.sort_unstable();
    match names.first() {
        Some(node) => Ok(Storage::Directory {
            path: HOST_PATH.to_owned(),
            node: (*node).to_owned(),
        }),
        None if nodes.is_empty() => Err(Failure::NotReady(
            "the cluster has no node: functions need one to run on".to_owned(),
        )),
        None => Err(Failure::NotReady(
            "no node of the cluster is ready and takes Pods; `kubectl get nodes` tells more"
                .to_owned(),
        )),
    }
}

/// Where the archives of an installation are.
fn current(deployment: &Deployment) -> Option<Storage> {
    let pod = deployment.spec.template.spec.as_ref()?;
    let volumes = pod.volumes.iter().flatten();
    for volume in volumes {
        if let Some(host_path) = &volume.host_path {
            let node = pod.node_selector.as_ref()?.get(HOSTNAME)?.clone();
            let path = host_path.path.strip_suffix("/archives")?.to_owned();
            return Some(Storage::Directory { path, node });
        }
        if volume.persistent_volume_claim.is_some() {
            return Some(Storage::Claim(String::new()));
        }
    }
    None
}

/// The host name of a node that is ready and takes Pods.
fn usable(node: &Node) -> Option<&str> {
    let spec = node.spec.as_ref();
    let closed = spec.is_some_and(|spec| {
        let taints = spec.taints.iter().flatten();
        spec.unschedulable == Some(true)
            || taints
                .into_iter()
                .any(|taint| taint.effect != "PreferNoSchedule")
    });
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .any(|one| one.type_ == "Ready" && one.status == "True");
    let name = node.metadata.labels.as_ref()?.get(HOSTNAME)?;
    (ready && !closed).then_some(name.as_str())
}

fn values(images: &Images, storage: &Storage, replicas: u32) -> Value {
    let environments: Vec<Value> = images
        .environments
        .iter()
        .map(|(name, entry)| {
            json!({
                "name": name, "image": entry.image,
                "builder": entry.builder, "version": entry.version,
            })
        })
        .collect();
    let volumes = match storage {
        Storage::Claim(class) => json!({ "storageClass": class }),
        Storage::Directory { path, node } => json!({ "hostPath": path, "node": node }),
    };
    json!({
        "images": { "functions": images.functions },
        "environments": environments,
        "volumes": volumes,
        "router": { "replicas": replicas },
        "executor": { "replicas": replicas },
        "controllers": { "replicas": replicas },
    })
}

async fn render(args: &InstallArgs, dist: &Path, values: &Value) -> Result<Rendered> {
    let inside = dist.join("charts/functions");
    let beside = dist.parent().map(|parent| parent.join("charts/functions"));
    let found = beside.filter(|_| !inside.is_dir()).unwrap_or(inside);
    let chart = args.chart.clone().unwrap_or(found);
    if !chart.join("Chart.yaml").is_file() {
        let words = format!(
            "there is no chart in {}: name its directory by --chart",
            chart.display()
        );
        return Err(Failure::NotFound(words).into());
    }
    let mut own = tempfile::NamedTempFile::new().context("make a file for the chart's values")?;
    own.write_all(values.to_string().as_bytes())
        .context("write the chart's values")?;
    let mut files = vec![own.path().to_owned()];
    files.extend_from_slice(&args.values);
    let chart = Chart {
        helm: &dist.join("bin/helm"),
        chart: &chart,
        release: "fission",
        namespace: names::NAMESPACE,
        values: &files,
    };
    Ok(chart.render().await?)
}

/// Applies a rendering and deletes what the last one had more.
async fn apply(client: &Client, rendered: &Rendered) -> Result<()> {
    let before = platform::applied(client).await?.unwrap_or_default();
    rendered.apply(client, platform::FIELD_MANAGER).await?;
    let now = rendered.identities();
    let mut all: Vec<Identity> = before.clone();
    all.extend(now.iter().filter(|one| !before.contains(one)).cloned());
    platform::record(client, &all).await?;
    rendered.prune(client, &before).await?;
    platform::record(client, &now).await
}

async fn wait_ready(
    app: &App,
    args: &InstallArgs,
    client: Client,
    rendered: &Rendered,
) -> Result<()> {
    let goal = Goal {
        what: "the function platform to be ready".to_owned(),
        look: args.at.command("functions status"),
        timeout: args.timeout,
        out: &app.out,
    };
    let wanted: Vec<String> = rendered
        .deployments()
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    let started = Instant::now();
    let done: std::cell::RefCell<BTreeMap<String, Duration>> = Default::default();
    wait::poll(goal, async || {
        let pods = platform::pods(&client).await?;
        let deployments = platform::deployments(&client).await?;
        let mut ready = true;
        let mut steps = Vec::new();
        for name in &wanted {
            let found = deployments.iter().find(|one| one.name_any() == *name);
            let late = match found {
                Some(one) => lateness(one, &platform::pods_of(&pods, name)),
                None => Some("has been deleted meanwhile".to_owned()),
            };
            ready &= late.is_none();
            steps.push(Step::new(
                name.clone(),
                match late {
                    Some(words) => State::Waiting(words),
                    None => {
                        let mut done = done.borrow_mut();
                        State::Done(Some(
                            *done
                                .entry(name.clone())
                                .or_insert_with(|| started.elapsed()),
                        ))
                    }
                },
            ));
        }
        Ok(if ready {
            Verdict::Done(steps)
        } else {
            Verdict::Going(steps)
        })
    })
    .await
}

fn report(app: &App, args: &InstallArgs, images: &Images) -> Result<()> {
    let languages: Vec<&str> = images.environments.keys().map(String::as_str).collect();
    let value = json!({
        "namespace": names::NAMESPACE, "image": images.functions, "environments": images.environments,
    });
    if app.out.format != crate::arguments::Format::Table {
        app.out
            .value(&value, |_| format!("{}\n", names::NAMESPACE))?;
    }
    app.out.say("functions are ready");
    let first = languages.first().copied().unwrap_or("ENVIRONMENT");
    if !languages.is_empty() {
        app.out
            .say(format_args!("languages: {}", languages.join(", ")));
    }
    let language = if languages.contains(&"python") {
        "python"
    } else {
        first
    };
    app.out.say(format_args!(
        "`{}` makes the first one",
        args.at
            .command(&format!("fn create hello --env {language} --code FILE"))
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ready: &str, unschedulable: bool) -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { HOSTNAME: name } },
            "spec": { "unschedulable": unschedulable },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        }))
        .unwrap()
    }

    fn class(default: &str) -> StorageClass {
        serde_json::from_value(json!({
            "metadata": { "name": "a", "annotations": { DEFAULT_CLASS: default } }, "provisioner": "p",
        }))
        .unwrap()
    }

    fn directory(node: &str) -> Storage {
        Storage::Directory {
            path: HOST_PATH.into(),
            node: node.into(),
        }
    }

    #[test]
    fn a_default_class_gives_a_volume_and_its_absence_a_directory_of_a_ready_node() {
        let nodes = [
            node("c", "True", false),
            node("a", "False", false),
            node("b", "True", false),
        ];
        assert_eq!(
            choose(None, &[class("true")], &nodes).unwrap(),
            Storage::Claim(String::new())
        );
        assert_eq!(
            choose(None, &[class("false")], &nodes).unwrap(),
            directory("b")
        );
        let closed = [node("a", "True", true)];
        assert!(
            choose(None, &[], &closed)
                .unwrap_err()
                .to_string()
                .contains("takes Pods")
        );
        assert!(
            choose(None, &[], &[])
                .unwrap_err()
                .to_string()
                .contains("no node")
        );
    }

    #[test]
    fn archives_stay_where_they_are() {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {}, "spec": { "selector": {}, "template": { "spec": {
                "containers": [], "nodeSelector": { HOSTNAME: "z" },
                "volumes": [{ "name": "archives", "hostPath": { "path": "/data/archives" } }],
            } } },
        }))
        .unwrap();
        let kept = choose(Some(&deployment), &[class("true")], &[]).unwrap();
        assert_eq!(
            kept,
            Storage::Directory {
                path: "/data".into(),
                node: "z".into()
            }
        );
    }
}
