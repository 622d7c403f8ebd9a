//! `farplane env create`

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use farplane_functions_types::Environment;
use kube::Client;

use super::super::catalogue::{self, Entry};
use super::super::place::{InNamespace, Named, label};
use crate::App;
use crate::objects;
use crate::time;

const AFTER: &str = "\
Examples:
  farplane env create python
  farplane env create py --language python --poolsize 5
  farplane env create mine --image registry.example.org/mine-env:1 --builder registry.example.org/mine-builder:1";
/// Contract of an image that is named without one.
const CONTRACT: i32 = 3;

/// A new environment.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    named: Named,
    /// Language, as the platform knows it; the name when left out
    #[arg(long, value_name = "LANGUAGE", value_parser = label, conflicts_with = "image")]
    language: Option<String>,
    /// Image of the runtime, instead of the platform's for the language
    #[arg(long, value_name = "REFERENCE")]
    image: Option<String>,
    /// Image of the builder
    #[arg(long, value_name = "REFERENCE")]
    builder: Option<String>,
    /// Build command of packages that name none
    #[arg(long, value_name = "COMMAND")]
    build_command: Option<String>,
    /// Contract of the image [default: 3, or the platform's for the language]
    #[arg(long, value_name = "1|2|3", value_parser = clap::value_parser!(i32).range(1..=3))]
    version: Option<i32>,
    /// Pods kept ready for functions to come
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(i32).range(0..=1000))]
    poolsize: i32,
    /// Time that a Pod has to finish its calls when it is ended
    #[arg(long, value_name = "DURATION", value_parser = time::parse)]
    grace: Option<Duration>,
    /// Secret with which images are pulled
    #[arg(long, value_name = "SECRET")]
    image_pull_secret: Option<String>,
    /// Give the runtime the archive as it is instead of unpacked
    #[arg(long)]
    keep_archive: bool,
}

/// Makes it.
pub(crate) async fn run(app: &App, args: CreateArgs) -> Result<()> {
    let client = args.named.at.connect(app).await?;
    let language = args.language.as_deref().unwrap_or(&args.named.name);
    let entry = match &args.image {
        Some(image) => Entry {
            image: image.clone(),
            builder: String::new(),
            version: CONTRACT,
        },
        None => {
            let known = catalogue::read(&client).await?;
            catalogue::entry(&known, language)?.clone()
        }
    };
    let environment = environment(&args, &entry);
    let made = objects::create(&client, Some(&args.named.at.namespace), &environment).await?;
    let name = &args.named.name;
    app.out.made(
        &made,
        format_args!(
            "environment {name} is made, image {}; `{}` makes a function of it",
            made.spec.runtime.image,
            args.named
                .at
                .command(&format!("fn create NAME --env {name} --code FILE"))
        ),
    )
}

fn environment(args: &CreateArgs, entry: &Entry) -> Environment {
    let mut environment = catalogue::environment(&args.named.name, entry);
    let spec = &mut environment.spec;
    spec.pool_size = Some(args.poolsize);
    if let Some(builder) = &args.builder {
        spec.builder.image.clone_from(builder);
    }
    if let Some(command) = &args.build_command {
        spec.builder.command.clone_from(command);
    }
    if let Some(version) = args.version {
        spec.version = version;
    }
    spec.termination_grace_period = args
        .grace
        .and_then(|grace| i64::try_from(grace.as_secs()).ok());
    spec.image_pull_secret = args.image_pull_secret.clone().unwrap_or_default();
    spec.keep_archive = args.keep_archive;
    environment
}

/// The environment of this name; made from the platform's catalogue when there is none.
pub(crate) async fn ensure(
    app: &App,
    client: &Client,
    at: &InNamespace,
    name: &str,
) -> Result<Environment> {
    let place = Some(at.namespace.as_str());
    if let Some(found) = objects::find::<Environment>(client, place, name).await? {
        return Ok(found);
    }
    let known = catalogue::read(client).await?;
    let entry = catalogue::entry(&known, name)?;
    let made = match objects::create(client, place, &catalogue::environment(name, entry)).await {
        Ok(made) => made,
        // Somebody else was first.
        Err(error) => match objects::find::<Environment>(client, place, name).await? {
            Some(found) => return Ok(found),
            None => return Err(error),
        },
    };
    app.out.say(format_args!(
        "there was no environment {name}: it is made, image {}",
        entry.image
    ));
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Cli, Command};
    use crate::functions::environment::EnvironmentCommand;
    use clap::Parser as _;

    fn parse(words: &str) -> Result<CreateArgs, clap::Error> {
        let all = format!("farplane env create python {words}");
        match Cli::try_parse_from(all.split_whitespace())?.command {
            Command::Env(EnvironmentCommand::Create(args)) => Ok(args),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn options_go_before_the_catalogue() {
        let entry = Entry {
            image: "i".into(),
            builder: "b".into(),
            version: 2,
        };
        let spec = environment(&parse("").unwrap(), &entry).spec;
        assert_eq!((spec.version, spec.pool_size), (2, Some(3)));
        assert_eq!(spec.builder.image, "b");
        let words = "--builder c --version 3 --poolsize 0 --grace 2m --build-command ./b";
        let spec = environment(&parse(words).unwrap(), &entry).spec;
        assert_eq!((spec.version, spec.pool_size), (3, Some(0)));
        assert_eq!(
            (spec.builder.image.as_str(), spec.builder.command.as_str()),
            ("c", "./b")
        );
        assert_eq!(spec.termination_grace_period, Some(120));
        for wrong in ["--version 4", "--poolsize -1", "--image i --language go"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
