//! `farplane fn deploy`
//!
//! Sends a directory, or a file, as source, lets the environment's builder build it, and points the
//! function at what was built; makes the function when there is none. Until the build is done
//! an existing function serves its old code.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use farplane_functions_types::{Environment, Function, Package};
use kube::{Client, ResourceExt as _};

use super::change;
use super::create::{RouteOptions, of_package, reference};
use super::options::{self, Options};
use super::package::{self, Code};
use super::ready::{self, Waiting};
use crate::App;
use crate::failure::Failure;
use crate::functions::explain::{self, Health};
use crate::functions::place::{InNamespace, label};
use crate::functions::{archive, environment, storage};
use crate::objects;
use crate::wait::{self, Goal, State, Step, Verdict};

const AFTER: &str = "\
Examples:
  farplane fn deploy ./shop --env python
  farplane fn deploy hello.go --env go
  farplane fn deploy . --name shop --env nodejs --url /shop --entrypoint index
The log of a build that fails is printed. The same directory again changes nothing.";

/// What is deployed.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub(crate) struct DeployArgs {
    /// Directory with the source; or a file, where that is all of it
    #[arg(value_name = "DIR|FILE")]
    source: PathBuf,
    /// Name of the function; that of the directory or file when left out
    #[arg(long, value_name = "NAME", value_parser = label)]
    name: Option<String>,
    /// Environment; made when there is none of that name and the platform knows the language
    #[arg(long, value_name = "ENVIRONMENT", value_parser = label)]
    env: String,
    /// Build command, instead of the environment's
    #[arg(long, value_name = "COMMAND", default_value = "")]
    build_command: String,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    route: RouteOptions,
    #[command(flatten)]
    at: InNamespace,
    #[command(flatten)]
    waiting: Waiting,
}

/// Builds it, makes or changes the function, and waits until it can be called.
pub(crate) async fn run(app: &App, args: DeployArgs) -> Result<()> {
    options::check(&args.options).map_err(Failure::Usage)?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => name_of(&args.source)?,
    };
    let bytes = archive::source(&args.source)?;
    let at = &args.at;
    let client = at.connect(app).await?;
    let environment = environment::ensure(app, &client, at, &args.env).await?;
    has_builder(&environment)?;
    let code = Code::Source {
        archive: storage::archive(&client, &at.namespace, bytes).await?,
        command: args.build_command.clone(),
    };
    let wanted = package::spec(&at.namespace, &args.env, code);
    let made = package::ensure(&client, &at.namespace, &name, wanted).await?;
    let place = Some(at.namespace.as_str());
    if objects::find::<Function>(&client, place, &name)
        .await?
        .is_none()
    {
        // So that `fn describe` tells of a build that fails or never ends.
        put(app, &client, &args, &name, &made).await?;
        build(app, &client, &args, &name, &made).await?;
    } else {
        let built = match build(app, &client, &args, &name, &made).await {
            Ok(built) => built,
            Err(error) => {
                // Its log is told here and now; nothing else will ever name it.
                package::discard(&client, &at.namespace, &made.name_any()).await?;
                return Err(error);
            }
        };
        put(app, &client, &args, &name, &built).await?;
    }
    args.route.add(app, &client, at, &name).await?;
    ready::wait(app, &client, at, &name, &args.waiting).await?;
    app.out.say(match args.waiting.no_wait {
        true => format!(
            "`{}` tells how the build is",
            at.command(&format!("fn describe {name}"))
        ),
        false => format!("`{}` calls it", at.command(&format!("fn test {name}"))),
    });
    Ok(())
}

/// A name for the function from that of its directory or file.
fn name_of(source: &Path) -> Result<String, Failure> {
    let real = source
        .canonicalize()
        .map_err(|error| Failure::Usage(format!("{} cannot be read: {error}", source.display())))?;
    let part = match real.is_dir() {
        true => real.file_name(),
        false => real.file_stem(),
    };
    let text = part.and_then(|name| name.to_str()).unwrap_or_default();
    label(text).map_err(|_| {
        Failure::Usage(format!(
            "{text:?} is no name for a function: give it one by --name"
        ))
    })
}

fn has_builder(environment: &Environment) -> Result<(), Failure> {
    match environment.spec.builder.image.as_str() {
        "" => Err(Failure::Refused(format!(
            "environment {0} has no builder: `farplane fn create NAME --env {0} --code DIR` takes the directory as it is",
            environment.name_any()
        ))),
        _ => Ok(()),
    }
}

/// Waits for the build, unless nobody wants to; its log is the error when it fails.
async fn build(
    app: &App,
    client: &Client,
    args: &DeployArgs,
    function: &str,
    package: &Package,
) -> Result<Package> {
    if args.waiting.no_wait {
        return Ok(package.clone());
    }
    let name = package.name_any();
    let goal = Goal {
        what: format!("package {name} to be built"),
        look: args.at.command(&format!("fn describe {function}")),
        timeout: args.waiting.wait_timeout,
        out: &app.out,
    };
    let place = Some(args.at.namespace.as_str());
    let repeat = |words: &str| args.at.command(words);
    let started = std::time::Instant::now();
    wait::poll(goal, async || {
        let package: Package = objects::get(client, place, &name).await?;
        let finding = explain::package_finding(&package, function, &repeat);
        Ok(match finding.health {
            Health::Good => Verdict::Done(vec![Step::new(
                "build",
                State::Done(Some(started.elapsed())),
            )]),
            Health::Waiting => {
                Verdict::Going(vec![Step::new("build", State::Working(finding.words))])
            }
            Health::Bad => Verdict::Failed(Failure::Refused(finding.words)),
        })
    })
    .await?;
    objects::get(client, place, &name).await
}

/// Makes the function of the package, or points the one that exists at it.
async fn put(
    app: &App,
    client: &Client,
    args: &DeployArgs,
    name: &str,
    package: &Package,
) -> Result<()> {
    let at = &args.at;
    let place = Some(at.namespace.as_str());
    let Some(old) = objects::find::<Function>(client, place, name).await? else {
        let mut spec = of_package(&at.namespace, &args.env, package);
        args.options.apply(&at.namespace, &mut spec);
        let made = objects::create(client, place, &Function::new(name, spec)).await?;
        return app.out.made(&made, format_args!("function {name} is made"));
    };
    let mut spec = old.spec.clone();
    spec.environment.name.clone_from(&args.env);
    spec.environment.namespace.clone_from(&at.namespace);
    let kept = spec.package.package_ref.clone();
    spec.package.package_ref = reference(&at.namespace, package);
    if kept.name == spec.package.package_ref.name {
        // The very code that it has: a newer version of the same package is no change.
        spec.package.package_ref = kept;
    }
    args.options.apply(&at.namespace, &mut spec);
    match change::to(client, at, &old, spec).await? {
        Some(changed) => app
            .out
            .made(&changed, format_args!("function {name} has the new code")),
        None => app
            .out
            .made(&old, format_args!("function {name} is as it was")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_named_like_its_directory() {
        let folder = tempfile::tempdir().unwrap();
        let good = folder.path().join("shop-2");
        let bad = folder.path().join("My Shop");
        for path in [&good, &bad] {
            std::fs::create_dir(path).unwrap();
        }
        std::fs::write(folder.path().join("hello.go"), "").unwrap();
        assert_eq!(name_of(&folder.path().join("hello.go")).unwrap(), "hello");
        assert_eq!(name_of(&good.join(".")).unwrap(), "shop-2");
        assert!(name_of(&bad).unwrap_err().to_string().contains("--name"));
        assert!(name_of(&folder.path().join("absent")).is_err());
    }
}
