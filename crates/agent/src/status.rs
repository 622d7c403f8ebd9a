//! What the running agent says of itself, in a file that `farplane-agent status` reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use farplane_types::UnitStatus;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::files;

/// Shortest time between two writes of the file.
const WRITE_GAP: Duration = Duration::from_millis(300);

/// Everything that is told.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The hub's address.
    pub hub: String,
    /// What the agent is doing: `starting`, `enrolling`, `running`, `stopped`, `removed`.
    pub phase: String,
    /// Identity at the hub.
    pub identity: Option<String>,
    /// End of the certificate.
    pub certificate_not_after: Option<Timestamp>,
    /// Address by which other hosts reach this one.
    pub node_address: Option<String>,
    /// Sessions to the hub by class.
    pub tunnels: BTreeMap<String, TunnelStatus>,
    /// The plan as far as it is.
    pub plan: Option<PlanStatus>,
    /// What is wrong and what to do, by subject.
    pub problems: BTreeMap<String, String>,
}

/// One session.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TunnelStatus {
    /// `connected` or `connecting`.
    pub state: String,
    /// Since when.
    pub since: Timestamp,
    /// Why the last session ended or could not be opened.
    pub message: String,
}

/// The plan as far as it is.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// Generation.
    pub generation: i64,
    /// Whether every unit is ready.
    pub applied: bool,
    /// The units.
    pub units: Vec<UnitStatus>,
}

/// Where every part of the agent puts what it has to say.
#[derive(Debug)]
pub struct Board {
    status: watch::Sender<Status>,
}

impl Board {
    /// A board of this process.
    pub fn new(hub: &str) -> Self {
        Self {
            status: watch::Sender::new(Status {
                version: crate::VERSION.to_owned(),
                pid: std::process::id(),
                hub: hub.to_owned(),
                ..Status::default()
            }),
        }
    }

    /// Changes something.
    pub fn change(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
    }

    /// Says what is wrong with a subject, or that nothing is any more.
    pub fn problem(&self, subject: &str, text: Option<String>) {
        self.change(|status| {
            match text {
                Some(text) => status.problems.insert(subject.to_owned(), text),
                None => status.problems.remove(subject),
            };
        });
    }

    /// What is said right now.
    pub fn get(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Every change from now on.
    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Writes the file now.
    pub fn write(&self, agent_dir: &Path) {
        let status = self.get();
        let bytes = serde_json::to_vec_pretty(&status).map_err(std::io::Error::other);
        let path = path(agent_dir);
        let written = bytes.and_then(|bytes| files::write_private(&path, &bytes));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "status not written");
        }
    }

    /// Writes the file at every change, for ever.
    pub async fn keep_written(&self, agent_dir: &Path) {
        let mut changes = self.status.subscribe();
        loop {
            _ = changes.borrow_and_update();
            self.write(agent_dir);
            // Changes come in bursts; what is written after the gap has them all.
            tokio::time::sleep(WRITE_GAP).await;
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

fn path(agent_dir: &Path) -> PathBuf {
    agent_dir.join("status.json")
}

/// What the last agent said; `None` when none ever ran.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read(agent_dir: &Path) -> std::io::Result<Option<Status>> {
    let bytes = files::read(&path(agent_dir))?;
    let parsed = bytes
        .map(|bytes| serde_json::from_slice(&bytes))
        .transpose();
    parsed.map_err(std::io::Error::other)
}

/// The status for people.
pub fn describe(status: &Status, running: bool, now: Timestamp) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: &str| lines.push(format!("{name:<13}{value}"));
    let process = match running {
        true => format!(
            "{} (process {}, version {})",
            status.phase, status.pid, status.version
        ),
        false => "not running; start it with `systemctl start farplane-agent` or \
                  `farplane-agent run`"
            .to_owned(),
    };
    line("Agent", &process);
    line("Hub", &status.hub);
    line("Identity", status.identity.as_deref().unwrap_or("none yet"));
    if let Some(end) = status.certificate_not_after {
        let left = end.as_second() - now.as_second();
        let words = match left {
            ..=0 => format!("ended at {end}"),
            _ => format!("until {end} ({} h {} min)", left / 3600, left % 3600 / 60),
        };
        line("Certificate", &words);
    }
    line(
        "Address",
        status.node_address.as_deref().unwrap_or("unknown"),
    );
    for (class, tunnel) in &status.tunnels {
        let why = if tunnel.message.is_empty() {
            String::new()
        } else {
            format!(": {}", tunnel.message)
        };
        let name = format!("{class} tunnel");
        lines.push(format!(
            "{name:<20}{} since {}{why}",
            tunnel.state, tunnel.since
        ));
    }
    match &status.plan {
        None => lines.push("Plan         none".to_owned()),
        Some(plan) => {
            let state = if plan.applied {
                "applied"
            } else {
                "being applied"
            };
            lines.push(format!(
                "Plan         generation {}, {state}",
                plan.generation
            ));
            for unit in &plan.units {
                let state = format!("{:?}", unit.state).to_lowercase();
                lines.push(
                    format!("  {state:<10}{}  {}", unit.unit, unit.message)
                        .trim_end()
                        .to_owned(),
                );
            }
        }
    }
    for (subject, text) in &status.problems {
        lines.push(format!("Problem      {subject}: {text}"));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use farplane_types::UnitState;

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), None);
        let board = Board::new("hub:1");
        board.problem("tunnel", Some("no way".into()));
        board.write(folder.path());
        assert_eq!(read(folder.path()).unwrap(), Some(board.get()));
        board.problem("tunnel", None);
        assert!(board.get().problems.is_empty());
    }

    #[tokio::test]
    async fn the_file_follows_changes() {
        let folder = tempfile::tempdir().unwrap();
        let board = std::sync::Arc::new(Board::new("hub:1"));
        let (writer, place) = (board.clone(), folder.path().to_owned());
        let task = tokio::spawn(async move { writer.keep_written(&place).await });
        board.change(|status| status.phase = "running".into());
        while read(folder.path())
            .unwrap()
            .is_none_or(|it| it.phase != "running")
        {
            tokio::task::yield_now().await;
        }
        task.abort();
    }

    #[test]
    fn people_read_identity_tunnels_units_and_problems() {
        let now: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        let mut status = Board::new("hub:1").get();
        status.phase = "running".into();
        status.identity = Some("farplane://host/demo/site/one/u".into());
        status.certificate_not_after = Some("2026-11-26T11:30:00Z".parse().unwrap());
        let tunnel = TunnelStatus {
            state: "connecting".into(),
            since: now,
            message: "refused".into(),
        };
        status.tunnels.insert("bulk".into(), tunnel);
        status.plan = Some(PlanStatus {
            generation: 3,
            applied: false,
            units: vec![UnitStatus {
                unit: "process/kubelet".into(),
                state: UnitState::Waiting,
                message: "waits".into(),
            }],
        });
        status.problems.insert("renewal".into(), "hub away".into());
        let text = describe(&status, true, now);
        for words in [
            "farplane://host/demo/site/one/u",
            "(23 h 30 min)",
            "bulk tunnel",
            ": refused",
            "generation 3",
            "waiting   process/kubelet",
            "renewal: hub away",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        assert!(describe(&status, false, now).contains("not running"));
    }
}
