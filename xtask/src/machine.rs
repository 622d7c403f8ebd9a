//! `cargo xtask try-machine`: what a customer does with a Debian machine, from an empty folder.
//!
//! A virtual machine ([`vm`]) joins a hub of its own name, becomes a node, runs a Pod, is
//! restarted, is removed, and joins again through a proxy with direct connections dropped. At
//! the end, or after the first failure, machine, disk and hub are removed. It takes five minutes
//! on a quiet machine and fifteen on a busy one, as it is emulated: not part of the tests.

mod vm;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::vm::{HERE, NAME, Vm, eventually, with_us};
use crate::cache::{Cache, remove};
use crate::{Own, build, progress};

/// Name of the hub; no person's hub is touched.
const HUB: &str = "try-machine";
const ORG: &str = "demo";
const CLUSTER: &str = "real";
const PROXY_PORT: &str = "3129";
/// `me:secret` as the header says it.
const AUTHORIZATION: &str = "Basic bWU6c2VjcmV0";
const MINUTES: Duration = Duration::from_secs(420);
/// Programs of a node, by which a restart of the agent is judged.
const PIDS: &str =
    "pgrep -x 'kubelet|containerd|kube-proxy|flanneld|pause' | sort -n | tr '\\n' ' '";
/// Packets that tried to reach the hub without the proxy.
const DIRECT: &str = "nft list chain ip trial out | grep -o 'packets [0-9]*'";
/// What must not be there any more when a host is removed.
const LEFT: &str = "pgrep -l 'farplane|kube|containerd|flannel|pause'; \
    grep -E 'farplane|kubelet|flannel' /proc/mounts; \
    ip -br link | grep -E 'flannel|veth'; ip addr show lo | grep 198.18; \
    nft list tables | grep -v ' trial$'; \
    ls -d /sys/fs/cgroup/kubepods* /run/farplane /run/flannel /run/containerd /var/lib/farplane \
    /var/lib/kubelet /var/lib/cni /var/log/pods /etc/farplane /etc/systemd/system/farplane* \
    /etc/systemd/system/*.wants/farplane* 2>/dev/null; true";

/// Everything that the steps need.
struct Trial {
    dist: PathBuf,
    own: PathBuf,
    folder: PathBuf,
    vm: Vm,
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Err(error) = self.farplane(&["down", "--purge", "--name", HUB]) {
            progress::line("machine", &format!("the hub stays: {error:#}"));
        }
    }
}

/// A process that ends with the trial.
struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        // Gone already is as good.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Tries it all.
///
/// # Errors
/// The first step that does not do what it should.
pub fn run(root: &Path, own: &Own) -> Result<()> {
    let cache = Cache::open()?;
    build(root, &cache, None, own)?;
    let own = own.build(root, &cache)?;
    let folder = cache.work("machine")?;
    let outcome = step("boot", || {
        let vm = Vm::start(&cache, &folder)?;
        let facts =
            vm.run("uname -r; systemctl --version | head -n 1; stat -fc %T /sys/fs/cgroup")?;
        Ok((facts.replace('\n', ", "), vm))
    })
    .and_then(|vm| {
        let dist = root.join("dist");
        let folder = folder.clone();
        let trial = Trial {
            dist,
            own,
            folder,
            vm,
        };
        trial.joins()?;
        trial.works()?;
        trial.survives()?;
        trial.leaves()?;
        // The host hears of its removal by the proxy too.
        let _proxy = trial.joins_by_proxy()?;
        trial.leaves()
    });
    remove(&folder)?;
    outcome
}

/// Says what came of a step, and how long it took.
fn step<T>(name: &str, body: impl FnOnce() -> Result<(String, T)>) -> Result<T> {
    let start = Instant::now();
    let (said, value) = body().with_context(|| format!("step {name}"))?;
    let time = start.elapsed().as_secs_f64();
    progress::line("machine", &format!("{name}: {said} ({time:.1} s)"));
    Ok(value)
}

