//! Private memory of the platform.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::{Cluster, PLATFORM};
use crate::catalogue::names::{FUNCTIONS_MEMORY, FUNCTIONS_ROUTES};
use crate::memory::processes_of;
use crate::process::{private_kib, resting_kib};
use crate::report::Row;

const PARTS: [&str; 4] = ["router", "executor", "controllers", "storage"];
const MIB: f64 = 1024.0;

/// All of its processes, at rest.
pub async fn run(cluster: &Cluster<'_>) -> Result<Vec<Row>> {
    let found = processes_of(&cluster.client, PLATFORM, &PARTS).await?;
    ensure!(
        found.len() == PARTS.len(),
        "the platform's processes are {found:?}"
    );
    let pids: Vec<u32> = found.iter().map(|(_, pid)| *pid).collect();
    let mut parts = BTreeMap::new();
    for ((name, _), kib) in found.into_iter().zip(resting_kib(&pids).await?) {
        parts.insert(
            name,
            f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / MIB,
        );
    }
    let all = parts.values().sum();
    let question = "private memory of the whole idle platform";
    let mut rows = vec![Row::told(FUNCTIONS_MEMORY, question, all, "MiB").at_most(120.0)];
    for (name, mib) in parts {
        let question = format!("of it: {name}");
        rows.push(Row::told(FUNCTIONS_MEMORY, question, mib, "MiB"));
    }
    Ok(rows)
}

/// The router's, with so many routes.
pub async fn router(cluster: &Cluster<'_>, routes: usize) -> Result<Vec<Row>> {
    let found = processes_of(&cluster.client, PLATFORM, &["router"]).await?;
    let mut rows = Vec::new();
    for (_, pid) in found {
        let kib = u32::try_from(private_kib(pid)?).unwrap_or(u32::MAX);
        let question = format!("private memory of the router with {routes} routes");
        let row = Row::told(FUNCTIONS_ROUTES, question, f64::from(kib) / MIB, "MiB");
        rows.push(row.at_most(40.0));
    }
    ensure!(!rows.is_empty(), "there is no router");
    Ok(rows)
}
