//! `farplane-agent`: the command line.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use farplane_agent::config::{Config, DEFAULT_PATH, DEFAULT_STATE_DIR};
use farplane_agent::identity::Identity;
use farplane_agent::state::Lock;
use farplane_agent::{
    VERSION, address, causes, doctor, enrol, facts, files, leave, run, service, status,
};
use farplane_process::{log, stop_on_signal};
use tokio_util::sync::CancellationToken;

/// Enough for a host's streams, and little memory.
const WORKERS: usize = 2;
/// Bulk copies yield to everything else on the host, but not for ever.
const BULK_NICE: i32 = 5;

/// Makes this machine a host of a Farplane hub.
///
/// The agent keeps one outbound connection to the hub; nothing listens at your network's edge.
/// Over it, it learns what the hub wants here (containerd, kubelet, ...), makes it so, and says
/// how far it is. Start with `farplane-agent doctor`, then run the `farplane-agent join` command
/// that `farplane host join-command` prints.
#[derive(Parser)]
#[command(name = "farplane-agent", version = VERSION)]
struct Arguments {
    /// Configuration file; `join` writes it.
    #[arg(long, global = true, default_value = DEFAULT_PATH, value_name = "FILE")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Join a hub with the token of `farplane host join-command`.
    ///
    /// Makes a key on this machine, proves the hub by the hash in the token, gets a certificate,
    /// and installs a service where systemd runs. A join that broke off can be run again.
    Join(JoinArguments),
    /// Run the agent; this is what the service does.
    ///
    /// Enrols first when that has not happened. SIGTERM ends the agent, not what it runs.
    Run,
    /// Show identity, certificate, tunnels and plan.
    Status(StatusArguments),
    /// Undo everything on this machine and forget the hub.
    ///
    /// Stops every Pod that the hub runs here. The hub is not told: remove the host there too,
    /// with `farplane host remove`, which does all of this when the agent is connected.
    Leave,
    /// Show what this machine lacks to run workloads, and what to do about it.
    Doctor(DoctorArguments),
    /// Print the version.
    Version,
}

#[derive(Args)]
struct JoinArguments {
    /// Address of the hub.
    #[arg(long, value_name = "HOST:PORT")]
    hub: String,
    /// Join token; it works once.
    #[arg(long, env = "FARPLANE_JOIN_TOKEN", hide_env_values = true)]
    token: String,
    /// Name of the host at the hub; this machine's name when left out.
    #[arg(long)]
    name: Option<String>,
    /// HTTP proxy towards the hub, and to the registries of images. HTTPS_PROXY when left out.
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Registries that are reached without the proxy: names, addresses and ranges, with commas.
    /// NO_PROXY when left out.
    #[arg(long, value_name = "LIST")]
    no_proxy: Option<String>,
    /// Address by which the other hosts reach this one, when the agent would choose another.
    #[arg(long, value_name = "IP")]
    node_address: Option<std::net::IpAddr>,
    /// Where state, artifacts and containers are kept.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Get the identity only: install no service and start nothing.
    #[arg(long)]
    enrol_only: bool,
}

#[derive(Args)]
struct StatusArguments {
    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Args)]
struct DoctorArguments {
    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Exit code of a configuration or argument that is wrong, as of clap.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log();
    // Fails only when one was installed before, which is as good.
    _ = rustls::crypto::ring::default_provider().install_default();
    match command(&arguments) {
        Ok(code) => code,
        Err(error) => {
            let usage = error.is::<farplane_agent::config::ConfigError>();
            // The reader may be gone; the exit code says it too.
            _ = writeln!(
                std::io::stderr(),
                "farplane-agent: {}",
                causes(error.as_ref())
            );
            ExitCode::from(if usage { USAGE } else { 1 })
        }
    }
}