impl Trial {
    fn command(&self, program: &Path, arguments: &[&str]) -> Result<String> {
        progress::output(Command::new(program).args(arguments))
    }

    fn farplane(&self, arguments: &[&str]) -> Result<String> {
        let program = self.dist.join("bin/farplane");
        self.command(&program, &[&["--hub", HUB], arguments].concat())
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let config = self.folder.join("kubeconfig");
        if !config.exists() {
            let text = self.farplane(&["cluster", "kubeconfig", CLUSTER, "--org", ORG])?;
            std::fs::write(&config, text).context("keep the kubeconfig")?;
        }
        let config = config.display().to_string();
        let program = self.dist.join("bin/kubectl");
        self.command(&program, &[&["--kubeconfig", &config], arguments].concat())
    }

    fn join_command(&self) -> Result<String> {
        let asked = ["host", "join-command", "--org", ORG, "--endpoint", "site"];
        Ok(self.farplane(&asked)?.trim().to_owned())
    }

    fn connected(&self) -> Result<()> {
        eventually("the host is connected", MINUTES, || {
            let told = self.farplane(&["host", "describe", NAME, "--org", ORG])?;
            let yes = |line: &str| line.starts_with("Connected:") && line.ends_with("yes");
            ensure!(told.lines().any(yes), "{told}");
            Ok(())
        })
    }

    fn joins(&self) -> Result<()> {
        step("hub", || {
            // One of a trial that was interrupted; most times there is none.
            _ = self.farplane(&["down", "--purge", "--name", HUB]);
            self.farplane(&["up", "--name", HUB])?;
            self.farplane(&["org", "create", ORG])?;
            Ok(("up".to_owned(), ()))
        })?;
        step("doctor", || {
            let agent =
                "cat > /usr/local/bin/farplane-agent && chmod 755 /usr/local/bin/farplane-agent";
            self.vm.feed(&self.dist.join("bin/farplane-agent"), agent)?;
            Ok((self.vm.run("farplane-agent doctor")?, ()))
        })?;
        step("join", || {
            let said = self.vm.run(&self.join_command()?)?;
            self.vm
                .run("systemctl is-enabled farplane-agent && systemctl is-active farplane-agent")?;
            self.connected()?;
            Ok((said.replace('\n', "; "), ()))
        })
    }

    fn works(&self) -> Result<()> {
        step("cluster", || {
            let ordered = ["cluster", "create", CLUSTER, "--org", ORG, "--hosts", NAME];
            self.farplane(&[&ordered[..], &["--wait", "--timeout", "15m"]].concat())?;
            let driver = self.vm.run("ls -d /sys/fs/cgroup/kubepods*")?;
            let nodes = self.kubectl(&["get", "nodes", "--no-headers"])?;
            Ok((format!("{}; {driver}", nodes.trim()), ()))
        })?;
        step("pod", || {
            let index =
                std::fs::read(self.dist.join("images/index.json")).context("read the index")?;
            let index: serde_json::Value =
                serde_json::from_slice(&index).context("read the index")?;
            let image = index["test-server"]["ref"].as_str().unwrap_or_default();
            let import = "$(ls /var/lib/farplane/artifacts/*/ctr | head -n1) \
                 -a /run/farplane/containerd/containerd.sock -n k8s.io images import -";
            self.vm
                .feed(&self.dist.join("images/test-server.tar"), import)?;
            self.kubectl(&[
                "run", "web", "--image", image, "--", "serve", "--port", "8080",
            ])?;
            self.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=400s"])?;
            let logs = self.kubectl(&["logs", "web"])?;
            ensure!(logs.contains("listening"), "logs: {logs}");
            let fetch = [
                "farplane-test-server",
                "fetch",
                "http://127.0.0.1:8080/hostname",
            ];
            let name = self.kubectl(&[&["exec", "web", "--"][..], &fetch].concat())?;
            ensure!(name.trim() == "web", "exec: {name}");
            Ok(("runs, logs and exec answer".to_owned(), ()))
        })
    }

