//! Local addresses at which programs of this machine reach services of the hub.
//!
//! The plan names them; they come up before the hub is reached, from the plan on disk. An address
//! that is not the machine's is added to `lo`, and taken away again when the plan ends: what was
//! added is written down first. A connection whose stream breaks is reset at once, so that its
//! program tries anew instead of waiting for an answer that is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use farplane_tunnel::{Class, MovingStream, OpenHeader, splice_tcp};
use farplane_types::wire::service;
use farplane_types::{HostPlanSpec, Listener, UnitState, UnitStatus};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::Command;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::sessions::Tunnels;
use crate::status::Board;
use crate::{doctor, files};

/// How problems of listeners begin on the board; the address follows.
const SUBJECT: &str = "listener ";
/// How long a connection waits for a session to the hub.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at whether an address is still there.
const LOOK: Duration = Duration::from_secs(10);
/// Between two tries to listen.
const RETRY: Duration = Duration::from_secs(1);
/// Longest run of `ip`.
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
/// Connections of one listener at a time; more are reset.
const MAX_CONNECTIONS: usize = 512;
/// Services that are not for local programs: they speak for the host itself.
const OWN_SERVICES: &[&str] = &[service::PLAN, service::RENEW, service::REPO];

/// Why a listener is not there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The plan's words make no listener.
    #[error("{address} is not an address to listen at")]
    Address {
        /// What the plan says.
        address: String,
    },
    /// Local programs would act as the host.
    #[error("service {service:?} is not for local programs")]
    Service {
        /// The service.
        service: String,
    },
    /// What was added could not be written down or read.
    #[error("failed to use {path}: {source}")]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `ip` failed.
    #[error("failed to {action} address {address} on lo: {reason}; is iproute2 installed?")]
    Interface {
        /// `add` or `delete`.
        action: &'static str,
        /// The address.
        address: IpAddr,
        /// What it said.
        reason: String,
    },
    /// The port is taken.
    #[error("failed to listen at {address}: {source}; `ss -ltnp` shows who does")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Listeners of the plan.
pub struct Listeners {
    /// The plan in force.
    pub plan: watch::Receiver<Option<Arc<HostPlanSpec>>>,
    /// The sessions.
    pub tunnels: Arc<Tunnels>,
    /// Where to say how it goes.
    pub board: Arc<Board>,
    /// The agent's directory.
    pub agent_dir: PathBuf,
    /// Runtime of bulk copies.
    pub bulk: Handle,
}

/// The way to the hub.
#[derive(Clone)]
struct Hub {
    tunnels: Arc<Tunnels>,
    bulk: Handle,
}

/// One listener with its plane.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    address: SocketAddr,
    service: String,
    plane: String,
}

fn wish(listener: &Listener, plane: &str) -> Result<Wish, ListenError> {
    let address = listener.address.parse::<IpAddr>().ok();
    let address = address.filter(|it| !it.is_unspecified() && !it.is_multicast());
    let address = address.ok_or_else(|| ListenError::Address {
        address: listener.address.clone(),
    })?;
    if OWN_SERVICES.contains(&listener.service.as_str()) {
        return Err(ListenError::Service {
            service: listener.service.clone(),
        });
    }
    Ok(Wish {
        address: SocketAddr::new(address, listener.port),
        service: listener.service.clone(),
        plane: plane.to_owned(),
    })
}

fn wishes(plan: Option<&HostPlanSpec>) -> (Vec<Wish>, Vec<ListenError>) {
    let mut wanted = Vec::new();
    let mut wrong = Vec::new();
    if let Some(plan) = plan {
        for listener in &plan.listeners {
            match wish(listener, &plan.plane.uid) {
                Ok(wish) => wanted.push(wish),
                Err(error) => wrong.push(error),
            }
        }
    }
    (wanted, wrong)
}

