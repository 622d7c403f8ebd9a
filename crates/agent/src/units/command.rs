//! Runs short commands of the machine, bounded in time and in what they print.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// Where programs of the machine are.
pub const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Characters of output that an error quotes.
const QUOTED: usize = 400;

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started.
    #[error("failed to start {program}, check that it is installed")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It did not end in time and was killed.
    #[error("{program} did not end within {}s", limit.as_secs())]
    Late {
        /// The program.
        program: String,
        /// The time it had.
        limit: Duration,
    },
    /// It ended with a failure.
    #[error("{program} ended with {status}: {output}")]
    Failed {
        /// The program.
        program: String,
        /// Code or signal.
        status: std::process::ExitStatus,
        /// The end of what it printed.
        output: String,
    },
}

impl Error {
    /// The program is not on this machine.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Start { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// Runs a command to its end and gives what it printed.
///
/// # Errors
/// When it cannot be started, does not end in time, or fails.
pub async fn run(command: &[&str], limit: Duration) -> Result<String, Error> {
    let Some((&program, arguments)) = command.split_first() else {
        return Ok(String::new());
    };
    let child = Command::new(program)
        .args(arguments)
        .env("PATH", SYSTEM_PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let program = program.to_owned();
    let child = match child {
        Ok(child) => child,
        Err(source) => return Err(Error::Start { program, source }),
    };
    let output = match tokio::time::timeout(limit, child.wait_with_output()).await {
        Err(_) => return Err(Error::Late { program, limit }),
        Ok(Err(source)) => return Err(Error::Start { program, source }),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let printed = [output.stdout, output.stderr].concat();
    Err(Error::Failed {
        program,
        status: output.status,
        output: end_of(&String::from_utf8_lossy(&printed)),
    })
}

fn end_of(text: &str) -> String {
    let text = text.trim();
    let skipped = text.chars().count().saturating_sub(QUOTED);
    text.chars().skip(skipped).collect()
}

/// An error with its causes, on one line.
pub fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
