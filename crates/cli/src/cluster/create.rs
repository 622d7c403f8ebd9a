//! `farplane cluster create`

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use farplane_types::kubernetes_cluster::{AllHosts, DEFAULT_VERSION};
use farplane_types::{
    ControlPlaneSpec, HostSelection, KubernetesCluster, KubernetesClusterSpec, NetworkProvider,
    NetworkSpec,
};
use kube::Client;

use crate::App;
use crate::arguments::{Named, name};
use crate::objects::{self, Kind as _};
use crate::wait::{self, Goal, Patience};
use crate::{hub, view};

/// A new cluster.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    named: Named,
    /// Kubernetes version
    #[arg(long, default_value = DEFAULT_VERSION)]
    version: String,
    #[command(flatten)]
    hosts: Hosts,
    /// API servers and etcd members: 1 or 3
    #[arg(long, default_value = "1", value_parser = replicas, value_name = "1|3")]
    control_plane_replicas: u32,
    /// Pod network: flannel between the hosts, or none, to bring your own
    #[arg(long, value_enum, default_value_t)]
    network: Network,
    /// Range of Pod addresses
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Option<String>,
    /// Range of Service addresses
    #[arg(long, value_name = "CIDR")]
    service_cidr: Option<String>,
    #[command(flatten)]
    patience: Patience,
}

/// Which hosts become nodes.
#[derive(Args, Debug, Default)]
#[group(multiple = true)]
struct Hosts {
    /// These hosts; a cluster without nodes when no hosts are chosen at all
    #[arg(long, value_delimiter = ',', value_name = "A,B", value_parser = name, conflicts_with_all = ["all_hosts", "nodes"])]
    hosts: Vec<String>,
    /// Every free host, present and future
    #[arg(long, conflicts_with = "nodes")]
    all_hosts: bool,
    /// With --all-hosts: only those of this endpoint
    #[arg(long, value_parser = name, requires = "all_hosts", value_name = "ENDPOINT")]
    endpoint: Option<String>,
    /// This many free hosts, any
    #[arg(long, value_name = "N")]
    nodes: Option<u32>,
}

impl Hosts {
    fn selection(self) -> HostSelection {
        let endpoint = self.endpoint;
        match (self.all_hosts, self.nodes) {
            (true, _) => HostSelection::All(AllHosts { endpoint }),
            (false, Some(count)) => HostSelection::Count(count),
            (false, None) => {
                let mut names: Vec<String> = Vec::new();
                for name in self.hosts {
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
                HostSelection::Names(names)
            }
        }
    }
}

/// Pod network.
#[derive(ValueEnum, Clone, Copy, Debug, Default)]
enum Network {
    #[default]
    Flannel,
    None,
}

fn replicas(text: &str) -> Result<u32, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("a control plane has 1 or 3 replicas".to_owned()),
    }
}

/// Orders it; with `--wait`, until it is ready.
pub(crate) async fn run(app: &App, args: CreateArgs) -> Result<()> {
    let (name, org) = (args.named.name.clone(), args.named.of.org.clone());
    let patience = args.patience.clone();
    let client = hub::connect(app).await?;
    let object = KubernetesCluster::new(&name, spec(args));
    let made = objects::create(&client, Some(&org), &object).await?;
    app.out.made(
        &made,
        format_args!("cluster {name} in organization {org} is ordered"),
    )?;
    let look = format!("farplane cluster describe {name} --org {org}");
    if !patience.wait {
        app.out.say(format_args!("`{look}` tells how it is"));
        return Ok(());
    }
    wait_ready(app, client, &org, &name, patience.timeout).await?;
    app.out.say(format_args!(
        "cluster {name} is ready; `farplane cluster kubeconfig {name} --org {org}` prints its kubeconfig"
    ));
    Ok(())
}

/// Waits until a cluster is ready.
pub(crate) async fn wait_ready(
    app: &App,
    client: Client,
    org: &str,
    name: &str,
    timeout: Duration,
) -> Result<()> {
    let goal = Goal {
        what: format!("cluster {name} in organization {org} to be ready"),
        look: format!("farplane cluster describe {name} --org {org}"),
        timeout,
        out: &app.out,
    };
    let api = KubernetesCluster::api(client, Some(org));
    wait::until(goal, api, name, |cluster| {
        view::cluster::judge(name, cluster)
    })
    .await
}

fn spec(args: CreateArgs) -> KubernetesClusterSpec {
    let default = NetworkSpec::default();
    KubernetesClusterSpec {
        version: args.version,
        hosts: args.hosts.selection(),
        control_plane: ControlPlaneSpec {
            replicas: args.control_plane_replicas,
        },
        network: NetworkSpec {
            provider: match args.network {
                Network::Flannel => NetworkProvider::Flannel,
                Network::None => NetworkProvider::None,
            },
            pod_cidr: args.pod_cidr.unwrap_or(default.pod_cidr),
            service_cidr: args.service_cidr.unwrap_or(default.service_cidr),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Cli, Command};
    use crate::cluster::ClusterCommand;
    use clap::Parser as _;

    fn parse(words: &str) -> Result<KubernetesClusterSpec, clap::Error> {
        let all = format!("farplane cluster create first --org demo {words}");
        match Cli::try_parse_from(all.split_whitespace())?.command {
            Command::Cluster(ClusterCommand::Create(args)) => Ok(spec(args)),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn hosts_are_chosen_in_one_way() {
        let hosts = |words| parse(words).unwrap().hosts;
        assert_eq!(hosts(""), HostSelection::Names(Vec::new()));
        assert_eq!(
            hosts("--hosts one,two,one"),
            HostSelection::Names(vec!["one".into(), "two".into()])
        );
        assert_eq!(hosts("--nodes 2"), HostSelection::Count(2));
        assert_eq!(
            hosts("--all-hosts --endpoint lab"),
            HostSelection::All(AllHosts {
                endpoint: Some("lab".into())
            })
        );
        for wrong in [
            "--hosts one --all-hosts",
            "--hosts one --nodes 1",
            "--all-hosts --nodes 1",
            "--endpoint lab",
            "--control-plane-replicas 2",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_left_out_is_what_the_resource_defaults_to() {
        let empty: KubernetesClusterSpec = serde_json::from_str("{}").unwrap();
        assert_eq!(parse("").unwrap(), empty);
    }
}
