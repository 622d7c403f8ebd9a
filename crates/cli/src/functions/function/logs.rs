//! `farplane fn logs`
//!
//! Prints what a function's instances print. With `--follow` it watches for new instances and
//! goes on with each where it stopped, also when the connection breaks: lines carry their
//! time, and none is printed twice.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use farplane_functions_types::{Function, names::label};
use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::LogParams;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::mpsc;

use crate::App;
use crate::arguments::Format;
use crate::failure::root;
use crate::functions::facts;
use crate::functions::place::Named;
use crate::objects;
use crate::time;

const AFTER: &str = "\
Examples:
  farplane fn logs hello
  farplane fn logs -f hello --since 10m
Logs go with their instances: an idle function has none.";
/// Pause before an instance is asked again that does not run yet, or whose stream broke.
const AGAIN: Duration = Duration::from_millis(500);

/// Whose logs, and how many.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    named: Named,
    /// Go on printing, also of instances to come
    #[arg(long, short)]
    follow: bool,
    /// Last lines of each instance
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(i64).range(0..))]
    tail: i64,
    /// Only what is not older
    #[arg(long, value_name = "DURATION", value_parser = time::parse)]
    since: Option<Duration>,
    /// Only of this instance
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Begin each line with its time
    #[arg(long)]
    timestamps: bool,
}

/// A line that an instance printed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    pod: String,
    time: String,
    text: String,
}

/// Prints them.
pub(crate) async fn run(app: &App, args: LogsArgs) -> Result<()> {
    let at = &args.named.at;
    let client = at.connect(app).await?;
    let name = args.named.name.as_str();
    let function: Function = objects::get(&client, Some(&at.namespace), name).await?;
    let source = Source {
        api: Api::namespaced(client.clone(), &at.namespace),
        wanted: container(&function),
        parameters: LogParams {
            tail_lines: Some(args.tail),
            since_seconds: args
                .since
                .and_then(|since| i64::try_from(since.as_secs()).ok()),
            follow: args.follow,
            timestamps: true,
            ..LogParams::default()
        },
    };
    match args.follow {
        true => follow(app, &args, source).await,
        false => once(app, &args, &client, source).await,
    }
}

/// Container with the function's code: named as the environment, or as the function where it
/// has none.
fn container(function: &Function) -> String {
    match function.spec.environment.name.as_str() {
        "" => function.name_any(),
        environment => environment.to_owned(),
    }
}

/// Where lines come from.
#[derive(Clone)]
struct Source {
    api: Api<Pod>,
    wanted: String,
    parameters: LogParams,
}

impl Source {
    /// The container of a Pod whose lines are the function's.
    fn container(&self, pod: &Pod) -> Option<String> {
        let names: Vec<&str> = pod
            .spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .map(|container| container.name.as_str())
            .collect();
        let named = names.iter().find(|name| **name == self.wanted);
        // An environment may name its container itself.
        let other = || names.iter().find(|name| **name != "fetcher");
        named.or_else(other).map(|name| (*name).to_owned())
    }

    /// Sends the lines of a Pod until its stream ends; gives the time of the last one.
    async fn copy(
        &self,
        pod: &str,
        parameters: &LogParams,
        after: &str,
        lines: &mpsc::Sender<Line>,
    ) -> Result<String> {
        let words = || format!("read the log of instance {pod}");
        let stream = self
            .api
            .log_stream(pod, parameters)
            .await
            .with_context(words)?;
        let mut stream = stream.lines();
        let mut last = after.to_owned();
        while let Some(line) = stream.try_next().await.with_context(words)? {
            let (time, text) = line.split_once(' ').unwrap_or((&line, ""));
            // Times have as many digits as they need, so they are not compared as texts.
            if !is_after(time, &last) {
                continue;
            }
            last = time.to_owned();
            let (pod, time, text) = (pod.to_owned(), time.to_owned(), text.to_owned());
            if lines.send(Line { pod, time, text }).await.is_err() {
                break;
            }
        }
        Ok(last)
    }

