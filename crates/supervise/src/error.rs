//! What can keep a program from running, one variant per step.

use std::io;
use std::path::{Path, PathBuf};

/// Why a program does not run. Told as [`crate::Exit::NotStarted`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{name:?} is no name for a program: it has to be a file name")]
    Name { name: String },
    #[error(
        "the program {program:?} cannot be executed, check that it is an absolute path, there, and executable"
    )]
    Program {
        program: String,
        source: nix::errno::Errno,
    },
    #[error(
        "{variable:?} is no name of an environment variable: use letters, digits and underscores"
    )]
    Variable { variable: String },
    #[error("setsid is missing in {path}, install util-linux")]
    NoSetsid { path: &'static str },
    #[error("failed to {action} {}, check space and rights there", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("failed to start {program}")]
    Spawn { program: String, source: io::Error },
    #[error("process {pid}, started before as this program, does not end even when killed")]
    Stuck { pid: i32 },
}

impl Error {
    /// For `map_err` on a file operation.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    /// The error and what caused it, in one line.
    pub fn words(&self) -> String {
        let mut words = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            words.push_str(": ");
            words.push_str(&cause.to_string());
            source = cause.source();
        }
        words
    }
}
