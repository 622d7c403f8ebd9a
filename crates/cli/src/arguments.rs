//! The command line: what every command takes, and the list of commands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use farplane_types::names;

use crate::functions::{environment, function, route, spec, timer};
use crate::{cluster, completion, doctor, down, endpoint, functions, host, internal, lab, org, up};

const AFTER: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 not ready in time.
The hub is found by --hub-kubeconfig, --hub, $FARPLANE_KUBECONFIG, the hub `default` of
this machine, or the usual kubeconfig, in this order.";

/// Complex open-source infrastructure as a service, on machines of your customers.
#[derive(Parser, Debug)]
#[command(name = "farplane", version, after_help = AFTER, max_term_width = 100)]
#[command(disable_help_subcommand = true, infer_subcommands = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct Global {
    /// Hub on this machine, by the name it was given with `up --name`
    #[arg(long, global = true, value_name = "NAME", value_parser = name, help_heading = "Global options")]
    pub hub: Option<String>,
    /// Kubeconfig of the hub
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        conflicts_with = "hub",
        help_heading = "Global options"
    )]
    pub hub_kubeconfig: Option<PathBuf>,
    /// Form of the data on stdout; `name` gives names only, one per line
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM",
        help_heading = "Global options"
    )]
    pub output: Format,
    /// Never use colours; the environment variable NO_COLOR does the same
    #[arg(long, global = true, help_heading = "Global options")]
    pub no_color: bool,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
}

/// Form of the data on stdout.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    // For people.
    #[default]
    Table,
    // For programs.
    Json,
    // For programs.
    Yaml,
    // Names only, one per line.
    Name,
}

#[derive(Subcommand, Debug)]
#[allow(clippy::large_enum_variant)]
pub(crate) enum Command {
    /// Start a hub on this machine, or bring it up to date
    Up(up::UpArgs),
    /// Stop the hub on this machine
    Down(down::DownArgs),
    /// Show how the hub is
    Status,
    /// Find out whether this machine can run a hub
    Doctor(doctor::DoctorArgs),
    /// Organizations: the tenants of a hub
    #[command(subcommand)]
    Org(org::OrgCommand),
    /// Endpoints: places where infrastructure is
    #[command(subcommand)]
    Endpoint(endpoint::EndpointCommand),
    /// Hosts: machines with the agent on them
    #[command(subcommand)]
    Host(host::HostCommand),
    /// Lab hosts: throw-away hosts at the hub, for trying out
    #[command(subcommand)]
    Lab(lab::LabCommand),
    /// Kubernetes clusters
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// The function platform of a cluster
    #[command(subcommand)]
    Functions(functions::FunctionsCommand),
    /// Environments: the languages that functions are written in
    #[command(subcommand)]
    Env(environment::EnvironmentCommand),
    /// Functions: code that answers calls
    #[command(subcommand)]
    Fn(function::FunctionCommand),
    /// Routes: paths at which functions are called
    #[command(subcommand)]
    Route(route::RouteCommand),
    /// Timers: times at which functions are called
    #[command(subcommand)]
    Timer(timer::TimerCommand),
    /// Specs: functions written down in a directory
    #[command(subcommand)]
    Spec(spec::SpecCommand),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completion(completion::CompletionArgs),
    /// For farplane's own use
    #[command(subcommand, hide = true)]
    Internal(internal::InternalCommand),
}

/// The organization that a command works in.
#[derive(Args, Debug, Clone)]
pub(crate) struct InOrganization {
    /// Organization
    #[arg(long, value_name = "ORG", value_parser = name)]
    pub org: String,
}

/// The organization that a list is of.
#[derive(Args, Debug, Clone)]
pub(crate) struct OfOrganization {
    /// Organization; every one when left out
    #[arg(long, value_name = "ORG", value_parser = name)]
    pub org: Option<String>,
}

/// A named object of an organization.
#[derive(Args, Debug, Clone)]
pub(crate) struct Named {
    /// Name
    #[arg(value_parser = name)]
    pub name: String,
    #[command(flatten)]
    pub of: InOrganization,
}

/// Checks a name before the hub is asked.
pub(crate) fn name(text: &str) -> Result<String, String> {
    if names::is_valid_name(text) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "a name has up to {} lower-case letters, digits and dashes, starts with a letter and does not end with a dash",
            names::MAX_NAME_BYTES
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_every_command_may_stand_behind_it() {
        let cli = Cli::parse_from(["farplane", "org", "list", "-o", "json", "--hub", "x"]);
        assert_eq!(cli.global.output, Format::Json);
        assert_eq!(cli.global.hub.as_deref(), Some("x"));
    }
}
