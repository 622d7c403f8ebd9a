//! Clean-up units: what a plane leaves outside of its own files.

use std::path::Path;
use std::time::Duration;

use farplane_types::Unit;

use super::command::{self, run, words};
use super::removal;

/// Time of one command; removing many containers takes a while.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// Time of a command that changes the network.
const NETWORK_LIMIT: Duration = Duration::from_secs(10);

/// What came of a clean-up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Worth knowing, but not in the way.
    pub remarks: Vec<String>,
    /// Still there; the clean-up has to be tried again.
    pub left: Vec<String>,
}

/// Runs a clean-up unit. Doing it again is harmless.
pub async fn clean(unit: &Unit, state_dir: &Path) -> Outcome {
    let mut outcome = Outcome::default();
    let Unit::Cleanup {
        name: _,
        commands,
        interfaces,
        tables,
        directories,
    } = unit
    else {
        return outcome;
    };
    for command in commands {
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        if let Err(error) = run(&command, COMMAND_LIMIT).await {
            outcome.remarks.push(words(&error));
        }
    }
    for interface in interfaces {
        if let Err(error) = delete_interface(interface).await {
            outcome
                .left
                .push(format!("interface {interface}: {}", words(&error)));
        }
    }
    if let Err(error) = delete_tables(tables).await {
        outcome.left.push(format!("nftables: {}", words(&error)));
    }
    for directory in directories {
        let (path, state) = (directory.clone(), state_dir.to_owned());
        let removed =
            tokio::task::spawn_blocking(move || removal::remove(Path::new(&path), &state)).await;
        match removed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => outcome.left.push(words(&error)),
            Err(error) => outcome.left.push(format!("{directory}: {error}")),
        }
    }
    outcome
}

async fn delete_interface(name: &str) -> Result<(), command::Error> {
    if nix::net::if_::if_nametoindex(name).is_err() {
        return Ok(());
    }
    run(&["ip", "link", "delete", "dev", name], NETWORK_LIMIT)
        .await
        .map(drop)
}

async fn delete_tables(tables: &[String]) -> Result<(), command::Error> {
    if tables.is_empty() {
        return Ok(());
    }
    let listed = match run(&["nft", "list", "tables"], NETWORK_LIMIT).await {
        // Without it nothing on this machine made any.
        Err(error) if error.is_absent() => return Ok(()),
        other => other?,
    };
    let there = |table: &&String| {
        listed
            .lines()
            .any(|line| line.trim() == format!("table {table}"))
    };
    for table in tables.iter().filter(there) {
        let (family, name) = table.split_once(' ').unwrap_or_default();
        run(&["nft", "delete", "table", family, name], NETWORK_LIMIT).await?;
    }
    Ok(())
}
