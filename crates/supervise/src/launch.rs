//! Starting a program, in a session of its own.
//!
//! `setsid` and the shell replace themselves, so pid and start time are the program's
//! from the beginning.

use std::path::Path;
use std::process::Stdio;

use nix::unistd::{AccessFlags, access};
use tokio::process::Command;

use crate::error::Error;
use crate::process::ProcessId;
use crate::record::{Record, make_dir};
use crate::running::Running;
use crate::{Places, Program, log, mark};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Names a command and its environment.
pub(crate) fn digest(program: &Program) -> String {
    let count = program.command.len().to_string();
    let mut parts = vec![count.as_str()];
    parts.extend(program.command.iter().map(String::as_str));
    for (name, value) in &program.environment {
        parts.extend([name.as_str(), value.as_str()]);
    }
    farplane_types::names::digest_id(&parts)
}

/// True when a name leads to nothing but a file of a directory.
pub(crate) fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

/// Starts a program and records its process.
pub(crate) fn launch(program: &Program, places: &Places) -> Result<Running, Error> {
    let name = &program.name;
    let mut command = command(program)?;
    make_dir(&places.records)?;
    make_dir(&places.logs)?;
    let path = log_path(places, name);
    let log = log::open(&path).map_err(Error::file("open", &path))?;
    let errors = log.try_clone().map_err(Error::file("open", &path))?;
    let digest = digest(program);
    let failed = |source| Error::Spawn {
        program: name.clone(),
        source,
    };
    let child = command
        .env(mark::OWNER, mark::owner(&places.records, name))
        .env(mark::DIGEST, &digest)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(failed)?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let id = pid
        .and_then(ProcessId::of_child)
        .ok_or_else(|| failed(std::io::Error::other("/proc does not show it")))?;
    if let Err(error) = Record::new(id, &digest).save(&places.records, name) {
        // Its mark is enough to find it; ending it would help nobody.
        tracing::warn!(process = name, error = error.words(), "not recorded");
    }
    Ok(Running::Own(id, Box::new(child)))
}

pub(crate) fn log_path(places: &Places, name: &str) -> std::path::PathBuf {
    places.logs.join(format!("{name}.log"))
}

/// The command line, checked here because the shell could tell of mistakes only in the log.
fn command(program: &Program) -> Result<Command, Error> {
    let path = program.command.first().map_or("", String::as_str);
    let refused = |source| Error::Program {
        program: path.to_owned(),
        source,
    };
    if !Path::new(path).is_absolute() || Path::new(path).is_dir() {
        return Err(refused(nix::errno::Errno::ENOEXEC));
    }
    access(path, AccessFlags::X_OK).map_err(refused)?;
    if let Some(variable) = program.environment.keys().find(|name| !is_variable(name)) {
        return Err(Error::Variable {
            variable: variable.clone(),
        });
    }
    let setsid = PATH
        .split(':')
        .map(|directory| Path::new(directory).join("setsid"))
        .find(|file| access(file, AccessFlags::X_OK).is_ok())
        .ok_or(Error::NoSetsid { path: PATH })?;
    let mut command = Command::new(setsid);
    command
        .args(["/bin/sh", "-c", mark::SCRIPT, "supervised"])
        .args(&program.command)
        .env_clear()
        .env("PATH", PATH)
        .envs(&program.environment)
        .current_dir("/");
    Ok(command)
}

/// The shell in between passes on no others.
fn is_variable(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.bytes().all(inner)
        && name
            .bytes()
            .next()
            .is_some_and(|byte| !byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(command: &[&str], environment: &[(&str, &str)]) -> Program {
        let own = |text: &&str| (*text).to_owned();
        Program {
            name: "p".to_owned(),
            command: command.iter().map(own).collect(),
            environment: environment
                .iter()
                .map(|(name, value)| (own(name), own(value)))
                .collect(),
            check: None,
            grace: std::time::Duration::ZERO,
        }
    }

    #[test]
    fn command_and_environment_make_the_digest_and_do_not_run_together() {
        let all = [
            program(&["/a"], &[]),
            program(&["/a", "b"], &[]),
            program(&["/ab"], &[]),
            program(&["/a"], &[("b", "c")]),
            program(&["/a", "b", "c"], &[]),
            program(&["/a"], &[("b", "d")]),
        ];
        let digests: std::collections::BTreeSet<_> = all.iter().map(digest).collect();
        assert_eq!(digests.len(), all.len());
    }

    #[test]
    fn what_cannot_be_started_is_told_before() {
        let error = |program| command(&program).err().map(|error| error.words());
        let missing = error(program(&["/none/such"], &[])).unwrap();
        assert!(missing.contains("/none/such"), "{missing}");
        assert!(error(program(&[], &[])).is_some());
        assert!(error(program(&["sh"], &[])).is_some(), "not absolute");
        assert!(error(program(&["/etc"], &[])).is_some(), "a directory");
        let variable = error(program(&["/bin/sh"], &[("a-b", "")])).unwrap();
        assert!(variable.contains("a-b"), "{variable}");
        assert_eq!(error(program(&["/bin/sh"], &[("a_B1", "")])), None);
    }

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", "/a", "a\0"] {
            assert!(!is_file_name(bad), "{bad:?}");
        }
        assert!(is_file_name("kube-proxy") && is_file_name("a.b"));
    }
}
