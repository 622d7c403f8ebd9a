//! `farplane spec validate`

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::Directory;
use super::{archives, check, files};
use crate::App;
use crate::functions::place::{DEFAULT_NAMESPACE, label};

/// What to check.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  farplane spec validate --specdir specs")]
pub(crate) struct ValidateArgs {
    #[command(flatten)]
    directory: Directory,
    /// Namespace of objects that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE, value_parser = label)]
    namespace: String,
}

/// Checks it, archives included.
pub(crate) fn run(app: &App, args: &ValidateArgs) -> Result<()> {
    let specs = files::read(&args.directory)?;
    let mut report = check::check(&specs, &args.namespace);
    for archive in specs
        .archives
        .values()
        .filter(|archive| !archive.include.is_empty())
    {
        if let Err(error) = archives::pack(archive, &args.directory.specdir) {
            report.errors.push(crate::failure::text(&error));
        }
    }
    for warning in &report.warnings {
        app.out.say(format_args!("warning: {warning}"));
    }
    if !report.errors.is_empty() {
        return Err(files::refused(&args.directory.specdir, &report.errors).into());
    }
    let value = json!({ "name": specs.config.name, "uid": specs.config.uid, "objects": specs.objects.len(), "warnings": report.warnings });
    app.out.value(&value, |_| String::new())?;
    app.out.say(format_args!(
        "{} objects and {} archives of {} are as they should be",
        specs.objects.len(),
        specs.archives.len(),
        specs.config.name
    ));
    Ok(())
}
