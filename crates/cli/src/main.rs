//! `farplane`: the command for people and scripts.
//!
//! Every command but `up`, `down`, `status` and `doctor` is a thin client of the custom
//! resources: it makes, reads or deletes one object, and `kubectl` could do the same.
//! One file per noun and verb. Data goes to stdout, talk to stderr.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 not ready in time.

mod arguments;
mod ask;
mod cluster;
mod completion;
mod demo;
mod doctor;
mod down;
mod endpoint;
mod engine;
mod failure;
mod functions;
mod host;
mod hub;
mod internal;
mod lab;
mod objects;
mod org;
mod output;
mod reference;
mod status;
mod time;
mod up;
mod version;
mod view;
mod wait;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::{Cli, Command, Global};
use crate::output::Output;

/// What every command gets.
pub(crate) struct App {
    /// Options that every command takes.
    pub global: Global,
    /// Where data and talk go.
    pub out: Output,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let app = App {
        out: Output::new(&cli.global),
        global: cli.global,
    };
    log(&cli.command);
    // Fails only when another provider was chosen before: there is none.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: failed to start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(&app, cli.command));
    // A look-up of a name may still block a thread; nobody waits for it.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if failure::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", failure::text(&error));
            ExitCode::from(failure::exit_code(&error))
        }
    }
}

async fn run(app: &App, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(args) => up::run(app, args).await,
        Command::Down(args) => down::run(app, args).await,
        Command::Status => status::run(app).await,
        Command::Doctor(args) => doctor::run(app, &args),
        Command::Org(command) => org::run(app, command).await,
        Command::Endpoint(command) => endpoint::run(app, command).await,
        Command::Host(command) => host::run(app, command).await,
        Command::Lab(command) => lab::run(app, command).await,
        Command::Cluster(command) => cluster::run(app, command).await,
        Command::Functions(command) => functions::run(app, command).await,
        Command::Env(command) => functions::environment::run(app, command).await,
        Command::Fn(command) => functions::function::run(app, command).await,
        Command::Route(command) => functions::route::run(app, command).await,
        Command::Timer(command) => functions::timer::run(app, command).await,
        Command::Spec(command) => functions::spec::run(app, command).await,
        Command::Version => version::run(app),
        Command::Completion(args) => completion::run(app, &args),
        Command::Internal(command) => internal::run(app, command).await,
    }
}

/// Logs go to stderr; commands that only talk to the hub's API are silent unless
/// `FARPLANE_LOG` asks.
fn log(command: &Command) {
    use tracing_subscriber::EnvFilter;
    let default = match command {
        Command::Internal(_) => "info",
        Command::Up(args) if args.verbose => "info",
        Command::Up(_) | Command::Down(_) => "error",
        _ => "off",
    };
    let filter = EnvFilter::try_from_env("FARPLANE_LOG").unwrap_or_else(|_| default.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}
