//! Hubs on this machine, from nothing to nothing.
//!
//! Needs root and a distribution: `FARPLANE_DIST=dist cargo test -p farplane-embedded`.
//! Without them it says so and passes. The test is its own supervisor program: what
//! `up` starts is this binary with the arguments of `farplane internal hub-supervisor`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use farplane_embedded::{
    Event, HubName, UpOptions, down, list, purge, status, supervisor_main, up,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

const CHART: &str = "apiVersion: v2\nname: farplane\nversion: 0.1.0\n";
const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: { name: quiet, namespace: farplane-system }
spec:
  selector: { matchLabels: { app: quiet } }
  template:
    metadata: { labels: { app: quiet } }
    spec:
      containers:
        - { name: quiet, image: {{ .Values.images.pause }}, imagePullPolicy: Never }
";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if arguments.get(1).is_some_and(|first| first == "internal") {
        return runtime.block_on(supervise(&arguments));
    }
    let Some(dist) = std::env::var_os("FARPLANE_DIST") else {
        println!("test hub ... ignored, FARPLANE_DIST is not set");
        return;
    };
    if !nix::unistd::geteuid().is_root() {
        println!("test hub ... ignored, not root");
        return;
    }
    let chart = tempfile::tempdir().unwrap();
    std::fs::create_dir(chart.path().join("templates")).unwrap();
    std::fs::write(chart.path().join("Chart.yaml"), CHART).unwrap();
    std::fs::write(chart.path().join("templates/quiet.yaml"), DEPLOYMENT).unwrap();
    let hub = Hub::new(
        &format!("t-{}", std::process::id()),
        Path::new(&dist),
        chart.path(),
    );
    runtime.block_on(hub.story());
}

async fn supervise(arguments: &[String]) {
    let value = |flag: &str| {
        let position = arguments.iter().position(|one| one == flag).unwrap();
        arguments[position + 1].clone()
    };
    let name = HubName::new(value("--name")).unwrap();
    supervisor_main(name, value("--state-dir").into(), value("--dist").into())
        .await
        .unwrap();
}

/// A hub that is purged at the end, also when the test fails.
struct Hub {
    options: UpOptions,
    before: BTreeSet<String>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        if !self.options.state_dir.exists() {
            return;
        }
        let name = self.options.name.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(purge(&name, &tell)).unwrap();
        });
        let _ = thread.join();
    }
}

fn tell(event: Event) {
    println!("    {event:?}");
}

impl Hub {
    fn new(name: &str, dist: &Path, chart: &Path) -> Self {
        let mut options = UpOptions::new(HubName::new(name).unwrap());
        options.dist = dist.to_owned();
        options.chart = chart.to_owned();
        Self {
            options,
            before: machine(),
        }
    }

    async fn story(&self) {
        self.goes_on_after_an_interruption().await;
        self.comes_up_and_is_quick_the_second_time().await;
        for process in [
            "etcd",
            "kube-apiserver",
            "containerd",
            "kubelet",
            "kube-proxy",
        ] {
            self.survives_the_death_of(process).await;
        }
        self.adopts_after_the_supervisor_died().await;
        self.another_hub_does_not_disturb_it().await;
        self.comes_back_after_a_stop().await;
        self.leaves_nothing().await;
    }

    async fn up(&self) -> Duration {
        let started = Instant::now();
        let info = up(&self.options, &tell).await.unwrap();
        assert_eq!(info.gateway_address.port(), 8443);
        assert!(status(&self.options.name).await.ready);
        started.elapsed()
    }

    async fn goes_on_after_an_interruption(&self) {
        println!("test goes_on_after_an_interruption");
        for step in ["network", "processes", "chart"] {
            let (reached, mut wait) = tokio::sync::mpsc::unbounded_channel();
            let progress = |event: Event| {
                if matches!(&event, Event::Phase { name, .. } if name == step) {
                    let _ = reached.send(());
                }
            };
            tokio::select! {
                result = up(&self.options, &progress) => drop(result.unwrap()),
                _ = wait.recv() => println!("    interrupted in {step}"),
            }
        }
    }

    async fn comes_up_and_is_quick_the_second_time(&self) {
        println!("test comes_up_and_is_quick_the_second_time");
        self.up().await;
        assert!(list().contains(&self.options.name));
        let again = self.up().await;
        assert!(
            again < Duration::from_secs(5),
            "the second time took {again:?}"
        );
    }

    async fn survives_the_death_of(&self, process: &str) {
        println!("test survives_the_death_of {process}");
        let before = self.pods().await;
        let pid = self.pid(process).await.unwrap();
        kill(pid);
        self.eventually(process, async || {
            self.pid(process).await.is_some_and(|new| new != pid)
        })
        .await;
        self.eventually("the hub", async || status(&self.options.name).await.ready)
            .await;
        self.up().await;
        assert_eq!(self.pods().await, before, "the Pods went on");
    }

