//! Command line and environment. Every flag has a variable, which is what the chart sets.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{ArgAction, Args, Parser, Subcommand};
use farplane_controllers::{Images, Settings, Store};

/// What runs in the hub's own Pods.
#[derive(Parser)]
#[command(name = "farplane-hub", version)]
pub struct Arguments {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// What to run.
#[derive(Subcommand)]
pub enum Command {
    /// Turn custom resources into what they ask for.
    Controllers(Box<ControllerOptions>),
    /// The front door: tunnels, API servers, joining.
    Gateway(GatewayOptions),
    /// Serve the files that hosts need.
    Artifacts(ArtifactOptions),
    /// Print the version.
    Version,
}

#[derive(Args)]
struct Common {
    /// Domain below which server names are made.
    #[arg(long, env = "FARPLANE_HUB_DOMAIN", default_value = "farplane.internal")]
    hub_domain: String,
    /// Address of the artifact server, http://host:port.
    #[arg(long, env = "FARPLANE_ARTIFACTS_URL")]
    artifacts_url: String,
    /// Name of this Pod.
    #[arg(long, env = "FARPLANE_POD_NAME")]
    pod_name: String,
    /// Namespace of this Pod.
    #[arg(long, env = "FARPLANE_NAMESPACE", default_value = "farplane-system")]
    namespace: String,
    /// Where metrics and health are told.
    #[arg(long, env = "FARPLANE_METRICS_LISTEN", default_value = "0.0.0.0:9090")]
    metrics_listen: SocketAddr,
}

impl Common {
    fn artifacts_url(&self) -> Result<String> {
        known(&self.artifacts_url)
    }
}

/// An address of the artifact server.
fn known(url: &str) -> Result<String> {
    // The kubelet leaves a variable of a Service that it does not know yet as it is; the
    // next start of the container has it.
    if url.contains("$(") {
        bail!("the address of the artifact server is not known yet: {url}");
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// Options of the controllers.
#[derive(Args)]
pub struct ControllerOptions {
    #[command(flatten)]
    common: Common,
    /// host:port at which people and hosts reach the gateway.
    #[arg(long, env = "FARPLANE_PUBLIC_ADDRESS")]
    public_address: String,
    /// Service of the gateway.
    #[arg(
        long,
        env = "FARPLANE_GATEWAY_SERVICE",
        default_value = "farplane-gateway"
    )]
    gateway_service: String,
    /// Image of the upstream control plane programs.
    #[arg(long, env = "FARPLANE_IMAGE_KUBERNETES_SERVER")]
    image_kubernetes_server: String,
    /// Image of etcd.
    #[arg(long, env = "FARPLANE_IMAGE_ETCD")]
    image_etcd: String,
    /// Image of lab hosts.
    #[arg(long, env = "FARPLANE_IMAGE_LAB_HOST", default_value = "")]
    image_lab_host: String,
    /// Image of pause.
    #[arg(long, env = "FARPLANE_IMAGE_PAUSE", default_value = "")]
    image_pause: String,
    /// Directory of the hub's one node in which etcd of each cluster keeps its data.
    #[arg(
        long,
        env = "FARPLANE_STORE_HOST_PATH",
        default_value = "",
        conflicts_with = "store_storage_class"
    )]
    store_host_path: String,
    /// Where this process sees that directory.
    #[arg(
        long,
        env = "FARPLANE_STORE_MOUNT",
        default_value = "/var/lib/farplane-store"
    )]
    store_mount: PathBuf,
    /// Storage class for the volumes of etcd, instead of a directory.
    #[arg(long, env = "FARPLANE_STORE_STORAGE_CLASS")]
    store_storage_class: Option<String>,
    /// Serve hosts of provider lab.
    #[arg(long, env = "FARPLANE_LABS_ENABLED", action = ArgAction::Set, default_value_t = false)]
    labs_enabled: bool,
}

