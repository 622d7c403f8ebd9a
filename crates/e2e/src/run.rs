//! Runs one command with a deadline and tells everything about its failure.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// What a command answered.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output when the command succeeded.
    pub fn success(self, what: &str) -> Result<String> {
        if self.code == Some(0) {
            return Ok(self.stdout);
        }
        bail!(
            "{what}: exit {:?}\nstdout: {}\nstderr: {}",
            self.code,
            self.stdout.trim(),
            self.stderr.trim()
        )
    }

    /// Both streams.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs `program` with `arguments`, feeding `input`, for at most `deadline`.
pub fn run(
    program: &Path,
    arguments: &[&str],
    input: Option<&[u8]>,
    deadline: Duration,
) -> Result<Output> {
    let what = || format!("{} {}", program.display(), arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", what()))?;
    let feed = child
        .stdin
        .take()
        .zip(input.map(<[u8]>::to_vec))
        .map(|(mut pipe, bytes)| {
            std::thread::spawn(move || {
                let _ = pipe.write_all(&bytes);
            })
        });
    let out = child.stdout.take().map(drain);
    let err = child.stderr.take().map(drain);
    let status = wait(&mut child, deadline).with_context(what)?;
    if let Some(feed) = feed {
        let _ = feed.join();
    }
    let text = |thread: Option<std::thread::JoinHandle<String>>| {
        thread.and_then(|t| t.join().ok()).unwrap_or_default()
    };
    Ok(Output {
        code: status,
        stdout: text(out),
        stderr: text(err),
    })
}

fn drain(mut pipe: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = (&mut pipe as &mut dyn std::io::Read).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, deadline: Duration) -> Result<Option<i32>> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(status) = child.try_wait().context("wait for it")? {
            return Ok(status.code());
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            bail!("still running after {deadline:?}");
        }
        pause(Duration::from_millis(20));
    }
}

/// The only pause of this crate: between two looks at a condition.
#[allow(clippy::disallowed_methods)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
