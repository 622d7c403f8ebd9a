//! `farplane up`: from whatever state the hub is in to a running one.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use farplane_supervise::ProcessId;
use serde_json::Value;
use tokio::process::Command;

use crate::chart::Rendered;
use crate::error::Error;
use crate::files::{Files, tail};
use crate::images::{Index, Store};
use crate::manifests::{self, Manifests};
use crate::record::{Lock, Record};
use crate::rollout::{wait_deployments, wait_node};
use crate::status::{self, Published};
use crate::{Event, HubInfo, Progress, UpOptions};
use crate::{anchor, api, cgroup, doctor, down, network, registry, supervisor};

/// How long all processes together may take to become ready.
const PROCESSES_TIMEOUT: Duration = Duration::from_secs(120);
/// How long requests may fail while the API server comes back from a restart.
const API_PATIENCE: Duration = Duration::from_secs(30);
const DEFAULT_DOMAIN: &str = "farplane.internal";
/// The gateway's port at the hub.
const GATEWAY_PORT: u16 = 8443;

/// Brings the hub up and waits until it works. Repeating it changes nothing.
///
/// # Errors
/// The first step that fails; what was done stays and the next call goes on from there.
pub async fn up(options: &UpOptions, progress: &dyn Fn(Event)) -> Result<HubInfo, Error> {
    let options = absolute(options)?;
    doctor::preflight(&options)?;
    let index = Index::load(&options.dist)?;
    let files = Files::new(&options.state_dir);
    let _lock = Lock::take(&files.state, true, || {
        progress(Event::Waiting {
            name: "lock".to_owned(),
            for_what: "another command on this hub".to_owned(),
        });
    })
    .await?;
    files.make_dirs()?;
    let mut record = prepare(&options, &files).await?;
    if !runs(&record, &files, &options) {
        start(&mut record, &files, &options, progress).await?;
    }
    serve(&record, &files, &options, &index, progress).await?;
    Ok(info(&record, &files))
}

/// Paths that mean the same in every process.
fn absolute(options: &UpOptions) -> Result<UpOptions, Error> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(Error::file("find", path));
    Ok(UpOptions {
        dist: absolute(&options.dist)?,
        chart: absolute(&options.chart)?,
        state_dir: absolute(&options.state_dir)?,
        values: options
            .values
            .iter()
            .map(|path| absolute(path))
            .collect::<Result<_, _>>()?,
        ..options.clone()
    })
}

pub(crate) fn info(record: &Record, files: &Files) -> HubInfo {
    let address = IpAddr::V4(record.hub_address());
    HubInfo {
        name: record.name.clone(),
        kubeconfig: files.kubeconfig(),
        gateway_address: (address, GATEWAY_PORT).into(),
        node_address: address,
        hub_domain: record.hub_domain.clone(),
    }
}

/// The record, made at the first call: chooses the hub's addresses.
async fn prepare(options: &UpOptions, files: &Files) -> Result<Record, Error> {
    let hub_domain = hub_domain(&options.values)?;
    if let Some(mut record) = Record::load(files)? {
        record.hub_domain = hub_domain;
        // An `up` that was interrupted may have begun one without saying so.
        let published = Published::load(files).map(|published| published.supervisor);
        if let Some(running) = published.filter(|supervisor| supervisor.is_alive()) {
            record.supervisor = Some(running);
        }
        return Ok(record);
    }
    doctor::enough_space(&files.state)?;
    // Two new hubs must not choose the same range.
    let parent = files.state.parent().unwrap_or(&files.state);
    let _lock = Lock::take(parent, false, || {}).await?;
    let record = Record {
        name: options.name.clone(),
        range: network::choose_range(&options.name, files).await?,
        dist: options.dist.clone(),
        listen: options.listen,
        hub_domain,
        anchor: None,
        supervisor: None,
        anchored_at: 0,
        fingerprint: String::new(),
    };
    record.save(files)?;
    Ok(record)
}

