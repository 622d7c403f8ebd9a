//! One run of a build command.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::command::BuildCommand;
use super::log::Tail;

/// How much of a log is kept. It is written into the package's status; an object has room for
/// about 1 MiB.
const LOG_BYTES: usize = 200 * 1024;
/// How long processes that a build left behind may hold its output open.
const DRAIN: Duration = Duration::from_secs(1);
/// Where images of environments have their build command when it is not in `PATH`.
const FALLBACK: &str = "/build";
/// Not for builds.
const PRIVATE: [&str; 2] = ["BUILDER_KEY", "BUILDER_DEADLINE"];

/// A build to be run.
#[derive(Debug)]
pub struct Build {
    /// What to run.
    pub command: BuildCommand,
    /// The source: a directory, or a file that is no archive.
    pub source: PathBuf,
    /// Where the package shall be.
    pub output: PathBuf,
    /// How long it may take.
    pub deadline: Duration,
}

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Not found, or no program.
    #[error(
        "build command {program:?} cannot be started: {source}; it must be a program of the builder image, or an executable file of the package such as ./build.sh"
    )]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// Its output cannot be read.
    #[error("the output of the build cannot be read: {0}")]
    Output(#[source] io::Error),
    /// It said no.
    #[error("the build command failed: {0}")]
    Status(ExitStatus),
    /// It did not end.
    #[error("the build did not end within {} s and was stopped", .0.as_secs())]
    Deadline(Duration),
    /// It made nothing.
    #[error("the build command succeeded but wrote nothing to DEPLOY_PKG")]
    Nothing,
}

/// Kills what runs when it is dropped: the caller is gone.
struct Group {
    child: Child,
    id: Option<Pid>,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Group {
    fn kill(&mut self) {
        if let Some(id) = self.id.take() {
            // Fails when nothing is left of the group.
            _ = kill_process_group(id, Signal::KILL);
        }
    }
}

impl Build {
    /// Runs; the log is what it said, whatever came of it.
    pub async fn run(&self) -> (String, Result<(), Failure>) {
        let mut log = Tail::new(LOG_BYTES);
        let result = self.run_into(&mut log).await;
        (log.text(), result)
    }

    async fn run_into(&self, log: &mut Tail) -> Result<(), Failure> {
        let (mut group, mut output) = self.start()?;
        let ended = timeout(self.deadline, follow(&mut group.child, &mut output, log)).await;
        // Whatever the command left behind ends with it.
        group.kill();
        let status = match ended {
            Ok(status) => status.map_err(Failure::Output)?,
            Err(_) => {
                _ = group.child.wait().await;
                return Err(Failure::Deadline(self.deadline));
            }
        };
        _ = timeout(DRAIN, drain(&mut output, log)).await;
        if !status.success() {
            return Err(Failure::Status(status));
        }
        if self.output.symlink_metadata().is_err() {
            return Err(Failure::Nothing);
        }
        let output = self.output.clone();
        match tokio::task::spawn_blocking(move || make_readable(&output)).await {
            Ok(Ok(())) => {}
            // The fetcher says by name what it cannot read.
            Ok(Err(error)) => tracing::warn!(%error, "a package may not be readable"),
            Err(error) => tracing::warn!(%error, "a package may not be readable"),
        }
        Ok(())
    }

    fn start(&self) -> Result<(Group, Receiver), Failure> {
        let program = &self.command.program;
        let failed = |source| Failure::Start {
            program: program.clone(),
            source,
        };
        let spawned = match self.spawn(program) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && program == "build" => {
                self.spawn(FALLBACK)
            }
            other => other,
        };
        let (child, output) = spawned.map_err(failed)?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let group = Group {
            id: id.and_then(Pid::from_raw),
            child,
        };
        let output = Receiver::from_owned_fd(output).map_err(Failure::Output)?;
        Ok((group, output))
    }

    fn spawn(&self, program: &str) -> io::Result<(Child, OwnedFd)> {
        // One pipe for both, so that lines stay in their order.
        let (reader, writer) = io::pipe()?;
        let directory = if self.source.is_dir() {
            self.source.as_path()
        } else {
            self.source.parent().unwrap_or(Path::new("/"))
        };
        let mut command = Command::new(program);
        for name in PRIVATE {
            command.env_remove(name);
        }
        let child = command
            .args(&self.command.arguments)
            .current_dir(directory)
            .env("SRC_PKG", &self.source)
            .env("DEPLOY_PKG", &self.output)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        Ok((child, OwnedFd::from(reader)))
    }
}

/// Lets every user read what a build made: the fetcher beside us runs as another one.
fn make_readable(path: &Path) -> io::Result<()> {
    let metadata = path.symlink_metadata()?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = metadata.permissions().mode();
    let wanted = mode | if metadata.is_dir() { 0o555 } else { 0o444 };
    if wanted != mode {
        std::fs::set_permissions(path, Permissions::from_mode(wanted))?;
    }
    if metadata.is_dir() {
        for entry in path.read_dir()? {
            make_readable(&entry?.path())?;
        }
    }
    Ok(())
}

/// Keeps what comes until the command ends.
async fn follow(
    child: &mut Child,
    output: &mut Receiver,
    log: &mut Tail,
) -> io::Result<ExitStatus> {
    let mut open = true;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            status = child.wait() => return status,
            read = output.read(&mut buffer), if open => {
                let count = read?;
                open = count > 0;
                keep(log, &buffer[..count]);
            }
        }
    }
}

/// Keeps what is left when the command has ended.
async fn drain(output: &mut Receiver, log: &mut Tail) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count) = output.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        keep(log, &buffer[..count]);
    }
}

fn keep(log: &mut Tail, bytes: &[u8]) {
    log.write(bytes);
    // For `kubectl logs`. An output that nobody takes must not end the build.
    _ = io::stdout().write_all(bytes);
}
