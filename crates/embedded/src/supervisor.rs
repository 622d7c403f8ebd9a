//! The process that keeps a hub's processes running.
//!
//! It begins in the machine's network namespace, where it listens when asked to, and
//! does everything else on threads in the hub's. Its end by SIGTERM stops its processes
//! in order; its sudden death leaves them running, to be adopted by the next one.

use std::collections::HashMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

use crate::child::Child;
use crate::error::Error;
use crate::files::Files;
use crate::images::Index;
use crate::name::HubName;
use crate::network::namespace_file;
use crate::process::ProcessId;
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

fn listen(address: SocketAddr) -> Result<StdListener, Error> {
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
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::file("watch", "signals"))?;
    files.make_dirs()?;
    keys::ensure(&record, &files)?;
    let index = Index::load(&record.dist)?;
    node::configure(&record, &files, index.reference("pause"))?;
    if let Some(listener) = listener {
        tokio::spawn(forward(listener, info(&record, &files).gateway_address));
    }
    let components = processes::all(&record, &files);
    let mut started: HashMap<&str, std::sync::Arc<Child>> = HashMap::new();
    let me = ProcessId::of(std::process::id() as i32).ok_or_else(|| Error::Namespaces {
        message: String::new(),
    })?;
    let publish = |started: &HashMap<&str, std::sync::Arc<Child>>| {
        let processes = components
            .iter()
            .map(|c| {
                started.get(c.name).map_or_else(
                    || ProcessStatus {
                        name: c.name.into(),
                        state: "waiting".into(),
                        pid: None,
                        ready: false,
                    },
                    |x| x.state.borrow().clone(),
                )
            })
            .collect();
        Published {
            supervisor: me,
            processes,
        }
        .save(&files)
    };
    loop {
        for c in &components {
            if !started.contains_key(c.name)
                && c.needs
                    .iter()
                    .all(|n| started.get(n).is_some_and(|x| x.state.borrow().ready))
            {
                started.insert(c.name, Child::start(c, &files)?);
            }
        }
        publish(&started)?;
        tokio::select! { _ = terminate.recv() => break, () = tokio::time::sleep(std::time::Duration::from_millis(30)) => {} }
    }
    for c in components.iter().rev() {
        if let Some(x) = started.get(c.name) {
            x.stop().await;
        }
    }
    Ok(())
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
