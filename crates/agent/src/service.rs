//! The agent as a service of systemd.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::files;

/// Name of the unit.
pub const UNIT: &str = "farplane-agent.service";
const UNIT_PATH: &str = "/etc/systemd/system/farplane-agent.service";

/// Why the service is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The program does not know where it is.
    #[error("failed to find this program's own file")]
    Program {
        /// Why.
        source: io::Error,
    },
    /// The program is where files do not stay.
    #[error(
        "{program} is in a directory that the system empties, and the service would miss it; move \
         it first: install -m 0755 {program} /usr/local/bin/farplane-agent"
    )]
    Passing {
        /// This program.
        program: PathBuf,
    },
    /// The unit file.
    #[error("failed to write {UNIT_PATH}")]
    Unit {
        /// Why.
        source: io::Error,
    },
    /// systemctl could not be run.
    #[error("failed to run systemctl")]
    Run {
        /// Why.
        source: io::Error,
    },
    /// systemctl failed.
    #[error("`systemctl {command}` failed: {reason}; `journalctl -u {UNIT}` may tell more")]
    Systemctl {
        /// Arguments.
        command: String,
        /// What it said.
        reason: String,
    },
}

/// Text of the unit.
///
/// What the plan runs must outlive the agent, so only its own process is ended, and the
/// service's limits are those that containers need.
pub fn unit(program: &Path, config: &Path) -> String {
    format!(
        "[Unit]
Description=Farplane agent
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={} run --config {}
Restart=on-failure
RestartSec=1
RestartPreventExitStatus=2
KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
TasksMax=infinity
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
",
        quoted(program),
        quoted(config)
    )
}

/// A path as one word of a unit.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace('%', "%%").replace('$', "$$"))
}

/// This program's file, when it is one that a service can go on using.
///
/// # Errors
/// When it is where files are removed sooner or later.
pub fn program() -> Result<PathBuf, ServiceError> {
    let program = std::env::current_exe().map_err(|source| ServiceError::Program { source })?;
    if is_passing(&program) {
        return Err(ServiceError::Passing { program });
    }
    Ok(program)
}

fn is_passing(program: &Path) -> bool {
    ["/tmp", "/var/tmp", "/run", "/dev/shm"]
        .iter()
        .any(|place| program.starts_with(place))
}

/// Writes the unit, enables and (re)starts it.
///
/// # Errors
/// When systemd does not take it.
pub fn install(config: &Path) -> Result<(), ServiceError> {
    let program = program()?;
    std::fs::write(UNIT_PATH, unit(&program, config))
        .map_err(|source| ServiceError::Unit { source })?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", UNIT])?;
    systemctl(&["restart", UNIT])
}

/// Whether the service is that of this configuration: agents with other ones may run beside it.
pub(crate) fn is_for(config: &Path) -> bool {
    let text = std::fs::read_to_string(UNIT_PATH).unwrap_or_default();
    let end = format!(" --config {}", quoted(config));
    crate::facts::has_systemd() && text.lines().any(|line| line.ends_with(&end))
}

/// Ends the service of this configuration, where there is one; answers whether it ran.
///
/// # Errors
/// When it does not end.
pub fn stop(config: &Path) -> Result<bool, ServiceError> {
    if !is_for(config) {
        return Ok(false);
    }
    let ran = systemctl(&["is-active", UNIT]).is_ok();
    systemctl(&["stop", UNIT])?;
    Ok(ran)
}

/// Starts the service that was stopped.
///
/// # Errors
/// When systemd does not take it.
pub fn start() -> Result<(), ServiceError> {
    systemctl(&["start", UNIT])
}

/// Removes the unit. It may be that of the caller, which runs on.
///
/// # Errors
/// When its file stays or systemd does not take it.
pub fn remove(config: &Path) -> Result<(), ServiceError> {
    if !is_for(config) {
        return Ok(());
    }
    systemctl(&["disable", UNIT])?;
    files::remove(Path::new(UNIT_PATH)).map_err(|source| ServiceError::Unit { source })?;
    systemctl(&["daemon-reload"])
}

fn systemctl(arguments: &[&str]) -> Result<(), ServiceError> {
    let output = Command::new("systemctl")
        .arg("--quiet")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ServiceError::Run { source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(ServiceError::Systemctl {
        command: arguments.join(" "),
        reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_leaves_the_plans_processes_alone() {
        let text = unit(
            Path::new("/opt/a b/farplane-agent"),
            Path::new("/etc/farplane/agent.yaml"),
        );
        let start =
            "ExecStart=\"/opt/a b/farplane-agent\" run --config \"/etc/farplane/agent.yaml\"";
        assert!(text.contains(start), "{text}");
        assert!(text.contains("KillMode=process"));
        assert!(text.contains("Restart=on-failure"));
        let odd = unit(Path::new("/a\"$%"), Path::new("/b"));
        assert!(odd.contains(r#""/a\"$$%%""#), "{odd}");
    }

    #[test]
    fn a_program_that_will_be_gone_is_no_service() {
        assert!(is_passing(Path::new("/tmp/farplane-agent")));
        assert!(is_passing(Path::new("/var/tmp/x/farplane-agent")));
        for fine in ["/usr/local/bin/farplane-agent", "/opt/tmp/a", "/root/a"] {
            assert!(!is_passing(Path::new(fine)), "{fine}");
        }
    }
}
