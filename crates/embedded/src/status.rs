//! What the supervisor tells of itself, and what a person is told of a hub.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use farplane_supervise::{ProcessId, State, Status};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::files::{self, Files, tail};
use crate::name::HubName;
use crate::record::Record;
use crate::up::info;

/// One process of a hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Its name.
    pub name: String,
    /// `ready`, or in a word what it does instead.
    pub state: String,
    /// Its process id while it runs.
    pub pid: Option<u32>,
    /// True when it answers.
    pub ready: bool,
}

impl ProcessStatus {
    /// Of a process that waits for others.
    pub(crate) fn waiting(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: State::Waiting.to_string(),
            pid: None,
            ready: false,
        }
    }
}

impl From<Status> for ProcessStatus {
    fn from(status: Status) -> Self {
        let state = match (status.state, &status.last_exit) {
            (State::Ended, Some(exit)) => format!("ended ({exit})"),
            (state, _) => state.to_string(),
        };
        Self {
            name: status.name,
            state,
            pid: status.pid.and_then(|pid| u32::try_from(pid).ok()),
            ready: status.ready,
        }
    }
}

/// The file `run/status.json`, which the supervisor replaces at every change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Published {
    pub supervisor: ProcessId,
    pub processes: Vec<ProcessStatus>,
}

impl Published {
    pub fn load(files: &Files) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(files.status()).ok()?).ok()
    }

    pub fn save(&self, files: &Files) -> Result<(), Error> {
        let path = files.status();
        let text = serde_json::to_vec(self).map_err(|source| Error::DamagedRecord {
            path: path.clone(),
            source,
        })?;
        files::write(&path, &text, 0o600).map(|_| ())
    }

    /// Names of processes that are not ready, of one or of all.
    pub fn late(&self, only: Option<&str>) -> Vec<String> {
        self.processes
            .iter()
            .filter(|process| only.is_none_or(|only| process.name == only) && !process.ready)
            .map(|process| process.name.clone())
            .collect()
    }
}

/// The last words of processes that are late.
pub(crate) fn explain(files: &Files, late: &[String]) -> String {
    let mut parts = Vec::new();
    for name in late {
        let log = files.logs().join(format!("{name}.log"));
        parts.push(match tail(&log, 1) {
            said if said.is_empty() => format!("{name} is not ready"),
            said => format!(
                "{name} is not ready and says: {said} (more in {})",
                log.display()
            ),
        });
    }
    parts.join("; ")
}

/// What a person is told of a hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HubStatus {
    /// Which hub.
    pub name: HubName,
    /// True when there is such a hub, running or not.
    pub exists: bool,
    /// True when its supervisor runs.
    pub running: bool,
    /// True when every process is ready.
    pub ready: bool,
    /// Address of its node.
    pub address: Option<Ipv4Addr>,
    /// Address of its gateway.
    pub gateway_address: Option<SocketAddr>,
    /// Base of its server names.
    pub hub_domain: Option<String>,
    /// Kubeconfig with all rights.
    pub kubeconfig: PathBuf,
    /// The supervisor and its processes.
    pub processes: Vec<ProcessStatus>,
}

/// Status of a hub from its files; asks nothing over the network.
pub async fn status(name: &HubName) -> HubStatus {
    of_state(name, &Files::new(name.default_state_dir()))
}

fn of_state(name: &HubName, files: &Files) -> HubStatus {
    let record = Record::load(files).ok().flatten();
    let supervisor = record.as_ref().and_then(|record| record.supervisor);
    let supervisor = supervisor.filter(|process| process.is_alive());
    let mut processes = vec![ProcessStatus {
        name: "supervisor".to_owned(),
        state: if supervisor.is_some() {
            "ready"
        } else {
            "stopped"
        }
        .to_owned(),
        pid: supervisor.and_then(|process| u32::try_from(process.pid).ok()),
        ready: supervisor.is_some(),
    }];
    for mut process in Published::load(files)
        .into_iter()
        .flat_map(|all| all.processes)
    {
        let alive = process
            .pid
            .and_then(|pid| i32::try_from(pid).ok())
            .is_some_and(|pid| ProcessId::of(pid).is_some());
        if !alive {
            process.pid = None;
        }
        if supervisor.is_none() {
            process.ready = false;
            process.state = if alive { "unsupervised" } else { "stopped" }.to_owned();
        }
        processes.push(process);
    }
    let info = record.as_ref().map(|record| info(record, files));
    HubStatus {
        name: name.clone(),
        exists: record.is_some(),
        running: supervisor.is_some(),
        ready: processes.len() > 1 && processes.iter().all(|process| process.ready),
        address: record.as_ref().map(Record::hub_address),
        gateway_address: info.as_ref().map(|info| info.gateway_address),
        hub_domain: info.map(|info| info.hub_domain),
        kubeconfig: files.kubeconfig(),
        processes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_without_state_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let name = HubName::new("none").unwrap();
        let status = of_state(&name, &Files::new(dir.path()));
        assert!(!status.exists && !status.running && !status.ready);
    }

    #[test]
    fn how_a_process_ended_is_in_its_state() {
        let mut status = Status {
            name: "etcd".to_owned(),
            state: State::Ended,
            pid: None,
            ready: false,
            restarts: 1,
            last_exit: Some(farplane_supervise::Exit::Code(2)),
            log: PathBuf::new(),
        };
        let ended = ProcessStatus::from(status.clone());
        assert_eq!(ended.state, "ended (exited with code 2)");
        (status.state, status.pid, status.ready) = (State::Ready, Some(7), true);
        let ready = ProcessStatus::from(status);
        assert_eq!((ready.state.as_str(), ready.pid), ("ready", Some(7)));
    }

    #[test]
    fn late_processes_are_named() {
        let process = |name: &str, ready| ProcessStatus {
            name: name.to_owned(),
            state: String::new(),
            pid: None,
            ready,
        };
        let published = Published {
            supervisor: ProcessId { pid: 1, start: 1 },
            processes: vec![process("etcd", true), process("kubelet", false)],
        };
        assert_eq!(published.late(None), ["kubelet"]);
        assert!(published.late(Some("etcd")).is_empty());
    }
}