    async fn adopts_after_the_supervisor_died(&self) {
        println!("test adopts_after_the_supervisor_died");
        let (etcd, supervisor) = (
            self.pid("etcd").await,
            self.pid("supervisor").await.unwrap(),
        );
        kill(supervisor);
        self.eventually("its end", async || {
            !status(&self.options.name).await.running
        })
        .await;
        self.up().await;
        assert_eq!(self.pid("etcd").await, etcd);
        assert_ne!(self.pid("supervisor").await, Some(supervisor));
    }

    async fn another_hub_does_not_disturb_it(&self) {
        println!("test another_hub_does_not_disturb_it");
        let name = format!("{}-b", self.options.name);
        let other = Hub::new(&name, &self.options.dist, &self.options.chart);
        let pods = self.pods().await;
        other.up().await;
        let (one, two) = (
            status(&self.options.name).await,
            status(&other.options.name).await,
        );
        assert_ne!(one.address, two.address);
        other.leaves_nothing().await;
        assert!(status(&self.options.name).await.ready);
        assert_eq!(self.pods().await, pods);
    }

    async fn comes_back_after_a_stop(&self) {
        println!("test comes_back_after_a_stop");
        let before = self.pods().await;
        down(&self.options.name, &tell).await.unwrap();
        let stopped = status(&self.options.name).await;
        assert!(stopped.exists && !stopped.running);
        assert!(
            stopped
                .processes
                .iter()
                .all(|process| process.pid.is_none())
        );
        self.up().await;
        let after = self.pods().await;
        assert_eq!(after[0].0, before[0].0, "the same Pod");
        assert!(after[0].1 > before[0].1, "its container was started again");
    }

    async fn leaves_nothing(&self) {
        println!("test leaves_nothing");
        let name = self.options.name.as_str();
        let interface = interface_of(name);
        purge(&self.options.name, &tell).await.unwrap();
        let left: Vec<String> = machine()
            .difference(&self.before)
            .filter(|line| names(line, name) || line.contains(&interface))
            .cloned()
            .collect();
        assert!(left.is_empty(), "left behind: {left:#?}");
        // Once more, with nothing there.
        purge(&self.options.name, &tell).await.unwrap();
    }

    /// Names and restarts of the Pods that run.
    async fn pods(&self) -> Vec<(String, i32)> {
        let path = self.options.state_dir.join("admin.kubeconfig");
        let text = Kubeconfig::read_from(path).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(text, &options)
            .await
            .unwrap();
        let client = kube::Client::try_from(config).unwrap();
        let api: Api<Pod> = Api::namespaced(client, "farplane-system");
        let list = api.list(&ListParams::default()).await.unwrap();
        let restarts = |pod: &Pod| {
            let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
            Some(containers.iter().map(|one| one.restart_count).sum())
        };
        let pods = list.items.iter();
        pods.map(|pod| (pod.metadata.name.clone().unwrap(), restarts(pod).unwrap()))
            .collect()
    }

    async fn pid(&self, process: &str) -> Option<u32> {
        let status = status(&self.options.name).await;
        status.processes.iter().find(|one| one.name == process)?.pid
    }

    async fn eventually(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds().await {
            let now = status(&self.options.name).await;
            assert!(
                Instant::now() < deadline,
                "waited too long for {what}: {now:#?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// The interface of the machine that leads to a hub.
fn interface_of(name: &str) -> String {
    let links = output("ip", &["-o", "link"]);
    let suffix = format!("link-netns fp-{name}");
    let line = links
        .lines()
        .find(|line| line.trim_end().ends_with(&suffix))
        .unwrap();
    let word = line.split_whitespace().nth(1).unwrap();
    word.split('@').next().unwrap().to_owned()
}

/// True when the line names this hub and not one whose name only begins alike.
fn names(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(start, _)| {
        let next = line[start + name.len()..].chars().next();
        next.is_none_or(|next| !next.is_ascii_alphanumeric() && next != '-')
    })
}

/// What a hub could leave on the machine, a line each.
fn machine() -> BTreeSet<String> {
    let mut all = std::fs::read_to_string("/proc/self/mounts").unwrap();
    all += &output("ip", &["-o", "link"]);
    all += &output("ip", &["netns", "list"]);
    all += &output("ip", &["route", "show", "table", "all"]);
    all += &output("nft", &["list", "tables"]);
    all += &output("ps", &["-eo", "pid,args"]);
    let mut lines: BTreeSet<String> = all.lines().map(str::to_owned).collect();
    let mut folders: Vec<PathBuf> = vec!["/sys/fs/cgroup".into()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
                lines.insert(entry.path().display().to_string());
            }
        }
    }
    for folder in [
        "/run",
        "/run/netns",
        "/var/lib",
        "/var/lib/farplane-hub",
        "/var/log",
        "/opt",
    ] {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            lines.insert(entry.path().display().to_string());
        }
    }
    lines
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
