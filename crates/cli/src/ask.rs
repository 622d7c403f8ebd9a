//! Asks before something is destroyed.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::failure::Failure;

/// The answer given ahead.
#[derive(Args, Debug, Clone)]
pub(crate) struct Consent {
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

impl Consent {
    /// Passes when the person agrees. Without a terminal nobody can, and `--yes` is needed.
    pub fn to(&self, action: &str) -> Result<()> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Err(Failure::Usage(format!(
                "this would {action}: repeat with --yes, since there is no terminal to ask at"
            ))
            .into());
        }
        let mut stderr = std::io::stderr().lock();
        write!(stderr, "This will {action}. Go on? [y/N] ").context("ask")?;
        stderr.flush().context("ask")?;
        let mut answer = String::new();
        std::io::stdin()
            .lock()
            .read_line(&mut answer)
            .context("read the answer")?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::Refused("nothing was done".to_owned()).into()),
        }
    }
}
