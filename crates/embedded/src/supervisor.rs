//! The process that keeps a hub's processes running.
//!
//! It begins in the machine's network namespace, where it listens when asked to, and
//! does everything else on threads in the hub's. Its end by SIGTERM stops its processes
//! in order; its sudden death leaves them running, to be adopted by the next one.

use std::fs::File;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::sync::Arc;

use farplane_supervise::{Child, Places, ProcessId};
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::error::Error;
use crate::files::Files;
use crate::images::Index;
use crate::name::HubName;
use crate::network::namespace_file;
use crate::processes::{self, Component};
use crate::record::Record;
use crate::status::{ProcessStatus, Published};
use crate::up::info;
use crate::{keys, node};

/// Runs the processes of a hub until SIGTERM. `farplane internal hub-supervisor` is
/// nothing but this call; [`crate::up()`] starts it.
///
/// # Errors
/// When keys, configuration or a process cannot be made; what runs is left running.
pub async fn supervisor_main(
    name: HubName,
    state_dir: PathBuf,
    dist: PathBuf,
) -> Result<(), Error> {
    let files = Files::new(state_dir);
    let mut record = Record::load(&files)?.ok_or_else(|| Error::NoSuchHub {
        name: name.to_string(),
    })?;
    record.dist = dist;
    let listener = record.listen.map(listen).transpose()?;
    let namespace = namespace_of(&record)?;
    // Threads made from this one stay in the hub's network namespace.
    let thread = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| Error::Namespaces {
            message: format!("entering the network namespace: {error}"),
        })?;
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|source| Error::StartProgram {
                program: "the supervisor's threads".to_owned(),
                source,
            })?
            .block_on(run(record, files, listener))
    });
    let joined = tokio::task::spawn_blocking(move || thread.join()).await;
    match joined {
        Ok(Ok(result)) => result,
        _ => Err(Error::Namespaces {
            message: "the supervisor's thread broke off".to_owned(),
        }),
    }
}

/// The namespace by its anchor: `/run` of the hub does not list it.
fn namespace_of(record: &Record) -> Result<File, Error> {
    let path = match record.anchor {
        Some(anchor) => PathBuf::from(format!("/proc/{}/ns/net", anchor.pid)),
        None => namespace_file(&record.name),
    };
    File::open(&path).map_err(Error::file("open", path))
}

/// Listens at an address of the machine.
pub(crate) fn listen(address: SocketAddr) -> Result<StdListener, Error> {
    let bound = StdListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => Error::AddressInUse { address },
        _ => Error::StartProgram {
            program: format!("listening at {address}"),
            source,
        },
    })
}

async fn run(record: Record, files: Files, listener: Option<StdListener>) -> Result<(), Error> {
    let _only = only_one(&files)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::file("watch", "signals"))?;
    files.make_dirs()?;
    keys::ensure(&record, &files)?;
    let index = Index::load(&record.dist)?;
    node::configure(&record, &files, index.reference("pause"))?;
    if let Some(listener) = listener {
        tokio::spawn(forward(listener, info(&record, &files).gateway_address));
    }
    let mut hub = Hub::new(processes::all(&record, &files), files)?;
    loop {
        hub.start_due();
        hub.publish()?;
        tokio::select! {
            _ = terminate.recv() => break,
            () = hub.changed.notified() => {}
        }
    }
    hub.stop().await
}

/// Two supervisors of one hub would each start everything.
fn only_one(files: &Files) -> Result<Flock<File>, Error> {
    let path = files.run().join("supervisor.lock");
    let file = File::create(&path).map_err(Error::file("make", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| Error::Namespaces {
        message: "another supervisor of this hub runs: repeat the command".to_owned(),
    })
}

/// The processes of the hub, started as what they need becomes ready.
struct Hub {
    me: ProcessId,
    files: Files,
    components: Vec<Component>,
    children: Vec<Option<Child>>,
    changed: Arc<Notify>,
}

impl Hub {
    fn new(components: Vec<Component>, files: Files) -> Result<Self, Error> {
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        let me = ProcessId::of(pid).ok_or_else(|| Error::Namespaces {
            message: "/proc does not show this process".to_owned(),
        })?;
        let children = components.iter().map(|_| None).collect();
        Ok(Self {
            me,
            files,
            components,
            children,
            changed: Arc::default(),
        })
    }

    fn start_due(&mut self) {
        let places = Places {
            records: self.files.processes(),
            logs: self.files.logs(),
        };
        let ready: Vec<&str> = self
            .components
            .iter()
            .zip(&self.children)
            .filter(|(_, child)| child.as_ref().is_some_and(|child| child.status().ready))
            .map(|(component, _)| component.program.name.as_str())
            .collect();
        for (component, child) in self.components.iter().zip(&mut self.children) {
            if child.is_none() && component.needs.iter().all(|need| ready.contains(need)) {
                let changed = Arc::clone(&self.changed);
                *child = Some(Child::start(component.program.clone(), &places, changed));
            }
        }
    }

    fn publish(&self) -> Result<(), Error> {
        let processes = self
            .components
            .iter()
            .zip(&self.children)
            .map(|(component, child)| {
                child.as_ref().map_or_else(
                    || ProcessStatus::waiting(&component.program.name),
                    |child| child.status().into(),
                )
            })
            .collect();
        Published {
            supervisor: self.me,
            processes,
        }
        .save(&self.files)
    }

    /// Ends the processes, those first that need others.
    async fn stop(mut self) -> Result<(), Error> {
        while let Some(child) = self.children.pop() {
            if let Some(child) = child {
                child.stop().await;
            }
        }
        self.children = self.components.iter().map(|_| None).collect();
        self.publish()
    }
}

/// Passes every connection on to the gateway.
async fn forward(listener: StdListener, gateway: SocketAddr) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    loop {
        let Ok((mut client, _)) = listener.accept().await else {
            // Out of descriptors, most likely; a connection that ends frees some.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        tokio::spawn(async move {
            if let Ok(mut server) = TcpStream::connect(gateway).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn bytes_pass_both_ways_and_the_end_too() {
        let gateway = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let machine = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let (inner, outer) = (gateway.local_addr().unwrap(), machine.local_addr().unwrap());
        let forwarding = tokio::spawn(forward(machine, inner));
        let mut client = TcpStream::connect(outer).await.unwrap();
        let (mut server, _) = gateway.accept().await.unwrap();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "question");
        server.write_all(b"answer").await.unwrap();
        drop(server);
        text.clear();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "answer");
        forwarding.abort();
    }

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let taken = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.local_addr().unwrap();
        let error = listen(address).unwrap_err();
        assert!(matches!(error, Error::AddressInUse { address: named } if named == address));
    }
}
