//! How much private memory each process takes when nothing happens.
//!
//! Private is what nobody else has (`Private_Clean` and `Private_Dirty` of `smaps_rollup`):
//! pages of one program are shared by all planes of a machine, so the question is asked with
//! two of them, and answered for a lone one too. Processes are found by the UID
//! of their Pod in their control group. At rest: two looks 10 s apart differ by less than 1 %.
//! Trap: the first seconds after a start are more expensive; the cluster must be ready first.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use farplane_types::KubernetesCluster;
use farplane_types::names::{
    LAB_NAMESPACE, SYSTEM_NAMESPACE, organization_namespace, plane_namespace,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::json;

use crate::catalogue::names::MEMORY;
use crate::host_join::{self, CLUSTER};
use crate::hub::{Hub, ORG, delete_cluster};
use crate::process::{eventually, resting_kib};
use crate::report::Row;

const MIB: f64 = 1024.0;
const PLANE: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];
const HUB: [&str; 3] = ["controllers", "gateway", "artifacts"];
const AGENT: &str = "farplane-agent";
/// For processes to start.
const START: Duration = Duration::from_secs(60);
/// The second cluster.
const BESIDE: &str = "beside";

/// Runs it, on a hub as [`host_join`] leaves it; makes one if `prepared` is false.
///
/// # Errors
/// When a process is missing or does not come to rest.
pub async fn run(hub: &Hub, prepared: bool) -> Result<Vec<Row>> {
    let client = if prepared {
        hub.client().await?
    } else {
        host_join::prepare(hub).await?
    };
    let plane = plane_of(&client, CLUSTER).await?;
    let groups = [
        (plane.clone(), &PLANE[..]),
        (SYSTEM_NAMESPACE.to_owned(), &HUB[..]),
        (LAB_NAMESPACE.to_owned(), &[AGENT][..]),
    ];
    let lone = resting(&client, &groups).await?;
    hub.farplane(&["cluster", "create", BESIDE, "--org", ORG, "--wait"])
        .await?;
    let other = plane_of(&client, BESIDE).await?;
    let two = [(plane, &PLANE[..]), (other, &PLANE[..])];
    let mut both = resting(&client, &two).await?;
    for mib in both.values_mut() {
        *mib /= 2.0;
    }
    delete_cluster(&client, BESIDE).await?;
    Ok(rows(&lone, &both))
}

/// Namespace of a cluster's control plane.
async fn plane_of(client: &Client, name: &str) -> Result<String> {
    let clusters: Api<KubernetesCluster> =
        Api::namespaced(client.clone(), &organization_namespace(ORG));
    let uid = clusters.get(name).await?.metadata.uid;
    let uid = uid.with_context(|| format!("cluster {name} has no UID"))?;
    Ok(plane_namespace(&uid))
}

/// Private MiB by name of these processes of these namespaces, once all of them rest.
async fn resting(client: &Client, groups: &[(String, &[&str])]) -> Result<BTreeMap<String, f64>> {
    let mut pids: Vec<(String, u32)> = Vec::new();
    for (namespace, wanted) in groups {
        // Some of them start only after what was waited for.
        let found = eventually("all processes", START, async || {
            let found = processes_of(client, namespace, wanted).await?;
            for name in *wanted {
                ensure!(
                    found.iter().any(|(one, _)| one == name),
                    "no process {name} in Pods of {namespace}"
                );
            }
            Ok(found)
        });
        pids.extend(found.await?);
    }
    eprintln!(
        "bench: {MEMORY}: waiting until {} processes rest",
        pids.len()
    );
    let sizes = resting_kib(&pids.iter().map(|(_, pid)| *pid).collect::<Vec<_>>()).await?;
    let mut by_name: BTreeMap<String, f64> = BTreeMap::new();
    for ((name, _), kib) in pids.into_iter().zip(sizes) {
        *by_name.entry(name).or_default() += kib as f64 / MIB;
    }
    Ok(by_name)
}

