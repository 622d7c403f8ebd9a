//! `farplane spec init`

use std::fs;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;

use super::Directory;
use super::files::CONFIG;
use crate::App;
use crate::failure::Failure;

const README: &str = "\
What is in this directory describes functions, environments, routes and timers.

  farplane spec validate         checks it
  farplane spec apply --wait     brings a cluster to it
  farplane spec destroy          deletes what was made of it

The command `fission` reads it too. fission-deployment-config.yaml says whose it is: everything
that is made of these files carries its uid.
";

/// What to begin with.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  farplane spec init\n  farplane spec init --specdir deploy --name shop"
)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    directory: Directory,
    /// Name of what the specs describe; that of the directory around them when left out
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Uid that everything carries; a new one when left out
    #[arg(long, alias = "id", value_name = "UID")]
    deployid: Option<String>,
}

/// Writes the directory.
pub(crate) fn run(app: &App, args: &InitArgs) -> Result<()> {
    let root = &args.directory.specdir;
    let path = root.join(CONFIG);
    if path.exists() {
        return Err(Failure::Refused(format!("{} exists already", path.display())).into());
    }
    fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
    let real = root
        .canonicalize()
        .with_context(|| format!("find {}", root.display()))?;
    let around = real.parent().and_then(|parent| parent.file_name());
    let name = match (&args.name, around) {
        (Some(name), _) => name.clone(),
        (None, Some(name)) => name.to_string_lossy().into_owned(),
        (None, None) => "functions".to_owned(),
    };
    let uid = match &args.deployid {
        Some(uid) => uid.clone(),
        None => uuid::Uuid::new_v4().to_string(),
    };
    let config = json!({
        "apiVersion": "fission.io/v1", "kind": "DeploymentConfig", "name": name, "uid": uid,
    });
    let text = serde_yaml_ng::to_string(&config).context("write the DeploymentConfig")?;
    let readme = root.join("README");
    if !readme.exists() {
        fs::write(&readme, README).with_context(|| format!("write {}", readme.display()))?;
    }
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    app.out.value(&config, |_| String::new())?;
    app.out.say(format_args!(
        "specs of {name} begin in {}; add YAML files of functions, then `farplane spec apply --wait`",
        root.display()
    ));
    Ok(())
}
