//! The hub under test and the two commands a person has.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::run::{Output, pause, run};

/// Organization of most scenarios.
pub const ORG: &str = "acme";
/// Cluster of most scenarios.
pub const CLUSTER: &str = "first";

/// What a condition may give: anything but a `bool`, which would pass for true when it is false.
pub trait Found {}

impl Found for () {}
impl Found for i64 {}
impl Found for String {}
impl Found for Value {}
impl Found for Output {}
impl Found for std::net::TcpStream {}
impl<T> Found for Vec<T> {}

/// Everything scenarios share.
pub struct World {
    farplane: PathBuf,
    kubectl: PathBuf,
    /// Folder with the built parts.
    pub dist: PathBuf,
    /// Folder with programs of other projects that only scenarios need.
    pub tools: Option<PathBuf>,
    /// Name of the hub.
    pub hub: String,
    /// How long the hub is to be away where a scenario takes it away.
    pub outage: Duration,
    folder: tempfile::TempDir,
    hub_kubeconfig: OnceLock<PathBuf>,
}

impl World {
    /// Finds the programs.
    pub fn new(dist: &Path, tools: Option<&Path>, hub: &str, outage: Duration) -> Result<Self> {
        let dist = dist
            .canonicalize()
            .with_context(|| format!("find {}; run `make build` first", dist.display()))?;
        let folder = tempfile::tempdir().context("make a temporary folder")?;
        Ok(Self {
            farplane: dist.join("bin/farplane"),
            kubectl: dist.join("bin/kubectl"),
            dist,
            tools: tools.map(Path::to_path_buf),
            hub: hub.to_owned(),
            outage,
            folder,
            hub_kubeconfig: OnceLock::new(),
        })
    }

    /// A program of another project that only scenarios need.
    pub fn tool(&self, name: &str) -> Result<PathBuf> {
        let tools = self.tools.as_ref();
        let tools = tools.context("find the tools; give their folder with --tools")?;
        Ok(tools.join(name))
    }

    /// A path for a scenario's own file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `farplane` and gives whatever it answered.
    pub fn farplane_raw(&self, arguments: &[&str]) -> Result<Output> {
        let mut all = vec!["--hub", self.hub.as_str()];
        all.extend(arguments);
        run(&self.farplane, &all, None, Duration::from_secs(300))
    }

    /// Runs `farplane`, which must succeed.
    pub fn farplane(&self, arguments: &[&str]) -> Result<String> {
        self.farplane_raw(arguments)?
            .success(&format!("farplane {}", arguments.join(" ")))
    }

    /// Runs `farplane` against the hub of a kubeconfig; it must succeed.
    pub fn farplane_at(&self, hub: &Path, arguments: &[&str]) -> Result<String> {
        let hub = hub.display().to_string();
        let all = [&["--hub-kubeconfig", hub.as_str()], arguments].concat();
        run(&self.farplane, &all, None, Duration::from_secs(300))?.success(&format!(
            "farplane --hub-kubeconfig ... {}",
            arguments.join(" ")
        ))
    }

    /// Runs `farplane`, which must fail and say `expected`.
    pub fn farplane_refuses(&self, arguments: &[&str], expected: &str) -> Result<()> {
        let output = self.farplane_raw(arguments)?;
        if output.code == Some(0) {
            bail!(
                "farplane {} succeeded, but must be refused",
                arguments.join(" ")
            );
        }
        if !output
            .text()
            .to_lowercase()
            .contains(&expected.to_lowercase())
        {
            bail!(
                "farplane {} does not say {expected:?} but: {}",
                arguments.join(" "),
                output.text()
            );
        }
        Ok(())
    }

    /// Runs `kubectl` against the hub.
    pub fn hub_kubectl(&self, arguments: &[&str]) -> Result<String> {
        let path = PathBuf::from(format!(
            "/var/lib/farplane-hub/{}/admin.kubeconfig",
            self.hub
        ));
        let config = self.hub_kubeconfig.get_or_init(|| path);
        self.kubectl_with(config, arguments, None)?
            .success(&format!("kubectl (hub) {}", arguments.join(" ")))
    }

    /// Runs `kubectl` with a kubeconfig and input.
    pub fn kubectl_with(
        &self,
        config: &Path,
        arguments: &[&str],
        input: Option<&[u8]>,
    ) -> Result<Output> {
        let config = config.display().to_string();
        let mut all = vec!["--kubeconfig", config.as_str(), "--request-timeout=30s"];
        all.extend(arguments);
        run(&self.kubectl, &all, input, Duration::from_secs(120))
    }