fn rows(lone: &BTreeMap<String, f64>, both: &BTreeMap<String, f64>) -> Vec<Row> {
    let row = |question: &str, sizes: &BTreeMap<String, f64>, names: &[&str]| {
        let parts: BTreeMap<_, _> = names.iter().map(|name| (*name, sizes.get(*name))).collect();
        let sum = parts.values().copied().flatten().sum::<f64>();
        Row::told(MEMORY, question, sum, "MiB").with(json!(parts))
    };
    let hub = ["controllers", "gateway"];
    let mut rows = vec![
        row(
            "private memory of an idle control plane, of two on a hub",
            both,
            &PLANE,
        )
        .at_most(285.0),
        row(
            "the same where it is the only one and shares its programs with none",
            lone,
            &PLANE,
        ),
        row(
            "hub without control planes: controllers and gateway",
            lone,
            &hub,
        )
        .at_most(60.0),
        row("agent", lone, &[AGENT]).at_most(20.0),
    ];
    let each =
        |(name, mib): (&String, &f64)| Row::told(MEMORY, format!("of it: {name}"), *mib, "MiB");
    rows.extend(both.iter().map(each));
    let others = lone.iter().filter(|(name, _)| !both.contains_key(*name));
    rows.extend(others.map(each));
    rows
}

/// Processes of the Pods of a namespace that go by one of these names.
///
/// # Errors
/// When the Pods cannot be listed.
pub async fn processes_of(
    client: &Client,
    namespace: &str,
    wanted: &[&str],
) -> Result<Vec<(String, u32)>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods
        .list(&ListParams::default())
        .await
        .with_context(|| format!("list Pods of {namespace}"))?;
    let marks: Vec<String> = pods
        .items
        .iter()
        .filter_map(|pod| Some(format!("pod{}", pod.metadata.uid.as_ref()?)))
        .collect();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")
        .context("list processes")?
        .flatten()
    {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        // Processes may end while they are looked at.
        let Some((group, command)) = look(&entry.path()) else {
            continue;
        };
        if marks.iter().any(|mark| group.contains(mark))
            && let Some(name) = name_of(&command, wanted)
        {
            found.push((name.to_owned(), pid));
        }
    }
    Ok(found)
}

fn look(process: &Path) -> Option<(String, String)> {
    let group = std::fs::read_to_string(process.join("cgroup")).ok()?;
    let command = std::fs::read(process.join("cmdline")).ok()?;
    Some((group, String::from_utf8_lossy(&command).into_owned()))
}

/// The wanted name that a command line goes by: its program, or its first argument.
fn name_of<'a>(command: &str, wanted: &[&'a str]) -> Option<&'a str> {
    let mut words = command
        .split('\0')
        .take(2)
        .map(|word| word.rsplit('/').next().unwrap_or(word));
    words.find_map(|word| wanted.iter().find(|one| **one == word).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_go_by_their_program_or_subcommand() {
        assert_eq!(
            name_of("/usr/local/bin/etcd\0--data-dir=/d\0", &PLANE),
            Some("etcd")
        );
        assert_eq!(name_of("/farplane-hub\0gateway\0", &HUB), Some("gateway"));
        assert_eq!(name_of("/pause\0", &PLANE), None);
        assert_eq!(name_of("sh\0-c\0etcd", &PLANE), None);
    }

    #[test]
    fn sums_are_of_their_own_processes() {
        let sizes = [
            ("etcd", 30.0),
            ("kube-apiserver", 190.0),
            ("gateway", 20.0),
            ("controllers", 41.0),
            ("artifacts", 5.0),
            (AGENT, 10.0),
        ];
        let lone = sizes.map(|(name, mib)| (name.to_owned(), mib)).into();
        let both = [("etcd".to_owned(), 20.0)].into();
        let rows = rows(&lone, &both);
        assert_eq!(rows[0].value, Some(20.0));
        assert_eq!(rows[1].value, Some(220.0));
        assert_eq!(rows[2].value, Some(61.0));
        assert_eq!(rows[2].verdict, crate::report::Verdict::Missed);
        assert_eq!(rows[3].value, Some(10.0));
    }
}