fn command(arguments: &Arguments) -> Result<ExitCode> {
    let path = arguments.config.as_path();
    match &arguments.command {
        Command::Join(options) => runtime()?.block_on(join(path, options)),
        Command::Run => serve(path),
        Command::Status(options) => show_status(path, options.output),
        Command::Leave => runtime()?.block_on(undo(path)),
        Command::Doctor(options) => show_findings(options.output),
        Command::Version => say(format_args!("farplane-agent {VERSION}\n")),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .on_thread_start(farplane_tunnel::urgent_thread)
        .enable_all()
        .build()
        .context("failed to start the runtime")
}

fn say(text: std::fmt::Arguments<'_>) -> Result<ExitCode> {
    match std::io::stdout().write_fmt(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn json(value: &impl serde::Serialize) -> Result<ExitCode> {
    say(format_args!("{}\n", serde_json::to_string_pretty(value)?))
}

fn serve(path: &Path) -> Result<ExitCode> {
    let bulk = farplane_tunnel::bulk_runtime(1, BULK_NICE)
        .context("failed to start the runtime of bulk copies")?;
    let handle = bulk.handle().clone();
    let ended = runtime()?.block_on(async {
        let shutdown = CancellationToken::new();
        stop_on_signal(&shutdown)?;
        Box::pin(run::run(path, handle, shutdown))
            .await
            .map_err(anyhow::Error::from)
    });
    bulk.shutdown_background();
    match ended {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error) => match error.downcast::<run::RunError>() {
            Ok(run::RunError::Config(error)) => Err(error.into()),
            Ok(error) => Err(error.into()),
            Err(error) => Err(error),
        },
    }
}

async fn join(path: &Path, options: &JoinArguments) -> Result<ExitCode> {
    let mut config = Config::new(&options.hub, Some(&options.token), options.name.as_deref())?;
    let installs = !options.enrol_only && facts::has_systemd();
    if installs {
        // Found now, while the token is good.
        service::program()?;
    }
    (config.proxy, config.no_proxy) = proxy(&config, options)?;
    config.node_address = options.node_address;
    config.state_dir.clone_from(&options.state_dir);
    // It would hold the lock; what it runs goes on.
    let before = std::fs::read(path).ok();
    let ran = service::stop(path)?;
    let (identity, findings) = match enrol(path, config).await {
        Err(error) if ran => {
            go_on(path, before.as_deref())?;
            return Err(error);
        }
        other => other?,
    };
    say(format_args!("joined as {}\n", identity.identity))?;
    for finding in &findings {
        say(format_args!(
            "this machine lacks {}: {}\n",
            finding.what, finding.todo
        ))?;
    }
    if options.enrol_only {
        return Ok(ExitCode::SUCCESS);
    }
    start(path, installs)
}

/// Stores the configuration and gets the identity.
async fn enrol(path: &Path, mut config: Config) -> Result<(Identity, Vec<doctor::Finding>)> {
    let agent_dir = config.agent_dir();
    let _lock = Lock::take(&agent_dir)?;
    // A repeated join finds its own name again; another name is another request.
    config.name = Some(config.host_name()?);
    config.store(path)?;
    // What was stored is read as `run` reads it, so that a wrong field is found now.
    let config = Config::load(path)?;
    let token = config
        .token
        .clone()
        .context("the configuration lost its token")?;
    if let Ok(Some(old)) = Identity::load(&agent_dir) {
        tracing::info!(
            identity = old.identity,
            "joining anew, the identity before is replaced"
        );
    }
    let findings = tokio::task::spawn_blocking(doctor::examine)
        .await
        .unwrap_or_default();
    let node = facts::find_node_address(config.node_address, &config.hub).await;
    let known = facts::collect(node, doctor::missing(&findings));
    let identity = enrol::enrol(&config, &token, known).await?;
    Ok((identity, findings))
}

/// A host that ran and did not join anew goes on as the one that it was.
fn go_on(path: &Path, before: Option<&[u8]>) -> Result<()> {
    if let Some(before) = before {
        files::write_private(path, before).context("failed to put the configuration back")?;
    }
    service::start()?;
    tracing::info!("not joined anew, the agent goes on as before");
    Ok(())
}

/// The proxy to keep, and what is reached without: as asked for, else as this environment says,
/// which is not that of the service.
fn proxy(config: &Config, options: &JoinArguments) -> Result<(Option<String>, Option<String>)> {
    let excluded = options.no_proxy.clone();
    let excluded = excluded.or_else(|| address::environment().1);
    if options.proxy.is_some() {
        return Ok((options.proxy.clone(), excluded));
    }
    let found = address::proxy_of_environment(&config.hub)
        .context("the variable HTTPS_PROXY cannot be used; set it right, or pass --proxy")?;
    if found.is_some() {
        tracing::info!("the hub is reached by the proxy of the variable HTTPS_PROXY from now on");
    }
    let excluded = excluded.filter(|_| found.is_some());
    Ok((found, excluded))
}

/// Installs the service where there is systemd, else says what is to be run.
fn start(path: &Path, installs: bool) -> Result<ExitCode> {
    if !installs {
        return say(format_args!(
            "systemd does not run here; have your service manager run, as root:\n  {} run --config {}\n",
            std::env::current_exe()
                .unwrap_or_else(|_| "farplane-agent".into())
                .display(),
            path.display()
        ));
    }
    service::install(path)?;
    say(format_args!(
        "the agent runs as {}; `farplane-agent status` shows how it is\n",
        service::UNIT
    ))
}

async fn undo(path: &Path) -> Result<ExitCode> {
    let config = Config::load(path)?;
    match Box::pin(leave::leave(&config, path)).await? {
        Some(identity) => say(format_args!(
            "left; {identity} is forgotten here. Remove the host at the hub too: `farplane host remove`\n"
        )),
        None => say(format_args!("nothing of the agent's work is left\n")),
    }
}

fn show_status(path: &Path, output: Output) -> Result<ExitCode> {
    let agent_dir = Config::load(path)?.agent_dir();
    let running = Lock::is_held(&agent_dir);
    let found = status::read(&agent_dir).context("failed to read the agent's status file")?;
    let Some(found) = found else {
        anyhow::bail!("the agent has not run yet; start it with `farplane-agent run`");
    };
    match output {
        Output::Json => {
            let mut value = serde_json::to_value(&found)?;
            value["running"] = running.into();
            json(&value)?
        }
        Output::Text => say(format_args!(
            "{}",
            status::describe(&found, running, jiff::Timestamp::now())
        ))?,
    };
    Ok(ExitCode::from(u8::from(!running)))
}

fn show_findings(output: Output) -> Result<ExitCode> {
    let findings = doctor::examine();
    match output {
        Output::Json => json(&findings)?,
        Output::Text if findings.is_empty() => {
            say(format_args!("this machine has all that a host needs\n"))?
        }
        Output::Text => {
            for finding in &findings {
                say(format_args!(
                    "missing: {}\n   do: {}\n",
                    finding.what, finding.todo
                ))?;
            }
            ExitCode::SUCCESS
        }
    };
    Ok(ExitCode::from(u8::from(
        findings.iter().any(|it| it.blocking),
    )))
}
