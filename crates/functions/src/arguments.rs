//! Command line and environment. Every flag has a variable, which is what the chart sets.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use farplane_functions_triggers::Exposure;

/// What runs in the Pods of the function platform.
#[derive(Parser)]
#[command(name = "farplane-functions", version)]
pub struct Arguments {
    /// What to run.
    #[command(subcommand)]
    pub role: Role,
}

/// What to run.
#[derive(Subcommand)]
pub enum Role {
    /// Call functions.
    Router(RouterOptions),
    /// Make and end instances.
    Executor(ExecutorOptions),
    /// Build packages, serve triggers, move canaries.
    Controllers(ControllerOptions),
    /// Keep archives.
    Storage(StorageOptions),
    /// Bring code to the runtime of the same Pod.
    #[command(disable_help_flag = true)]
    Fetcher {
        /// Fission's: `[-specialize-on-startup] [-specialize-request JSON] [SHARED-DIR]`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the build command of an environment.
    #[command(disable_help_flag = true)]
    Builder {
        /// Fission's: `[SHARED-DIR]`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Copy this program to a path, for images without it.
    Copy {
        /// Where to.
        path: PathBuf,
    },
}

/// What every part of the platform is told.
#[derive(Args, Clone)]
pub struct Common {
    /// Name of this Pod.
    #[arg(long, env = "FARPLANE_POD_NAME")]
    pub pod_name: String,
    /// Namespace of the platform.
    #[arg(long, env = "FARPLANE_NAMESPACE", default_value = "fission")]
    pub namespace: String,
    /// Where metrics and probes are told.
    #[arg(long, env = "FARPLANE_METRICS_LISTEN", default_value = "0.0.0.0:8080")]
    pub metrics: SocketAddr,
}

/// The router.
#[derive(Args)]
pub struct RouterOptions {
    #[command(flatten)]
    pub common: Common,
    /// Where everybody may call routes.
    #[arg(long, default_value = "0.0.0.0:8888")]
    pub public: SocketAddr,
    /// Where the platform's own parts call any function.
    #[arg(long, default_value = "0.0.0.0:8889")]
    pub internal: SocketAddr,
    /// Port of the loopback interface for those who may forward a port to this Pod.
    #[arg(long, default_value_t = 8890)]
    pub forwarded: u16,
    /// Address of the executor.
    #[arg(long, env = "FARPLANE_EXECUTOR_URL")]
    pub executor_url: String,
    /// Address of the queue of asynchronous calls.
    #[arg(long, env = "FARPLANE_QUEUE_URL")]
    pub queue_url: String,
    /// Who may call routes, by tokens that `/auth/login` gives; everybody when left out.
    #[arg(long, env = "FARPLANE_LOGIN_USERNAME", requires = "password")]
    pub username: Option<String>,
    /// Password of that user.
    #[arg(
        long,
        env = "FARPLANE_LOGIN_PASSWORD",
        hide_env_values = true,
        requires = "username"
    )]
    pub password: Option<String>,
}

/// The executor.
#[derive(Args)]
pub struct ExecutorOptions {
    #[command(flatten)]
    pub common: Common,
    /// Where routers ask for instances.
    #[arg(long, default_value = "0.0.0.0:8888")]
    pub listen: SocketAddr,
    /// Image of this program, for fetchers.
    #[arg(long, env = "FARPLANE_FUNCTIONS_IMAGE")]
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    #[arg(
        long,
        env = "FARPLANE_IMAGE_PULL_POLICY",
        default_value = "IfNotPresent"
    )]
    pub pull_policy: String,
    /// Address of the storage service.
    #[arg(long, env = "FARPLANE_STORAGE_URL")]
    pub storage_url: String,
}

/// The controllers.
#[derive(Args)]
pub struct ControllerOptions {
    #[command(flatten)]
    pub common: Common,
    /// Address of the router's internal listener.
    #[arg(long, env = "FARPLANE_ROUTER_URL")]
    pub router_url: String,
    /// Domain of Service names.
    #[arg(long, env = "FARPLANE_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Where routers hand over asynchronous calls.
    #[arg(long, default_value = "0.0.0.0:8888")]
    pub queue_listen: SocketAddr,
    /// Directory of asynchronous calls, on a volume that outlives the Pod.
    #[arg(long, env = "FARPLANE_QUEUE_DIR", default_value = "/queue")]
    pub queue_directory: PathBuf,
    /// NATS server of triggers that name none.
    #[arg(long, env = "FARPLANE_NATS_URL")]
    pub nats_url: Option<String>,
    /// What HTTPTriggers may ask for by way of Ingresses and HTTPRoutes: JSON, as the chart's value
    /// `exposure`. Nothing when left out.
    #[arg(long, env = "FARPLANE_EXPOSURE", default_value = "{}")]
    pub exposure: Exposure,
    /// Address of the storage service.
    #[arg(long, env = "FARPLANE_STORAGE_URL")]
    pub storage_url: String,
    /// Image of this program, for builders.
    #[arg(long, env = "FARPLANE_FUNCTIONS_IMAGE")]
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    #[arg(
        long,
        env = "FARPLANE_IMAGE_PULL_POLICY",
        default_value = "IfNotPresent"
    )]
    pub pull_policy: String,
}

/// Storage.
#[derive(Args)]
pub struct StorageOptions {
    #[command(flatten)]
    pub common: Common,
    /// Where archives are served.
    #[arg(long, default_value = "0.0.0.0:8000")]
    pub listen: SocketAddr,
    /// Directory of the archives.
    #[arg(long, env = "FARPLANE_STORAGE_DIR", default_value = "/fission")]
    pub directory: PathBuf,
}
