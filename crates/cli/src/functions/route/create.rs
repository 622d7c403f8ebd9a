//! `farplane route create`

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use farplane_functions_types::{Function, FunctionReference, HTTPTrigger, HTTPTriggerSpec};
use kube::{Client, ResourceExt};
use sha2::{Digest as _, Sha256};

use super::super::kinds;
use super::super::place::{InNamespace, label};
use crate::App;
use crate::failure::Failure;
use crate::objects;

const AFTER: &str = "\
Examples:
  farplane route create --function hello --url /hello
  farplane route create --function shop --prefix /shop --method GET --method POST
  farplane route create --function new --weight 10 --function old --weight 90 --url /hello";
/// Methods that routes may have.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// The router's own paths.
const OWN: [&str; 4] = ["/router-healthz", "/readyz", "/_version", "/auth/login"];

/// A new route.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub(crate) struct CreateArgs {
    /// Function that is called; several with a --weight each
    #[arg(long, required = true, value_name = "FUNCTION", value_parser = label)]
    function: Vec<String>,
    /// Percent of the calls that the function gets, one per --function
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(i64).range(0..=100))]
    weight: Vec<i64>,
    /// Exact path; `{name}` and `{name:regex}` match a segment
    #[arg(long, value_name = "PATH", value_parser = check_path, required_unless_present = "prefix")]
    url: Option<String>,
    /// Path with everything below it; the function sees the rest
    #[arg(long, value_name = "PATH", value_parser = check_path, conflicts_with = "url")]
    prefix: Option<String>,
    /// The function sees the prefix too
    #[arg(long, requires = "prefix")]
    keep_prefix: bool,
    /// HTTP method; may be repeated
    #[arg(long, value_name = "METHOD", value_parser = method, default_value = "GET")]
    method: Vec<String>,
    /// Name of the route; made from function and path when left out
    #[arg(long, value_name = "NAME", value_parser = label)]
    name: Option<String>,
    /// Answer with 202 at once, and call the function later
    #[arg(long = "async")]
    asynchronous: bool,
    #[command(flatten)]
    at: InNamespace,
}

/// Checks a method, in any case.
pub(crate) fn method(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    match METHODS.contains(&upper.as_str()) {
        true => Ok(upper),
        false => Err(format!("a method is one of {}", METHODS.join(", "))),
    }
}

/// Checks a path by the rules that the cluster has too.
pub(crate) fn check_path(text: &str) -> Result<String, String> {
    match text {
        text if !text.starts_with('/') => Err("a path begins with /".to_owned()),
        "/" => Err("the path / is the router's own".to_owned()),
        text if text.contains("..") => Err("a path does not contain ..".to_owned()),
        text if OWN.contains(&text) || text.starts_with("/fission-function") => {
            Err("this path is the router's own".to_owned())
        }
        text => Ok(text.to_owned()),
    }
}

/// A path and what lies below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// This very path.
    Exact(String),
    /// Everything below it too.
    Prefix { path: String, keep: bool },
}

/// Makes it.
pub(crate) async fn run(app: &App, args: CreateArgs) -> Result<()> {
    let client = args.at.connect(app).await?;
    let place = Some(args.at.namespace.as_str());
    let reference = reference(&args.function, &args.weight)?;
    for name in &args.function {
        objects::get::<Function>(&client, place, name).await?;
    }
    let path = match (args.url, args.prefix) {
        (Some(path), _) => Path::Exact(path),
        (None, prefix) => Path::Prefix {
            path: prefix.unwrap_or_default(),
            keep: args.keep_prefix,
        },
    };
    let mut route = route(args.name, reference, &path, &args.method);
    if args.asynchronous {
        "async".clone_into(&mut route.spec.invocation_mode);
    }
    add(app, &client, &args.at, route).await
}

/// Makes a route that nobody else has.
pub(crate) async fn add(
    app: &App,
    client: &Client,
    at: &InNamespace,
    route: HTTPTrigger,
) -> Result<()> {
    let place = Some(at.namespace.as_str());
    // Who may not look everywhere learns of a conflict from the route's status.
    let existing = match objects::list::<HTTPTrigger>(client, None).await {
        Ok(all) => all,
        Err(_) => objects::list::<HTTPTrigger>(client, place).await?,
    };
    if let Some(other) = existing.iter().find(|other| conflict(other, &route)) {
        return Err(Failure::Refused(format!(
            "{} {} is taken by route {} in namespace {}, which calls {}",
            kinds::methods(&route).join(","),
            kinds::path(&route),
            other.name_any(),
            other.namespace().unwrap_or_default(),
            kinds::target(&other.spec.function_ref)
        ))
        .into());
    }
    let made = objects::create(client, place, &route).await?;
    app.out.made(
        &made,
        format_args!(
            "route {}: {} {} calls {}",
            made.name_any(),
            kinds::methods(&made).join(","),
            kinds::path(&made),
            kinds::target(&made.spec.function_ref)
        ),
    )
}

