//! How long from nothing, or from a hub that runs, to a hub with a demo cluster.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use crate::catalogue::names::{UP_COLD, UP_RUNNING, UP_WARM};
use crate::hub::Hub;
use crate::report::Row;
use crate::stats::Samples;

const UP: [&str; 2] = ["up", "--demo"];

/// From nothing, with images built.
///
/// # Errors
/// What `farplane up` says.
pub async fn warm(hub: &Hub) -> Result<Vec<Row>> {
    hub.purge().await?;
    let began = Instant::now();
    hub.farplane(&UP).await?;
    let took = began.elapsed().as_secs_f64();
    Ok(vec![
        Row::told(
            UP_WARM,
            "from nothing to hub and demo cluster, images built",
            took,
            "s",
        )
        .at_most(90.0),
    ])
}

/// On a hub that runs, with its demo.
///
/// # Errors
/// What `farplane up` says.
pub async fn running(hub: &Hub, rounds: u32) -> Result<Vec<Row>> {
    hub.farplane(&UP).await?;
    let mut times = Samples::default();
    for _ in 0..rounds {
        let began = Instant::now();
        hub.farplane(&UP).await?;
        times.add(began.elapsed().as_secs_f64());
    }
    let slowest = times.max().context("no round")?;
    let question = format!("on a hub that runs already, slowest of {rounds}");
    Ok(vec![
        Row::told(UP_RUNNING, question, slowest, "s")
            .at_most(5.0)
            .with(json!({ "runs": times.sorted() })),
    ])
}

/// From a fresh clone with every cache empty; nothing of the user's is emptied. The commands
/// are the README's. Debian packages that are installed already stay so.
///
/// # Errors
/// When cloning or `make` fails.
pub async fn cold(root: &Path, hub: &str) -> Result<Vec<Row>> {
    const LIMIT: Duration = Duration::from_secs(2 * 3600);
    let folder = tempfile::tempdir_in("/var/tmp").context("make a temporary folder")?;
    let clone = folder.path().join("clone");
    let cloned = Command::new("git")
        .args(["clone", "--quiet", "--no-hardlinks"])
        .args([root, &clone])
        .status()
        .await
        .context("start git")?;
    ensure!(cloned.success(), "git clone failed: {cloned}");
    let make = |target: &str| {
        let mut command = Command::new("make");
        command
            .current_dir(&clone)
            .arg(target)
            .arg(format!("NAME={hub}"));
        for (variable, name) in [
            ("FARPLANE_CACHE", "cache"),
            ("XDG_CACHE_HOME", "xdg"),
            ("CARGO_HOME", "cargo"),
            ("CARGO_TARGET_DIR", "target"),
            ("GOPATH", "go"),
            ("GOMODCACHE", "go-mod"),
            ("GOCACHE", "go-build"),
        ] {
            command.env(variable, folder.path().join(name));
        }
        // Its files are for reading only, which a removal of the folder would stumble over.
        command
            .env("GOFLAGS", "-modcacherw")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command.kill_on_drop(true);
        command
    };
    copy_registry_settings(folder.path())?;
    let began = Instant::now();
    let up = timeout(LIMIT, make("up").status()).await;
    let took = began.elapsed().as_secs_f64() / 60.0;
    let purged = make("purge").status().await.context("start make")?;
    let up = up
        .context("make up takes more than two hours")?
        .context("start make")?;
    ensure!(up.success(), "make up failed: {up}");
    ensure!(purged.success(), "make purge failed: {purged}");
    Ok(vec![
        Row::told(
            UP_COLD,
            "make up from a fresh clone, empty caches",
            took,
            "min",
        )
        .at_most(30.0),
    ])
}

/// A machine may reach the package registries by settings in cargo's home only.
fn copy_registry_settings(folder: &Path) -> Result<()> {
    let home = std::env::var_os("CARGO_HOME").map(std::path::PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")));
    let cargo = folder.join("cargo");
    std::fs::create_dir_all(&cargo).context("make cargo's home")?;
    for name in ["config.toml", "config"] {
        let from = home
            .as_ref()
            .map(|home| home.join(name))
            .filter(|path| path.is_file());
        if let Some(from) = from {
            std::fs::copy(&from, cargo.join(name))
                .with_context(|| format!("copy {}", from.display()))?;
        }
    }
    Ok(())
}