    fn survives(&self) -> Result<()> {
        step("restart of the agent", || {
            let before = self.vm.run(PIDS)?;
            self.vm.run("systemctl restart farplane-agent")?;
            self.connected()?;
            let after = self.vm.run(PIDS)?;
            ensure!(before == after, "{before} became {after}");
            Ok(("nothing else was restarted".to_owned(), ()))
        })?;
        step("reboot", || {
            self.vm.reboot()?;
            eventually("the Pod is back", MINUTES, || {
                let path = "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}";
                let told = self.kubectl(&["get", "pod", "web", "-o", path])?;
                ensure!(!told.starts_with('0') && told.ends_with("true"), "{told}");
                Ok(())
            })?;
            Ok(("agent, node and Pod came back".to_owned(), ()))
        })
    }

    fn leaves(&self) -> Result<()> {
        step("removal", || {
            self.farplane(&["host", "remove", NAME, "--org", ORG, "--yes", "--wait"])?;
            eventually("nothing is left", MINUTES, || {
                let left = self.vm.run(LEFT)?;
                ensure!(left.is_empty(), "{left}");
                Ok(())
            })?;
            Ok(("nothing is left on the machine".to_owned(), ()))
        })
    }

    fn proxy(&self) -> Result<Proxy> {
        let log = File::create(self.folder.join("proxy.log")).context("make the proxy's log")?;
        let child = with_us(self.own.join("farplane-test-server"))
            .args([
                "proxy",
                "--port",
                PROXY_PORT,
                "--authorization",
                AUTHORIZATION,
            ])
            .stdin(Stdio::null())
            .stdout(log)
            .spawn()
            .context("start the proxy")?;
        Ok(Proxy(child))
    }

    fn joins_by_proxy(&self) -> Result<Proxy> {
        let join = self.join_command()?;
        let hub = join.split(' ').nth(3).context("no hub in the command")?;
        let address = hub.split(':').next().unwrap_or_default();
        let proxy = self.proxy()?;
        let refuses = |proxy: &str, words: &str| -> Result<()> {
            match self.vm.run(&format!("{join} {proxy}")) {
                Ok(said) => bail!("join {proxy} is not refused: {said}"),
                Err(error) => {
                    let said = format!("{error:#}");
                    ensure!(said.contains(words), "join {proxy} says {said}");
                    Ok(())
                }
            }
        };
        let at = |user: &str| format!("--proxy http://{user}@{HERE}:{PROXY_PORT}");
        step("refusals", || {
            let rule = format!(
                "nft 'add table ip trial; add chain ip trial out {{ type filter hook output priority 0; }}; \
                 add rule ip trial out ip daddr {address} counter drop'"
            );
            self.vm.run(&rule)?;
            refuses("", "failed to reach the hub")?;
            refuses(&at("me:wrong"), "user and password")?;
            Ok(("direct and wrong ways are named".to_owned(), ()))
        })?;
        let direct = self.vm.run(DIRECT)?;
        step("join by proxy", || {
            let said = self.vm.run(&format!("{join} {}", at("me:secret")))?;
            self.connected()?;
            Ok((said.replace('\n', "; "), ()))
        })?;
        step("node by proxy", || {
            eventually("the cluster is ready", MINUTES, || {
                let told = self.farplane(&["cluster", "describe", CLUSTER, "--org", ORG])?;
                let ready = |line: &str| line.starts_with("Phase:") && line.ends_with("Ready");
                ensure!(told.lines().any(ready), "{told}");
                Ok(())
            })?;
            let now = self.vm.run(DIRECT)?;
            ensure!(now == direct, "direct packets: {direct}, then {now}");
            let log =
                std::fs::read_to_string(self.folder.join("proxy.log")).context("read the log")?;
            let passed = log.matches(&format!("CONNECT {hub} HTTP/1.1: 200")).count();
            ensure!(passed >= 3, "the proxy passed on {passed} connections");
            Ok((
                format!("ready, the proxy passed on {passed} connections"),
                (),
            ))
        })?;
        Ok(proxy)
    }
}
