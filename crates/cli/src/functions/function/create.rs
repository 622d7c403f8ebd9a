//! `farplane fn create`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use farplane_functions_types::function::{FunctionPackage, PackageReference};
use farplane_functions_types::{
    ExecutorType, Function, FunctionSpec, ObjectReference, Package, RawObject,
};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use super::options::{self, Options};
use super::package::{self, Code};
use super::ready::{self, Waiting};
use crate::App;
use crate::failure::Failure;
use crate::functions::place::{InNamespace, Named, label};
use crate::functions::route::{self, Path};
use crate::functions::{archive, environment, storage};
use crate::objects;

const AFTER: &str = "\
Examples:
  farplane fn create hello --env python --code hello.py
  farplane fn create shop --env nodejs --code ./shop --entrypoint index --url /shop --method GET
  farplane fn create web --image registry.example.org/web:1 --port 8080
Then:
  farplane fn test hello
A directory becomes a zip archive. `farplane fn deploy` builds a source with dependencies.";

/// A new function.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    named: Named,
    /// Environment; made when there is none of that name and the platform knows the language
    #[arg(long, value_name = "ENVIRONMENT", value_parser = label, required_unless_present = "image")]
    env: Option<String>,
    /// File or directory with the code, as it runs
    #[arg(long, value_name = "PATH", required_unless_present_any = ["image", "package"])]
    code: Option<PathBuf>,
    /// A package that exists, instead of code
    #[arg(long, value_name = "PACKAGE", value_parser = label, conflicts_with = "code")]
    package: Option<String>,
    /// An image that answers HTTP itself, instead of environment and code
    #[arg(long, value_name = "REFERENCE", conflicts_with_all = ["env", "code", "package", "executor_type", "entrypoint"])]
    image: Option<String>,
    /// Port of the image
    #[arg(long, value_name = "PORT", default_value = "8888", requires = "image", conflicts_with_all = ["env", "code", "package"])]
    port: u16,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    route: RouteOptions,
    #[command(flatten)]
    waiting: Waiting,
}

/// A route that is made at once.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct RouteOptions {
    /// Path at which it is called
    #[arg(long, value_name = "PATH", value_parser = route::check_path)]
    pub url: Option<String>,
    /// Path at which, and below which, it is called
    #[arg(long, value_name = "PATH", value_parser = route::check_path, conflicts_with = "url")]
    pub prefix: Option<String>,
    /// HTTP method of the path; may be repeated [default: GET]
    #[arg(long, value_name = "METHOD", value_parser = route::method)]
    pub method: Vec<String>,
}

impl RouteOptions {
    /// Makes it, when one was asked for.
    pub async fn add(
        &self,
        app: &App,
        client: &Client,
        at: &InNamespace,
        function: &str,
    ) -> Result<()> {
        let path = match (&self.url, &self.prefix) {
            (Some(path), _) => Path::Exact(path.clone()),
            (None, Some(path)) => Path::Prefix {
                path: path.clone(),
                keep: false,
            },
            (None, None) if self.method.is_empty() => return Ok(()),
            (None, None) => {
                let words = "--method is for a route: name its path by --url or --prefix";
                return Err(Failure::Usage(words.to_owned()).into());
            }
        };
        let get = ["GET".to_owned()];
        let methods = if self.method.is_empty() {
            &get[..]
        } else {
            &self.method[..]
        };
        let quiet = App {
            global: app.global.clone(),
            out: crate::output::Output {
                format: crate::arguments::Format::Table,
                ..app.out.clone()
            },
        };
        route::add(
            &quiet,
            client,
            at,
            route::to_function(function, &path, methods),
        )
        .await
    }
}