impl Listeners {
    /// Follows the plan for ever. When dropped, everything stops listening; addresses stay, as
    /// the plan is still in force.
    pub async fn run(mut self) {
        let record = Arc::new(Mutex::new(self.agent_dir.join(RECORD)));
        let mut current = Vec::new();
        let mut serving = JoinSet::new();
        loop {
            let plan = self.plan.borrow_and_update().clone();
            let (wanted, wrong) = wishes(plan.as_deref());
            for error in wrong {
                tracing::error!(%error, "listener of the plan refused");
            }
            if wanted != current || serving.is_empty() {
                serving.shutdown().await;
                for wish in &wanted {
                    let hub = Hub {
                        tunnels: self.tunnels.clone(),
                        bulk: self.bulk.clone(),
                    };
                    let board = self.board.clone();
                    serving.spawn(serve(wish.clone(), hub, board, Arc::clone(&record)));
                }
                current = wanted;
            }
            let keep: BTreeSet<IpAddr> = current.iter().map(|wish| wish.address.ip()).collect();
            let tidied = remove_recorded(&record, &keep).await;
            let failed = tidied.is_err();
            if let Err(error) = &tidied {
                tracing::warn!(%error, "address not taken away, trying again");
            }
            self.board
                .problem("addresses", tidied.err().map(|error| error.to_string()));
            tokio::select! {
                changed = self.plan.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                () = sleep(RETRY), if failed => {}
            }
        }
    }
}

/// Listeners that are not there, of the problems on the board.
pub fn absent(problems: &BTreeMap<String, String>) -> Vec<UnitStatus> {
    let of = |(subject, message): (&String, &String)| {
        let address = subject.strip_prefix(SUBJECT)?;
        Some(UnitStatus {
            unit: format!("listener/{address}"),
            state: UnitState::Failed,
            message: message.clone(),
        })
    };
    problems.iter().filter_map(of).collect()
}

/// Keeps one listener there.
async fn serve(wish: Wish, hub: Hub, board: Arc<Board>, record: Arc<RecordFile>) {
    let subject = format!("{SUBJECT}{}", wish.address);
    // Ends every connection when this future is dropped.
    let open = CancellationToken::new();
    let _end = open.clone().drop_guard();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let listener = match listen(&wish, &record).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(%error, "listener of the plan is not there, trying again");
                board.problem(&subject, Some(error.to_string()));
                sleep(RETRY).await;
                continue;
            }
        };
        board.problem(&subject, None);
        tracing::info!(address = %wish.address, service = wish.service, "listening");
        let watching = still_there(wish.address.ip());
        tokio::pin!(watching);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut watching => break,
            };
            let Ok((socket, _)) = accepted else {
                // Out of files: give those that hold them time to end.
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                reset(socket);
                continue;
            };
            let (wish, hub, open) = (wish.clone(), hub.clone(), open.clone());
            tokio::spawn(async move {
                connection(&wish, &hub, socket, &open).await;
                drop(place);
            });
        }
    }
}

async fn connection(wish: &Wish, hub: &Hub, socket: TcpStream, open: &CancellationToken) {
    // Works without; only latency suffers.
    _ = socket.set_nodelay(true);
    let mut header = OpenHeader::new(Class::Interactive, &wish.service);
    header.plane = Some(wish.plane.clone());
    let key = MovingStream::key();
    header.moves = Some(key.clone());
    let stream = tokio::select! {
        stream = hub.tunnels.open(header, PATIENCE) => stream,
        () = open.cancelled() => return reset(socket),
    };
    match stream {
        Ok(stream) => {
            let tunnels = Arc::clone(&hub.tunnels);
            let stream = MovingStream::opened(stream, key, move || tunnels.of(Class::Bulk));
            tokio::select! {
                _ = splice_tcp(socket, stream, &hub.bulk) => {}
                () = open.cancelled() => {}
            }
        }
        Err(error) => {
            tracing::debug!(service = wish.service, %error, "local connection reset");
            reset(socket);
        }
    }
}

/// Ends with RST: whoever waits for an answer shall not take it for an end.
fn reset(socket: TcpStream) {
    _ = socket.set_zero_linger();
}

