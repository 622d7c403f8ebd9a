//! What is told of a supervised program.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;

use nix::sys::signal::Signal;

/// What a program does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not looked at yet.
    Waiting,
    /// Runs, and has not been ready yet.
    Starting,
    /// Runs and answers.
    Ready,
    /// Runs, but answers no longer.
    Failing,
    /// Ended by itself, or did not start; is started again after a pause.
    Ended,
    /// Was asked to end.
    Stopping,
    /// Does not run and is not started again.
    Stopped,
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Failing => "not answering",
            Self::Ended => "ended",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        })
    }
}

/// How a run came to its end. Displayed it completes a sentence that begins with "it".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It ended by itself with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It ended, but was adopted, so only its parent could have heard how.
    Unseen,
    /// It did not start; the reason in words.
    NotStarted(String),
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unseen,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exited with code {code}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(formatter, "was ended by {signal}"),
                Err(_) => write!(formatter, "was ended by signal {number}"),
            },
            Self::Unseen => formatter.write_str("ended while it was adopted"),
            Self::NotStarted(why) => write!(formatter, "did not start: {why}"),
        }
    }
}

/// What is known of a supervised program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: State,
    /// Its process while it runs.
    pub pid: Option<i32>,
    /// True when it runs and its check holds.
    pub ready: bool,
    /// How often this supervisor started it again after an end.
    pub restarts: u32,
    /// How its last run under this supervisor ended.
    pub last_exit: Option<Exit>,
    /// Where its output goes.
    pub log: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_signal_are_kept_apart() {
        let code = Exit::from(ExitStatus::from_raw(9 << 8));
        let signal = Exit::from(ExitStatus::from_raw(9));
        assert_eq!(code.to_string(), "exited with code 9");
        assert_eq!(signal.to_string(), "was ended by SIGKILL");
        assert_eq!(Exit::Signal(64).to_string(), "was ended by signal 64");
    }
}