    /// Kubeconfig of a cluster, fetched by `farplane`.
    pub fn kubeconfig(&self, org: &str, cluster: &str) -> Result<PathBuf> {
        let path = self.file(&format!("{org}.{cluster}.kubeconfig"));
        if !path.exists() {
            let text = self.farplane(&["cluster", "kubeconfig", cluster, "--org", org])?;
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(path)
    }

    /// Runs `kubectl` against the main cluster; gives whatever it answered.
    pub fn kubectl_raw(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_with(&self.kubeconfig(ORG, CLUSTER)?, arguments, None)
    }

    /// Runs `kubectl` against the main cluster, which must succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_raw(arguments)?
            .success(&format!("kubectl {}", arguments.join(" ")))
    }

    /// Applies YAML to the main cluster.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.apply_raw(yaml)?.success("kubectl apply").map(drop)
    }

    /// Applies YAML to the main cluster; gives whatever was answered.
    pub fn apply_raw(&self, yaml: &str) -> Result<Output> {
        self.kubectl_with(
            &self.kubeconfig(ORG, CLUSTER)?,
            &["apply", "-f", "-"],
            Some(yaml.as_bytes()),
        )
    }

    /// `kubectl get ... -o json` on the main cluster.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["get", "-o", "json"];
        all.extend(arguments);
        serde_json::from_str(&self.kubectl(&all)?).context("read kubectl's JSON")
    }

    /// `kubectl get ... -o json` on the hub.
    pub fn hub_get(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["get", "-o", "json"];
        all.extend(arguments);
        serde_json::from_str(&self.hub_kubectl(&all)?).context("read kubectl's JSON")
    }

    /// Reference of an image from the build's index.
    pub fn image(&self, name: &str) -> Result<(String, PathBuf)> {
        let path = self.dist.join("images/index.json");
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let index: Value = serde_json::from_str(&text).context("read the image index")?;
        let entry = &index[name];
        let reference = entry["ref"]
            .as_str()
            .with_context(|| format!("image {name} is not in the index"))?;
        let file = entry["file"].as_str().unwrap_or_default();
        Ok((reference.to_owned(), self.dist.join("images").join(file)))
    }

    /// Runs a shell line inside a lab host.
    pub fn on_host(&self, host: &str, line: &str, input: Option<&[u8]>) -> Result<String> {
        let object = self.hub_get(&["host.farplane.io", host, "-n", &format!("org-{ORG}")])?;
        let pod = format!(
            "lab-{}",
            object["metadata"]["uid"].as_str().unwrap_or_default()
        );
        let config = PathBuf::from(format!(
            "/var/lib/farplane-hub/{}/admin.kubeconfig",
            self.hub
        ));
        self.kubectl_with(
            &config,
            &[
                "exec",
                "-i",
                "-n",
                "farplane-lab",
                &pod,
                "--",
                "sh",
                "-c",
                line,
            ],
            input,
        )?
        .success(&format!("on host {host}: {line}"))
    }

    /// Asks until `condition` gives a value; its last answer explains a time-out.
    ///
    /// `ensure!` in it what must hold: an `Ok(false)` would be a value.
    pub fn eventually<T: Found>(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let end = Instant::now() + limit;
        loop {
            match condition() {
                Ok(value) => return Ok(value),
                Err(error) if Instant::now() > end => {
                    return Err(error.context(format!("{what}: not within {limit:?}")));
                }
                Err(_) => pause(Duration::from_millis(200)),
            }
        }
    }

    /// Writes what helps to understand a failure to `target/e2e` in the current folder.
    pub fn keep_evidence(&self, scenario: &str) {
        let folder = PathBuf::from("target/e2e").join(scenario);
        if std::fs::create_dir_all(&folder).is_err() {
            return;
        }
        let keep = |name: &str, text: Result<String>| {
            let _ = std::fs::write(
                folder.join(name),
                text.unwrap_or_else(|error| format!("{error:#}")),
            );
        };
        keep(
            "hub-pods",
            self.hub_kubectl(&["get", "pods", "-A", "-o", "wide"]),
        );
        keep(
            "resources.yaml",
            self.hub_kubectl(&["get", "farplane", "-A", "-o", "yaml"]),
        );
        keep(
            "controllers.log",
            self.hub_kubectl(&[
                "logs",
                "-n",
                "farplane-system",
                "deploy/farplane-controllers",
                "--tail=400",
            ]),
        );
        keep(
            "gateway.log",
            self.hub_kubectl(&[
                "logs",
                "-n",
                "farplane-system",
                "deploy/farplane-gateway",
                "--tail=400",
            ]),
        );
        keep(
            "lab.log",
            self.hub_kubectl(&[
                "logs",
                "-n",
                "farplane-lab",
                "--all-containers",
                "-l",
                "farplane.io/host",
                "--tail=400",
            ]),
        );
        keep(
            "cluster-pods",
            self.kubectl(&["get", "pods,nodes,csr", "-A", "-o", "wide"]),
        );
        eprintln!("e2e: evidence in {}", folder.display());
    }
}