async fn listen(wish: &Wish, record: &RecordFile) -> Result<TcpListener, ListenError> {
    let address = wish.address;
    if !is_local(address.ip()) {
        let path = record.lock().await;
        let mut added = read_record(&path)?;
        added.insert(address.ip());
        write_record(&path, &added)?;
        change("add", address.ip()).await?;
    }
    let bound = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    bound
        .and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(1024)
        })
        .map_err(|source| ListenError::Listen { address, source })
}

/// Waits until the address is not the machine's any more.
async fn still_there(address: IpAddr) {
    loop {
        sleep(LOOK).await;
        if !is_local(address) {
            return;
        }
    }
}

/// Whether the machine has this address. Everything below 127.0.0.0/8 is always there.
fn is_local(address: IpAddr) -> bool {
    let mut all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    address.is_loopback()
        || all.any(|interface| {
            let found = interface.address;
            let v4 = found.as_ref().and_then(|it| it.as_sockaddr_in());
            let v6 = found.as_ref().and_then(|it| it.as_sockaddr_in6());
            let v4 = v4.map(|it| IpAddr::V4(it.ip()));
            v4.or_else(|| v6.map(|it| IpAddr::V6(it.ip()))) == Some(address)
        })
}

/// Addresses that agents added to `lo`.
const RECORD: &str = "addresses.json";

/// The file with them. Locked while it and `lo` are changed: listeners come up while addresses
/// of the plan before are taken away.
type RecordFile = Mutex<PathBuf>;

fn read_record(path: &Path) -> Result<BTreeSet<IpAddr>, ListenError> {
    let failed = |source| ListenError::Record {
        path: path.to_owned(),
        source,
    };
    let bytes = files::read(path).map_err(failed)?;
    let record = bytes
        .map(|bytes| serde_json::from_slice(&bytes))
        .transpose();
    Ok(record
        .map_err(io::Error::other)
        .map_err(failed)?
        .unwrap_or_default())
}

fn write_record(path: &Path, record: &BTreeSet<IpAddr>) -> Result<(), ListenError> {
    let bytes = serde_json::to_vec(record).map_err(io::Error::other);
    let written = match bytes {
        Ok(bytes) if !record.is_empty() => files::write_private(path, &bytes),
        Ok(_) => files::remove(path),
        Err(error) => Err(error),
    };
    written.map_err(|source| ListenError::Record {
        path: path.to_owned(),
        source,
    })
}

/// Takes away every address that agents added, but those to keep.
///
/// # Errors
/// When one stays.
pub async fn remove_addresses(
    agent_dir: &Path,
    keep: &BTreeSet<IpAddr>,
) -> Result<(), ListenError> {
    remove_recorded(&Mutex::new(agent_dir.join(RECORD)), keep).await
}

async fn remove_recorded(record: &RecordFile, keep: &BTreeSet<IpAddr>) -> Result<(), ListenError> {
    let path = record.lock().await;
    let mut record = read_record(&path)?;
    let gone: Vec<IpAddr> = record.difference(keep).copied().collect();
    for address in gone {
        if is_local(address) {
            change("delete", address).await?;
        }
        record.remove(&address);
        write_record(&path, &record)?;
    }
    Ok(())
}

async fn change(action: &'static str, address: IpAddr) -> Result<(), ListenError> {
    let failed = |reason: String| ListenError::Interface {
        action,
        address,
        reason,
    };
    let program = doctor::program("ip").ok_or_else(|| failed("there is no ip".to_owned()))?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let mut command = Command::new(program);
    command
        .args(["address", action, &format!("{address}/{bits}"), "dev", "lo"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(COMMAND_DEADLINE, command.output()).await;
    let output = output
        .map_err(|_| failed("it does not end".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() || (action == "add" && said.contains("File exists")) {
        return Ok(());
    }
    Err(failed(said.trim().to_owned()))
}

#[cfg(test)]
#[path = "listen_tests.rs"]
mod tests;