impl ControllerOptions {
    /// The same as the library takes it.
    ///
    /// # Errors
    /// When options contradict one another or are not usable yet.
    pub fn settings(self) -> Result<Settings> {
        let artifacts_url = self.common.artifacts_url()?;
        let class = self.store_storage_class.filter(|class| !class.is_empty());
        let store = match (self.store_host_path.as_str(), class) {
            ("", Some(class)) => Store::StorageClass(class),
            ("", None) => bail!("set --store-host-path or --store-storage-class"),
            (path, None) => Store::HostPath {
                path: path.to_owned(),
                mount: self.store_mount,
            },
            (_, Some(_)) => bail!("--store-host-path and --store-storage-class exclude each other"),
        };
        Ok(Settings {
            hub_domain: self.common.hub_domain,
            public_address: self.public_address,
            namespace: self.common.namespace,
            identity: self.common.pod_name,
            gateway_service: self.gateway_service,
            artifacts_url,
            images: Images {
                kubernetes_server: self.image_kubernetes_server,
                etcd: self.image_etcd,
                lab_host: self.image_lab_host,
                pause: self.image_pause,
            },
            store,
            labs: self.labs_enabled,
            metrics_listen: self.common.metrics_listen,
        })
    }
}

/// Options of the gateway.
#[derive(Args)]
pub struct GatewayOptions {
    #[command(flatten)]
    common: Common,
    /// The one port.
    #[arg(long, env = "FARPLANE_LISTEN", default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// Address at which images are pulled, http://host:port.
    #[arg(long, env = "FARPLANE_REGISTRY_URL")]
    registry_url: String,
    /// Address of this Pod, for other gateways.
    #[arg(long, env = "FARPLANE_POD_IP")]
    pod_ip: IpAddr,
    /// Most streams of one organization at a time.
    #[arg(long, env = "FARPLANE_STREAMS_PER_ORGANIZATION", default_value_t = farplane_gateway::Settings::DEFAULT_STREAMS)]
    streams_per_organization: usize,
    /// Most bytes of one organization on their way through this gateway.
    #[arg(long, env = "FARPLANE_BYTES_IN_FLIGHT_PER_ORGANIZATION", default_value_t = farplane_gateway::Settings::DEFAULT_BYTES_IN_FLIGHT)]
    bytes_in_flight_per_organization: usize,
}

impl GatewayOptions {
    /// The same as the library takes it.
    ///
    /// # Errors
    /// When an option is not usable yet.
    pub fn settings(self) -> Result<farplane_gateway::Settings> {
        Ok(farplane_gateway::Settings {
            artifacts_url: self.common.artifacts_url()?,
            registry_url: known(&self.registry_url)?,
            hub_domain: self.common.hub_domain,
            listen: self.listen,
            metrics_listen: self.common.metrics_listen,
            pod_name: self.common.pod_name,
            pod_ip: self.pod_ip,
            streams_per_organization: self.streams_per_organization,
            bytes_in_flight_per_organization: self.bytes_in_flight_per_organization,
        })
    }
}

/// Options of the artifact server.
#[derive(Args)]
pub struct ArtifactOptions {
    /// Directory with `index.json` and the files it names.
    #[arg(long, env = "FARPLANE_ARTIFACTS_DIR", default_value = "/artifacts")]
    pub dir: PathBuf,
    /// Where to answer.
    #[arg(
        long,
        env = "FARPLANE_ARTIFACTS_LISTEN",
        default_value = "0.0.0.0:8080"
    )]
    pub listen: SocketAddr,
    /// Directory with images in OCI layout that hosts may pull; there may be none.
    #[arg(long, env = "FARPLANE_REGISTRY_DIR", default_value = "/registry")]
    pub registry_dir: PathBuf,
    /// Where images are pulled.
    #[arg(long, env = "FARPLANE_REGISTRY_LISTEN", default_value = "0.0.0.0:8081")]
    pub registry_listen: SocketAddr,
}
