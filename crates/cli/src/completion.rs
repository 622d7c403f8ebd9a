//! `farplane completion`

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::App;
use crate::arguments::Cli;

/// For which shell.
#[derive(Args, Debug)]
pub(crate) struct CompletionArgs {
    /// Shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(app: &App, args: &CompletionArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "farplane", &mut script);
    app.out.data(&String::from_utf8_lossy(&script))
}
