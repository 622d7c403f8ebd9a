//! Child processes, their ports and their private memory.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::{Instant, sleep};

/// A process that ends with its owner.
pub struct Running {
    child: Child,
    program: String,
    log: PathBuf,
}

impl Running {
    /// Starts `program` in `directory`, with its output in `<name>.log` there.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        program: &Path,
        name: &str,
        directory: &Path,
        arguments: &[String],
        environment: &[(&str, String)],
    ) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let output =
            std::fs::File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let errors = output.try_clone().context("share the log")?;
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {}; run `make build` first", program.display()))?;
        Ok(Self {
            child,
            program: name.to_owned(),
            log,
        })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// # Errors
    /// When it has ended; tells the end of its log.
    pub fn check(&mut self) -> Result<()> {
        let ended = self.child.try_wait().context("look at a child")?;
        if let Some(status) = ended {
            bail!("{} ended with {status}: {}", self.program, self.tail());
        }
        Ok(())
    }

    /// Last lines of the log.
    pub fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is as good.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A port of loopback that is free now, below the ephemeral ones: some programs refuse those,
/// and no outgoing connection takes it meanwhile.
///
/// # Errors
/// When none is found.
pub fn free_port() -> Result<u16> {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two runs at once begin at different places.
    let begin = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or(0);
    for _ in 0..COUNT {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (begin.wrapping_add(offset)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}

/// Asks every 50 ms until there is an answer.
///
/// # Errors
/// The last answer, when the limit is over.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() > end => {
                return Err(error.context(format!("{what}: not within {limit:?}")));
            }
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Private memory of a process in KiB: pages that nobody else has, clean or dirty.
///
/// # Errors
/// When the process is gone or its maps cannot be read.
pub fn private_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    parse_private(&text).with_context(|| format!("read {path}"))
}

fn parse_private(rollup: &str) -> Result<u64> {
    let mut sum = 0;
    let mut found = 0;
    for line in rollup.lines() {
        let mut words = line.split_whitespace();
        if matches!(words.next(), Some("Private_Clean:" | "Private_Dirty:")) {
            sum += words
                .next()
                .context("a line has no number")?
                .parse::<u64>()?;
            found += 1;
        }
    }
    ensure!(
        found == 2,
        "it has {found} of the two lines of private memory"
    );
    Ok(sum)
}

/// Private memory of each process once it rests: two looks 10 s apart differ by less than 1 %
/// in sum.
///
/// # Errors
/// When it does not rest within three minutes, or a process ends.
pub async fn resting_kib(pids: &[u32]) -> Result<Vec<u64>> {
    const APART: Duration = Duration::from_secs(10);
    let look = || {
        pids.iter()
            .map(|pid| private_kib(*pid))
            .collect::<Result<Vec<_>>>()
    };
    let end = Instant::now() + Duration::from_secs(180);
    let mut before = look()?;
    loop {
        sleep(APART).await;
        let now = look()?;
        let (old, new) = (before.iter().sum::<u64>(), now.iter().sum::<u64>());
        if old.abs_diff(new) * 100 < old.max(1) {
            return Ok(now);
        }
        ensure!(
            Instant::now() < end,
            "memory still changes from {old} to {new} KiB within 10 s"
        );
        before = now;
    }
}

/// Lets this process and its children have as many files as the machine allows.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What is missing shows when connections fail.
    _ = setrlimit(Resource::Nofile, limit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_memory_is_the_sum_of_two_lines() {
        let text = "1000-2000 ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPrivate_Clean:  12 kB\nPrivate_Dirty: 30 kB\nPrivate_Hugetlb: 7 kB\n";
        assert_eq!(parse_private(text).unwrap(), 42);
        assert!(parse_private("Private_Clean: 12 kB\n").is_err());
        assert!(private_kib(std::process::id()).unwrap() > 0);
    }

    #[test]
    fn ports_are_not_given_twice() {
        let ports: std::collections::BTreeSet<_> = (0..20).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 20);
        assert!(ports.iter().all(|port| (20_000..32_000).contains(port)));
    }
}
