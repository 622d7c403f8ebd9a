//! What a long build says on stderr: one line per phase, a line every ten seconds
//! while a program runs, and the end of its log when it fails.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
const HEARTBEAT: Duration = Duration::from_secs(10);
const LOG_TAIL_LINES: usize = 30;

/// One line: time since the start of the command, what is built, and what happens.
pub fn line(name: &str, text: &str) {
    eprintln!(
        "[{:>6.1} s] {name:<22} {text}",
        START.elapsed().as_secs_f64()
    );
}

/// Says that nothing has to be done.
pub fn cached(name: &str, key: &str) {
    line(name, &format!("cached ({key})"));
}

/// Runs a program with its output in `log`.
///
/// # Errors
/// When it cannot be started (names the Debian package that has it) or fails
/// (shows the end of the log).
pub fn run(name: &str, phase: &str, command: &mut Command, log: &Path) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = File::create(log).with_context(|| format!("make the log {}", log.display()))?;
    let errors = output.try_clone().context("share the log")?;
    line(name, phase);
    let start = Instant::now();
    let spawned = command
        .stdin(std::process::Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn();
    let mut child = spawned.map_err(|error| start_error(&program, error))?;
    let (sender, receiver) = channel();
    let waiter = std::thread::spawn(move || sender.send(child.wait()));
    let status = loop {
        match receiver.recv_timeout(HEARTBEAT) {
            Ok(status) => break status.with_context(|| format!("wait for {program}"))?,
            Err(RecvTimeoutError::Timeout) => {
                let last = last_lines(log, 1)
                    .trim()
                    .chars()
                    .take(80)
                    .collect::<String>();
                line(
                    name,
                    &format!("{phase}, {} s  {last}", start.elapsed().as_secs()),
                );
            }
            Err(RecvTimeoutError::Disconnected) => bail!("lost track of {program}"),
        }
    };
    drop(waiter);
    if !status.success() {
        bail!(
            "{name}: {phase} failed: {program}: {status}\n{}\nwhole log: {}",
            last_lines(log, LOG_TAIL_LINES),
            log.display()
        );
    }
    line(
        name,
        &format!("{phase} done in {:.1} s", start.elapsed().as_secs_f64()),
    );
    Ok(())
}

/// Runs a quick program and gives its standard output.
///
/// # Errors
/// As [`run`].
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| start_error(&program, error))?;
    if !output.status.success() {
        bail!(
            "{program}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn start_error(program: &str, error: std::io::Error) -> anyhow::Error {
    let hint = match (error.kind(), crate::deps::package_of(program)) {
        (std::io::ErrorKind::NotFound, Some(package)) => {
            format!("{program} is missing: install {package}")
        }
        _ => format!("start {program}"),
    };
    anyhow::Error::new(error).context(hint)
}

fn last_lines(log: &Path, count: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_end_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo why it failed; exit 3"]);
        let error = run("name", "phase", &mut command, &dir.path().join("log"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("why it failed") && error.contains('3'),
            "{error}"
        );
    }
}