    /// Follows a Pod until it is gone.
    async fn follow(self, pod: Pod, lines: mpsc::Sender<Line>) {
        let name = pod.name_any();
        let mut parameters = self.parameters.clone();
        parameters.container = self.container(&pod);
        let mut last = String::new();
        while !lines.is_closed() {
            if let Ok(new) = self.copy(&name, &parameters, &last, &lines).await {
                last = new;
            }
            if let Ok(time) = last.parse::<Timestamp>() {
                parameters.tail_lines = None;
                parameters.since_seconds = None;
                parameters.since_time = Some(time);
            }
            // Gone, or another Pod of that name.
            if let Ok(now) = self.api.get_opt(&name).await
                && now.and_then(|now| now.uid()) != pod.uid()
            {
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn is_after(time: &str, last: &str) -> bool {
    match (time.parse::<Timestamp>(), last.parse::<Timestamp>()) {
        (Ok(time), Ok(last)) => time > last,
        _ => true,
    }
}

fn selector(name: &str) -> String {
    format!("{}={name}", label::FUNCTION_NAME)
}

async fn once(app: &App, args: &LogsArgs, client: &Client, source: Source) -> Result<()> {
    let name = &args.named.name;
    let mut pods = facts::pods(client, &args.named.at.namespace, &selector(name)).await?;
    pods.retain(|pod| args.pod.as_ref().is_none_or(|only| *only == pod.name_any()));
    pods.sort_by_key(|pod| pod.creation_timestamp());
    if pods.is_empty() {
        app.out.say(format_args!(
            "function {name} has no instance, so there are no logs; a call makes one: `{}`",
            args.named.at.command(&format!("fn test {name}"))
        ));
        return Ok(());
    }
    let (sender, mut lines) = mpsc::channel(256);
    let several = pods.len() > 1;
    let read = async move {
        for pod in &pods {
            let mut parameters = source.parameters.clone();
            parameters.container = source.container(pod);
            source
                .copy(&pod.name_any(), &parameters, "", &sender)
                .await?;
        }
        drop(sender);
        anyhow::Ok(())
    };
    let print = async {
        while let Some(line) = lines.recv().await {
            print(app, args, &line, several)?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(read, print).map(|_| ())
}

async fn follow(app: &App, args: &LogsArgs, source: Source) -> Result<()> {
    let config = watcher::Config::default().labels(&selector(&args.named.name));
    let pods = watcher::watcher(source.api.clone(), config);
    let mut pods = std::pin::pin!(pods);
    let mut known = BTreeSet::new();
    let (sender, mut lines) = mpsc::channel(256);
    loop {
        let event = tokio::select! {
            line = lines.recv() => {
                if let Some(line) = line {
                    print(app, args, &line, known.len() > 1)?;
                }
                continue;
            }
            _ = tokio::signal::ctrl_c() => return Ok(()),
            event = pods.next() => event,
        };
        match event {
            Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => {
                let wanted = args.pod.as_ref().is_none_or(|only| *only == pod.name_any());
                if wanted && known.insert(pod.uid().unwrap_or_default()) {
                    tokio::spawn(source.clone().follow(pod, sender.clone()));
                }
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                app.out.say(format_args!(
                    "the cluster does not answer ({}); asking again",
                    root(&error)
                ));
                tokio::time::sleep(AGAIN).await;
            }
            None => return Ok(()),
        }
    }
}

fn print(app: &App, args: &LogsArgs, line: &Line, several: bool) -> Result<()> {
    app.out
        .data(&render(line, app.out.format, several, args.timestamps))
}

fn render(line: &Line, format: Format, several: bool, timestamps: bool) -> String {
    let Line { pod, time, text } = line;
    match format {
        Format::Json | Format::Yaml => {
            format!("{}\n", json!({ "pod": pod, "time": time, "line": text }))
        }
        Format::Table | Format::Name => {
            let pod = if several {
                format!("[{pod}] ")
            } else {
                String::new()
            };
            let time = if timestamps {
                format!("{time} ")
            } else {
                String::new()
            };
            format!("{pod}{time}{text}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whose_it_is_where_there_are_several() {
        let line = Line {
            pod: "p".into(),
            time: "2026-01-01T00:00:00Z".into(),
            text: "hi".into(),
        };
        assert_eq!(render(&line, Format::Table, false, false), "hi\n");
        assert_eq!(
            render(&line, Format::Table, true, true),
            "[p] 2026-01-01T00:00:00Z hi\n"
        );
        assert_eq!(
            render(&line, Format::Json, true, false),
            "{\"line\":\"hi\",\"pod\":\"p\",\"time\":\"2026-01-01T00:00:00Z\"}\n"
        );
    }

    #[test]
    fn times_are_compared_as_times() {
        assert!(is_after("2026-01-01T00:00:00.1Z", "2026-01-01T00:00:00Z"));
        assert!(!is_after("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.1Z"));
        assert!(!is_after("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"));
        assert!(is_after("2026-01-01T00:00:00Z", ""));
    }

    #[test]
    fn the_code_s_container_is_the_one_of_the_environment() {
        let function = |environment: &str| -> Function {
            let spec = json!({ "environment": { "name": environment } });
            serde_json::from_value(json!({ "metadata": { "name": "hello" }, "spec": spec }))
                .unwrap()
        };
        assert_eq!(container(&function("python")), "python");
        assert_eq!(container(&function("")), "hello");
    }
}