fn reference(functions: &[String], weights: &[i64]) -> Result<FunctionReference, Failure> {
    if let ([name], []) = (functions, weights) {
        return Ok(FunctionReference {
            kind: "name".to_owned(),
            name: name.clone(),
            ..FunctionReference::default()
        });
    }
    if functions.len() != weights.len() || weights.iter().sum::<i64>() != 100 {
        return Err(Failure::Usage(
            "several functions need a --weight each, 100 together".to_owned(),
        ));
    }
    Ok(FunctionReference {
        kind: "function-weights".to_owned(),
        function_weights: functions
            .iter()
            .cloned()
            .zip(weights.iter().copied())
            .collect::<BTreeMap<_, _>>(),
        ..FunctionReference::default()
    })
}

/// The object of a route; its name tells nothing apart when it was given none.
fn route(
    name: Option<String>,
    reference: FunctionReference,
    path: &Path,
    methods: &[String],
) -> HTTPTrigger {
    let mut spec = HTTPTriggerSpec {
        methods: methods.to_vec(),
        ..HTTPTriggerSpec::default()
    };
    match path {
        Path::Exact(path) => spec.relative_url.clone_from(path),
        Path::Prefix { path, keep } => {
            spec.prefix = Some(path.clone());
            spec.keep_prefix = *keep;
        }
    }
    let first = match reference.function_weights.keys().next() {
        Some(first) => first.clone(),
        None => reference.name.clone(),
    };
    spec.function_ref = reference;
    let name = name.unwrap_or_else(|| {
        let text = format!("{path:?} {methods:?}");
        let digest = hex::encode(Sha256::digest(text.as_bytes()));
        let mut name = first;
        name.truncate(54);
        format!("{}-{}", name.trim_end_matches('-'), &digest[..8])
    });
    HTTPTrigger::new(&name, spec)
}

/// The route of one function.
pub(crate) fn to_function(function: &str, path: &Path, methods: &[String]) -> HTTPTrigger {
    let reference = FunctionReference {
        kind: "name".to_owned(),
        name: function.to_owned(),
        ..FunctionReference::default()
    };
    route(None, reference, path, methods)
}

/// True when both would answer the same request.
fn conflict(one: &HTTPTrigger, other: &HTTPTrigger) -> bool {
    let same_place = one.spec.host == other.spec.host && kinds::path(one) == kinds::path(other);
    let methods = kinds::methods(other);
    same_place
        && kinds::methods(one)
            .iter()
            .any(|method| methods.contains(method))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(path: &str, methods: &[&str]) -> HTTPTrigger {
        let methods: Vec<String> = methods.iter().map(|one| (*one).to_owned()).collect();
        to_function("hello", &Path::Exact(path.into()), &methods)
    }

    #[test]
    fn two_routes_meet_when_path_and_a_method_are_the_same() {
        let route = exact("/a", &["GET", "POST"]);
        assert!(conflict(&route, &exact("/a", &["POST"])));
        assert!(!conflict(&route, &exact("/a", &["PUT"])));
        assert!(!conflict(&route, &exact("/b", &["GET"])));
        let below = to_function(
            "hello",
            &Path::Prefix {
                path: "/a".into(),
                keep: false,
            },
            &["GET".into()],
        );
        assert!(!conflict(&route, &below));
    }

    #[test]
    fn names_differ_by_path_and_method() {
        let names: std::collections::BTreeSet<String> = [
            exact("/a", &["GET"]),
            exact("/b", &["GET"]),
            exact("/a", &["PUT"]),
        ]
        .iter()
        .map(ResourceExt::name_any)
        .collect();
        assert_eq!(names.len(), 3);
        assert!(names.iter().all(|name| name.starts_with("hello-")));
    }

    #[test]
    fn weights_are_given_to_all_or_none() {
        let functions = ["a".to_owned(), "b".to_owned()];
        let both = reference(&functions, &[10, 90]).unwrap();
        assert_eq!(both.kind, "function-weights");
        assert_eq!(both.function_weights["b"], 90);
        for wrong in [&[][..], &[100], &[10, 80]] {
            assert!(reference(&functions, wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(reference(&functions[..1], &[]).unwrap().kind, "name");
    }

    #[test]
    fn paths_of_the_router_are_refused_before_anybody_is_asked() {
        for bad in ["a", "/", "/a/../b", "/readyz", "/fission-function/x"] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
        assert_eq!(check_path("/a/{id}").unwrap(), "/a/{id}");
        assert_eq!(method("post").unwrap(), "POST");
        assert!(method("BREW").is_err());
    }
}
