//! `farplane fn update`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use farplane_functions_types::{ExecutorType, Function, RawObject};

use super::change;
use super::create::reference;
use super::options::{self, Options};
use super::package::{self, Code};
use super::ready::{self, Waiting};
use crate::App;
use crate::failure::Failure;
use crate::functions::place::{Named, label};
use crate::functions::{archive, environment, storage};
use crate::objects;

const AFTER: &str = "\
Examples:
  farplane fn update hello --code hello.py
  farplane fn update hello --timeout 10s --concurrency 20
What is left out stays as it is. Calls go on meanwhile.";

/// What changes.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    named: Named,
    /// File or directory with the new code
    #[arg(long, value_name = "PATH")]
    code: Option<PathBuf>,
    /// Another environment
    #[arg(long, value_name = "ENVIRONMENT", value_parser = label)]
    env: Option<String>,
    /// Another image, of a function that is one
    #[arg(long, value_name = "REFERENCE", conflicts_with_all = ["code", "env"])]
    image: Option<String>,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    waiting: Waiting,
}

/// Changes it and waits until it can be called.
pub(crate) async fn run(app: &App, args: UpdateArgs) -> Result<()> {
    options::check(&args.options).map_err(Failure::Usage)?;
    let (name, at) = (args.named.name.as_str(), &args.named.at);
    let bytes = args.code.as_deref().map(archive::code).transpose()?;
    let client = at.connect(app).await?;
    let old: Function = objects::get(&client, Some(&at.namespace), name).await?;
    let mut spec = old.spec.clone();
    if let Some(image) = &args.image {
        set_image(spec.executor_type(), spec.podspec.as_mut(), image)?;
    }
    if let Some(environment) = &args.env {
        environment::ensure(app, &client, at, environment).await?;
        spec.environment.name.clone_from(environment);
        spec.environment.namespace.clone_from(&at.namespace);
    }
    if let Some(bytes) = bytes {
        let code = Code::Ready(storage::archive(&client, &at.namespace, bytes).await?);
        let wanted = package::spec(&at.namespace, &spec.environment.name, code);
        let made = package::ensure(&client, &at.namespace, name, wanted).await?;
        spec.package.package_ref = reference(&at.namespace, &made);
    }
    args.options.apply(&at.namespace, &mut spec);
    match change::to(&client, at, &old, spec).await? {
        Some(changed) => app
            .out
            .made(&changed, format_args!("function {name} is changed"))?,
        None => app
            .out
            .made(&old, format_args!("function {name} is as it was"))?,
    }
    ready::wait(app, &client, at, name, &args.waiting).await
}

fn set_image(
    executor: ExecutorType,
    podspec: Option<&mut RawObject>,
    image: &str,
) -> Result<(), Failure> {
    let container = podspec
        .filter(|_| executor == ExecutorType::Container)
        .and_then(|podspec| podspec.0.get_mut("containers")?.get_mut(0));
    let Some(container) = container else {
        return Err(Failure::Refused(
            "the function is no image, it has an environment and code: use --code or --env"
                .to_owned(),
        ));
    };
    container["image"] = image.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_function_that_is_an_image_gets_another() {
        let mut podspec = RawObject(json!({ "containers": [{ "name": "a", "image": "old" }] }));
        assert!(set_image(ExecutorType::Poolmgr, Some(&mut podspec), "new").is_err());
        assert!(set_image(ExecutorType::Container, None, "new").is_err());
        set_image(ExecutorType::Container, Some(&mut podspec), "new").unwrap();
        assert_eq!(podspec.0["containers"][0]["image"], "new");
    }
}
