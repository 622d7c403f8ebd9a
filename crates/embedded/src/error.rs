//! What can go wrong, one variant per step.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a hub could not be started, stopped, removed or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name is not a DNS label.
    #[error(
        "{name:?} is not a name for a hub: use up to 50 lower-case letters, digits and dashes, starting with a letter"
    )]
    InvalidName {
        /// What was given.
        name: String,
    },
    /// Not run by root.
    #[error("a hub on this machine needs root: run the same command with sudo")]
    NotRoot,
    /// A program of the distribution is not where it should be.
    #[error("{} is missing: run `make build`, or name another directory by --dist", path.display())]
    MissingProgram {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A program of the machine is not installed.
    #[error("the program {program} is missing: apt-get install {package}")]
    MissingTool {
        /// Its name.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// Too little space for images and databases.
    #[error(
        "only {free_mib} MiB are free on the disk of {}, a hub needs {needed_mib}: free some space and repeat", path.display()
    )]
    DiskFull {
        /// A path on that disk.
        path: PathBuf,
        /// Space that is free, in MiB.
        free_mib: u64,
        /// Space that is needed, in MiB.
        needed_mib: u64,
    },
    /// The wanted address is taken.
    #[error(
        "{address} is in use by another program: stop it, or choose another address with --listen"
    )]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// Reading or writing a file of the hub.
    #[error("failed to {action} {}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A record of the hub does not parse.
    #[error("{} is damaged: `farplane down --purge` removes the hub", path.display())]
    DamagedRecord {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// A program could not be started.
    #[error("failed to start {program}")]
    StartProgram {
        /// Its name.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A program ended with a failure.
    #[error("`{command}` failed: {stderr}")]
    Program {
        /// The command line.
        command: String,
        /// The last lines of what it said.
        stderr: String,
    },
    /// No address range is left for the pair of interfaces.
    #[error(
        "no 100.100.x.0/30 range is free on this machine: remove hubs or interfaces that are not needed"
    )]
    NoFreeRange,
    /// The hub's namespaces did not come up.
    #[error("the hub's namespaces did not come up: {message}")]
    Namespaces {
        /// What was seen.
        message: String,
    },
    /// Keys could not be made.
    #[error("failed to make the key pair {name}")]
    Keys {
        /// Its name.
        name: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// The supervisor ended before the hub was ready.
    #[error("the hub's supervisor ended: {message}; its log is {}", log.display())]
    SupervisorEnded {
        /// What it said last.
        message: String,
        /// Where the rest is.
        log: PathBuf,
    },
    /// Something did not happen within its time.
    #[error("{what} took longer than {seconds} s: {state}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long, in seconds.
        seconds: u64,
        /// What was seen last.
        state: String,
    },
    /// The list of images does not parse.
    #[error("the list of images {} is damaged: repeat `make build`", path.display())]
    ImageIndex {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// The kubeconfig cannot be used.
    #[error("failed to use the kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A request to the hub's API failed.
    #[error("failed to {action}")]
    Api {
        /// What was asked.
        action: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// A rendered document is not an object of Kubernetes.
    #[error("the chart renders a document that is not an object of Kubernetes")]
    Manifest {
        /// Why not.
        source: serde_yaml_ng::Error,
    },
    /// A kind that the API server does not know.
    #[error("the chart renders a {kind} of {api_version}, which the cluster does not know")]
    UnknownKind {
        /// Its kind.
        kind: String,
        /// Its API version.
        api_version: String,
    },
    /// Something of the hub would not go away.
    #[error("could not remove {what}: {state}")]
    Leftover {
        /// What is left.
        what: String,
        /// Why, as far as known.
        state: String,
    },
    /// There is no hub of this name.
    #[error("there is no hub named {name} on this machine: `farplane up --name {name}` makes one")]
    NoSuchHub {
        /// The name.
        name: String,
    },
}

impl Error {
    /// For `map_err` on a file operation.
    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.raw_os_error() {
            Some(code) if code == nix::errno::Errno::ENOSPC as i32 => Self::DiskFull {
                path,
                free_mib: 0,
                needed_mib: crate::doctor::NEEDED_MIB,
            },
            _ => Self::File {
                action,
                path,
                source,
            },
        }
    }

    /// True when the API server did not answer, or not yet for everyone: after a restart
    /// of it the same request works.
    pub(crate) fn is_transient(&self) -> bool {
        let Self::Api { source, .. } = self else {
            return false;
        };
        match source.as_ref() {
            kube::Error::Api(status) => matches!(status.code, 403 | 429 | 500..=599),
            kube::Error::Service(_) | kube::Error::HyperError(_) => true,
            _ => false,
        }
    }

    /// For `map_err` on a request to the hub's API.
    pub(crate) fn api(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        move |source| Self::Api {
            action,
            source: Box::new(source),
        }
    }
}