/// Makes it and waits until it can be called.
pub(crate) async fn run(app: &App, args: CreateArgs) -> Result<()> {
    options::check(&args.options).map_err(Failure::Usage)?;
    let (name, at) = (args.named.name.as_str(), &args.named.at);
    let place = Some(at.namespace.as_str());
    // Read before anything is made: a wrong path leaves nothing behind.
    let bytes = args.code.as_deref().map(archive::code).transpose()?;
    let client = at.connect(app).await?;
    if objects::find::<Function>(&client, place, name)
        .await?
        .is_some()
    {
        return Err(Failure::Refused(format!(
            "function {name} in namespace {} exists already; `{}` changes it",
            at.namespace,
            at.command(&format!("fn update {name}"))
        ))
        .into());
    }
    let mut spec = match (&args.image, &args.env) {
        (Some(image), _) => container(name, image, args.port),
        (None, environment) => {
            let environment = environment.as_deref().unwrap_or_default();
            environment::ensure(app, &client, at, environment).await?;
            let package = match (&args.package, bytes) {
                (None, Some(bytes)) => {
                    let code = Code::Ready(storage::archive(&client, &at.namespace, bytes).await?);
                    let spec = package::spec(&at.namespace, environment, code);
                    package::ensure(&client, &at.namespace, name, spec).await?
                }
                (package, _) => {
                    let package = package.as_deref().unwrap_or_default();
                    objects::get::<Package>(&client, place, package).await?
                }
            };
            of_package(&at.namespace, environment, &package)
        }
    };
    args.options.apply(&at.namespace, &mut spec);
    let made = objects::create(&client, place, &Function::new(name, spec)).await?;
    app.out
        .made(&made, format_args!("function {name} is made"))?;
    args.route.add(app, &client, at, name).await?;
    ready::wait(app, &client, at, name, &args.waiting).await?;
    let call = at.command(&format!("fn test {name}"));
    app.out.say(match args.waiting.no_wait {
        true => format!(
            "`{}` tells how it is",
            at.command(&format!("fn describe {name}"))
        ),
        false => format!("function {name} is ready; `{call}` calls it"),
    });
    Ok(())
}

/// A function whose code is in a package.
pub(crate) fn of_package(namespace: &str, environment: &str, package: &Package) -> FunctionSpec {
    FunctionSpec {
        environment: ObjectReference {
            namespace: namespace.to_owned(),
            name: environment.to_owned(),
        },
        package: FunctionPackage {
            package_ref: reference(namespace, package),
            function_name: String::new(),
        },
        ..FunctionSpec::default()
    }
}

/// A package at its version.
pub(crate) fn reference(namespace: &str, package: &Package) -> PackageReference {
    PackageReference {
        namespace: namespace.to_owned(),
        name: package.name_any(),
        resource_version: package
            .metadata
            .resource_version
            .clone()
            .unwrap_or_default(),
    }
}

/// A function that is an image.
fn container(name: &str, image: &str, port: u16) -> FunctionSpec {
    let mut spec = FunctionSpec {
        podspec: Some(RawObject(json!({
            "containers": [{
                "name": name, "image": image, "ports": [{ "containerPort": port }],
            }],
        }))),
        ..FunctionSpec::default()
    };
    spec.invoke_strategy.execution_strategy.executor_type = ExecutorType::Container;
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Cli, Command};
    use crate::functions::function::FunctionCommand;
    use clap::Parser as _;

    fn parse(words: &str) -> Result<CreateArgs, clap::Error> {
        let all = format!("farplane fn create hello {words}");
        match Cli::try_parse_from(all.split_whitespace())?.command {
            Command::Fn(FunctionCommand::Create(args)) => Ok(args),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn code_comes_from_one_place() {
        for good in [
            "--env python --code a.py",
            "--env python --package p",
            "--image i --port 80",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for wrong in [
            "",
            "--env python",
            "--code a.py",
            "--env python --code a.py --package p",
            "--image i --code a.py",
            "--env python --code a.py --port 80",
            "--env python --code a.py --url a",
            "--env python --code a.py --concurrency 0",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_image_is_run_by_the_container_executor() {
        let spec = container("web", "i", 80);
        assert_eq!(spec.executor_type(), ExecutorType::Container);
        assert_eq!(
            spec.podspec.unwrap().0["containers"][0]["ports"][0]["containerPort"],
            80
        );
    }
}