/// The domain that the last of the values files names.
fn hub_domain(values: &[PathBuf]) -> Result<String, Error> {
    let mut domain = DEFAULT_DOMAIN.to_owned();
    for path in values {
        let text = std::fs::read(path).map_err(Error::file("read", path))?;
        let value: Value =
            serde_yaml_ng::from_slice(&text).map_err(|source| Error::Manifest { source })?;
        if let Some(named) = value["hubDomain"].as_str() {
            named.clone_into(&mut domain);
        }
    }
    Ok(domain)
}

/// True when supervisor and namespaces are there and made from what is wanted now.
fn runs(record: &Record, files: &Files, options: &UpOptions) -> bool {
    let alive = |process: Option<ProcessId>| process.is_some_and(ProcessId::is_alive);
    alive(record.anchor)
        && alive(record.supervisor)
        && record.fingerprint == fingerprint(options)
        && Published::load(files)
            .is_some_and(|published| Some(published.supervisor) == record.supervisor)
}

/// Names what the processes are made from: a changed program or address means that they
/// have to be started anew.
fn fingerprint(options: &UpOptions) -> String {
    let mut parts = vec![
        format!("{:?}", options.listen),
        options.dist.display().to_string(),
    ];
    let programs = doctor::PROGRAMS
        .iter()
        .map(|name| options.dist.join("bin").join(name));
    for path in programs.chain(std::env::current_exe()) {
        let real = path.canonicalize().unwrap_or(path);
        let size = real.metadata().map_or(0, |meta| meta.len());
        let time = real.metadata().and_then(|meta| meta.modified()).ok();
        parts.push(format!("{} {size} {time:?}", real.display()));
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    farplane_types::names::digest_id(&parts)
}

async fn start(
    record: &mut Record,
    files: &Files,
    options: &UpOptions,
    progress: Progress<'_>,
) -> Result<(), Error> {
    doctor::enough_space(&files.state)?;
    let wanted = fingerprint(options);
    let stopped = !record.supervisor.is_some_and(ProcessId::is_alive);
    if let Some(address) = options.listen
        && (stopped || record.listen != options.listen)
    {
        // Found out before anything that works is stopped.
        drop(supervisor::listen(address)?);
    }
    if record.fingerprint != wanted
        && let Some(old) = record.supervisor.filter(|old| old.is_alive())
    {
        let step = Step::begin(
            progress,
            "old processes",
            "stopping those of another distribution",
        );
        down::stop_supervisor(old).await;
        step.done();
    }
    let step = Step::begin(progress, "network", "making the hub's network namespace");
    network::ensure(record, files).await?;
    cgroup::ensure(&record.name)?;
    anchor::ensure(record, files).await?;
    step.done();
    record.dist.clone_from(&options.dist);
    record.listen = options.listen;
    record.fingerprint = wanted;
    record.save(files)?;
    if let Some(running) = record.supervisor.filter(|one| one.is_alive()) {
        // It has not published its state yet: an interrupted `up` began it.
        return wait_published(running, files).await;
    }
    let supervisor = spawn_supervisor(record, files)?;
    record.supervisor = Some(supervisor);
    record.save(files)?;
    wait_published(supervisor, files).await
}

/// Starts the supervisor in the hub's mount namespace, in a session of its own. It
/// enters the network namespace itself, after it listens at the machine's address.
fn spawn_supervisor(record: &Record, files: &Files) -> Result<ProcessId, Error> {
    let failed = |source| Error::StartProgram {
        program: "the hub's supervisor".to_owned(),
        source,
    };
    let program = std::env::current_exe().map_err(failed)?;
    let anchor = record.anchor.ok_or_else(|| Error::Namespaces {
        message: "the anchor does not run".to_owned(),
    })?;
    let members = cgroup::members_file(&record.name).unwrap_or_else(|| "/dev/null".into());
    let path = files.supervisor_log();
    let log = std::fs::File::create(&path).map_err(Error::file("make", &path))?;
    let errors = log.try_clone().map_err(Error::file("open", &path))?;
    let child = Command::new("setsid")
        .arg("nsenter")
        .arg(anchor::enter_mounts(anchor))
        .args(["sh", "-c", "echo $$ >\"$0\"; exec \"$@\""])
        .arg(members)
        .arg(program)
        .args([
            "internal",
            "hub-supervisor",
            "--name",
            record.name.as_str(),
            "--state-dir",
        ])
        .arg(&files.state)
        .arg("--dist")
        .arg(&record.dist)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(failed)?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    pid.and_then(ProcessId::of)
        .ok_or_else(|| Error::SupervisorEnded {
            message: tail(&path, 3),
            log: path.clone(),
        })
}

async fn wait_published(supervisor: ProcessId, files: &Files) -> Result<(), Error> {
    loop {
        match Published::load(files) {
            Some(published) if published.supervisor == supervisor => return Ok(()),
            _ if !supervisor.is_alive() => return Err(supervisor_ended(files)),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn supervisor_ended(files: &Files) -> Error {
    let log = files.supervisor_log();
    let message = match tail(&log, 1) {
        empty if empty.is_empty() => "it said nothing".to_owned(),
        message => message,
    };
    Error::SupervisorEnded { message, log }
}

/// Processes, images and chart: everything after the supervisor runs.
async fn serve(
    record: &Record,
    files: &Files,
    options: &UpOptions,
    index: &Index,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let chart = Manifests {
        dist: &options.dist,
        chart: &options.chart,
        values: &options.values,
        record,
        files,
    };
    registry::bring(&options.dist, files)?;
    let store = Store::new(&options.dist, files);
    let processes = wait_processes(record, files, None, progress);
    let images = async {
        wait_processes(record, files, Some("containerd"), &|_| ()).await?;
        store.import(index, progress).await
    };
    let ((), imported, rendered) = tokio::try_join!(processes, images, chart.render(index))?;
    let started = Instant::now();
    loop {
        match settle(record, files, &rendered, progress).await {
            Err(error) if error.is_transient() && started.elapsed() < API_PATIENCE => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                wait_processes(record, files, None, progress).await?;
            }
            other => break other?,
        }
    }
    if imported > 0 {
        store.remove_stale(index).await?;
    }
    Ok(())
}

/// Applies the chart and waits until it works.
async fn settle(
    record: &Record,
    files: &Files,
    rendered: &Rendered,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let client = api::client(&files.kubeconfig(), None).await?;
    if !manifests::is_applied(rendered, files) {
        let step = Step::begin(progress, "chart", "applying the hub's manifests");
        manifests::apply(rendered, &client, files).await?;
        step.done();
    }
    wait_node(&client, progress).await?;
    let step = Step::begin(progress, "services", "waiting for controllers and gateway");
    wait_deployments(
        &client,
        &rendered.deployments(),
        record.anchored_at,
        progress,
    )
    .await?;
    step.done();
    Ok(())
}

/// Until one process, or every one, is ready.
async fn wait_processes(
    record: &Record,
    files: &Files,
    only: Option<&str>,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let step = Step::begin(
        progress,
        "processes",
        "starting etcd, containerd and Kubernetes",
    );
    let started = Instant::now();
    let mut told = Vec::new();
    loop {
        let published = Published::load(files);
        let late = match &published {
            Some(published) => published.late(only),
            None => vec!["the supervisor".to_owned()],
        };
        if late.is_empty() {
            step.done();
            return Ok(());
        }
        if !record.supervisor.is_some_and(ProcessId::is_alive) {
            return Err(supervisor_ended(files));
        }
        if started.elapsed() > PROCESSES_TIMEOUT {
            return Err(Error::TimedOut {
                what: "starting the hub's processes".to_owned(),
                seconds: PROCESSES_TIMEOUT.as_secs(),
                state: status::explain(files, &late),
            });
        }
        if told != late {
            progress(Event::Waiting {
                name: "processes".to_owned(),
                for_what: late.join(", "),
            });
            told = late;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Tells the begin and the end of a step.
pub(crate) struct Step<'a> {
    name: &'static str,
    started: Instant,
    progress: Progress<'a>,
}

impl<'a> Step<'a> {
    pub fn begin(progress: Progress<'a>, name: &'static str, message: &str) -> Self {
        progress(Event::Phase {
            name: name.to_owned(),
            message: message.to_owned(),
        });
        Self {
            name,
            started: Instant::now(),
            progress,
        }
    }

    pub fn done(self) {
        (self.progress)(Event::Done {
            name: self.name.to_owned(),
            elapsed: self.started.elapsed(),
        });
    }
}
