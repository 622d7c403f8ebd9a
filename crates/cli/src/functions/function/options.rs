//! How a function is run: options that `fn create`, `fn update` and `fn deploy` take.

use std::time::Duration;

use clap::{Args, ValueEnum};
use farplane_functions_types::function::MountedReference;
use farplane_functions_types::{ExecutorType, FunctionSpec};

use crate::time;

/// How instances are made.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Executor {
    // A ready Pod of the environment's pool takes the code.
    Poolmgr,
    // A Deployment of its own.
    Newdeploy,
}

/// Options of a function; what is left out stays as it is, or is the platform's default.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct Options {
    /// What is called, in the words of the runtime, such as `module.function`
    #[arg(long, value_name = "ENTRY")]
    pub entrypoint: Option<String>,
    /// How instances are made: of the environment's ready Pods, or as a Deployment of their own
    /// [default: poolmgr]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub executor_type: Option<Executor>,
    /// Most instances at a time [default: 500]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub concurrency: Option<i64>,
    /// Most calls at an instance at a time [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub requests_per_pod: Option<i64>,
    /// How long a call may take [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = time::parse)]
    pub timeout: Option<Duration>,
    /// How long an instance may be idle before it goes [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = time::parse)]
    pub idle_timeout: Option<Duration>,
    /// Secret that the code can read as files; may be repeated
    #[arg(long, value_name = "NAME")]
    pub secret: Vec<String>,
    /// ConfigMap that the code can read as files; may be repeated
    #[arg(long, value_name = "NAME")]
    pub configmap: Vec<String>,
    /// Fewest instances, with --executor-type newdeploy [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub min_scale: Option<i32>,
    /// Most instances, with --executor-type newdeploy [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub max_scale: Option<i32>,
    /// Each instance answers one call and goes
    #[arg(long)]
    pub once_only: bool,
}

impl Options {
    /// Writes what was said into a spec.
    pub fn apply(&self, namespace: &str, spec: &mut FunctionSpec) {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        if let Some(entry) = &self.entrypoint {
            spec.package.function_name.clone_from(entry);
        }
        let strategy = &mut spec.invoke_strategy.execution_strategy;
        if let Some(executor) = self.executor_type {
            strategy.executor_type = match executor {
                Executor::Poolmgr => ExecutorType::Poolmgr,
                Executor::Newdeploy => ExecutorType::Newdeploy,
            };
        }
        let least = self.min_scale.or(strategy.min_scale);
        if let Some(least) = self.min_scale {
            strategy.min_scale = Some(least);
        }
        // One that says only how few there are shall not be refused for how many.
        strategy.max_scale = match (self.max_scale, strategy.max_scale, least) {
            (Some(most), _, _) => Some(most),
            (None, Some(most), Some(least)) if most < least => Some(least),
            (None, None, Some(least)) => Some(least.max(1)),
            (None, kept, _) => kept,
        };
        spec.concurrency = self.concurrency.or(spec.concurrency);
        spec.requests_per_pod = self.requests_per_pod.or(spec.requests_per_pod);
        spec.function_timeout = self.timeout.map(seconds).or(spec.function_timeout);
        spec.idle_timeout = self.idle_timeout.map(seconds).or(spec.idle_timeout);
        spec.once_only |= self.once_only;
        mount(namespace, &self.secret, &mut spec.secrets);
        mount(namespace, &self.configmap, &mut spec.config_maps);
    }
}

/// Replaces the list when anything was named.
fn mount(namespace: &str, names: &[String], list: &mut Vec<MountedReference>) {
    if names.is_empty() {
        return;
    }
    *list = names
        .iter()
        .map(|name| MountedReference {
            namespace: namespace.to_owned(),
            name: name.clone(),
            mount_path: String::new(),
        })
        .collect();
}

/// Checks that were cheaper before anybody is asked: scales that contradict each other.
pub(crate) fn check(options: &Options) -> Result<(), String> {
    let scaled = options.min_scale.is_some() || options.max_scale.is_some();
    if scaled && options.executor_type == Some(Executor::Poolmgr) {
        return Err("--min-scale and --max-scale need --executor-type newdeploy".to_owned());
    }
    match (options.min_scale, options.max_scale) {
        (Some(least), Some(most)) if least > most => Err(format!(
            "--min-scale {least} is more than --max-scale {most}"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_stays_and_what_is_said_is_written() {
        let mut spec = FunctionSpec::default();
        Options::default().apply("shop", &mut spec);
        assert_eq!(spec, FunctionSpec::default());
        let options = Options {
            executor_type: Some(Executor::Newdeploy),
            min_scale: Some(3),
            timeout: Some(Duration::from_secs(90)),
            secret: vec!["s".into()],
            ..Options::default()
        };
        options.apply("shop", &mut spec);
        assert_eq!(spec.executor_type(), ExecutorType::Newdeploy);
        assert_eq!(spec.invoke_strategy.execution_strategy.max_scale, Some(3));
        assert_eq!(spec.function_timeout, Some(90));
        assert_eq!(
            (
                spec.secrets[0].namespace.as_str(),
                spec.secrets[0].name.as_str()
            ),
            ("shop", "s")
        );
        Options::default().apply("shop", &mut spec);
        assert_eq!(spec.secrets.len(), 1);
    }

    #[test]
    fn scales_that_contradict_are_refused() {
        let scales = |least, most| Options {
            min_scale: Some(least),
            max_scale: Some(most),
            ..Options::default()
        };
        assert!(check(&scales(2, 1)).is_err());
        assert!(check(&scales(1, 1)).is_ok());
        let pooled = Options {
            executor_type: Some(Executor::Poolmgr),
            ..scales(1, 2)
        };
        assert!(check(&pooled).is_err());
    }
}
