//! `farplane fn test`, `farplane fn call`

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use farplane_functions_types::names::header;
use farplane_functions_types::wire;
use http_body_util::BodyExt as _;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::App;
use crate::arguments::Format;
use crate::failure::Failure;
use crate::functions::place::{InNamespace, Named};
use crate::functions::reach::{self, Ask, Part};
use crate::functions::route;
use crate::time;

const AFTER: &str = "\
Examples:
  farplane fn test hello
  farplane fn call hello --method POST --body '{\"name\":\"you\"}' --header 'content-type: application/json'
  farplane fn call hello --subpath '/items?limit=3' --body @request.json
The answer goes to stdout, its status to stderr. Exit code 1 when the status is 500 or more.";
/// Whoever waits for an answer also learns of the router's own time limit.
const MORE_PATIENCE: Duration = Duration::from_secs(5);

/// Which function, and what is sent.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub(crate) struct CallArgs {
    #[command(flatten)]
    named: Named,
    /// HTTP method [default: GET, or POST with --body]
    #[arg(long, value_name = "METHOD", value_parser = route::method)]
    method: Option<String>,
    /// Header, `name: value`; may be repeated
    #[arg(long, short = 'H', value_name = "HEADER", value_parser = split)]
    header: Vec<(String, String)>,
    /// Body; `@FILE` sends a file, `-` what comes at stdin
    #[arg(long, short, value_name = "BODY")]
    body: Option<String>,
    /// Path and query that the function sees
    #[arg(long, value_name = "PATH", default_value = "")]
    subpath: String,
    /// Alias or version of the function
    #[arg(long, value_name = "ALIAS|VERSION")]
    version: Option<String>,
    /// How long to wait for the answer
    #[arg(long, default_value = "1m", value_parser = time::parse, value_name = "DURATION")]
    timeout: Duration,
    /// Print the headers of the answer to stderr
    #[arg(long, short)]
    include: bool,
}

fn split(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("a header is written `name: value`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Calls it.
pub(crate) async fn run(app: &App, args: CallArgs) -> Result<()> {
    let ask = ask(&args)?;
    let client = args.named.at.connect(app).await?;
    let started = Instant::now();
    let limit = args.timeout + MORE_PATIENCE;
    let answer = tokio::time::timeout(limit, async {
        let answer = reach::send(&client, Part::Router, ask).await?;
        print(app, &args, answer, started).await
    });
    answer.await.map_err(|_| {
        Failure::NotReady(format!(
            "function {} did not answer within {}; `{}` tells how it is",
            args.named.name,
            time::human(args.timeout),
            describe(&args)
        ))
    })?
}

fn describe(args: &CallArgs) -> String {
    args.named
        .at
        .command(&format!("fn describe {}", args.named.name))
}

fn ask(args: &CallArgs) -> Result<Ask> {
    let mut headers = HeaderMap::new();
    for (name, value) in &args.header {
        let wrong = || Failure::Usage(format!("{name}: {value} is no header"));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        headers.append(name, HeaderValue::from_str(value).map_err(|_| wrong())?);
    }
    let default = if args.body.is_some() { "POST" } else { "GET" };
    let method = args.method.as_deref().unwrap_or(default);
    Ok(Ask {
        method: Method::from_bytes(method.as_bytes()).context("read the method")?,
        target: target(
            &args.named.at,
            &args.named.name,
            args.version.as_deref(),
            &args.subpath,
        ),
        headers,
        body: args
            .body
            .as_deref()
            .map(body)
            .transpose()?
            .unwrap_or_default(),
    })
}

fn body(text: &str) -> Result<Bytes> {
    if text == "-" {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .context("read stdin")?;
        return Ok(bytes.into());
    }
    match text.strip_prefix('@') {
        Some(path) => Ok(std::fs::read(path)
            .with_context(|| format!("read {path}"))?
            .into()),
        None => Ok(Bytes::copy_from_slice(text.as_bytes())),
    }
}

/// Path of a function at the router's internal listener. The namespace is always named:
/// without it, `hello/a` might as well be function `a` of namespace `hello`.
fn target(at: &InNamespace, name: &str, version: Option<&str>, subpath: &str) -> String {
    let mut target = format!("/fission-function/{}/{name}", at.namespace);
    if let Some(version) = version {
        target.push_str(&format!(":{version}"));
    }
    if !subpath.is_empty() && !subpath.starts_with(['/', '?']) {
        target.push('/');
    }
    target + subpath
}

/// Prints an answer as it comes; as one object for programs.
async fn print(
    app: &App,
    args: &CallArgs,
    answer: Response<hyper::body::Incoming>,
    started: Instant,
) -> Result<()> {
    let status = answer.status();
    let headers = answer.headers().clone();
    let mut body = answer.into_body();
    let mut seen = Vec::new();
    let live = matches!(app.out.format, Format::Table | Format::Name);
    while let Some(frame) = body.frame().await {
        let frame = frame.context("the answer was cut off")?;
        let Some(bytes) = frame.data_ref() else {
            continue;
        };
        if live {
            let mut stdout = std::io::stdout().lock();
            stdout
                .write_all(bytes)
                .and_then(|()| stdout.flush())
                .context("write to stdout")?;
        }
        // Errors are short; of what streams on, nothing is kept.
        if !live || seen.len() < 64 * 1024 {
            seen.extend_from_slice(bytes);
        }
    }
    let elapsed = started.elapsed();
    if live {
        end_line(&seen);
        if args.include {
            for (name, value) in &headers {
                app.out.say(format_args!(
                    "{name}: {}",
                    String::from_utf8_lossy(value.as_bytes())
                ));
            }
        }
        app.out
            .say(format_args!("{status} in {} ms", elapsed.as_millis()));
    } else {
        let value = object(status, &headers, &seen, elapsed);
        app.out.value(&value, |_| String::new())?;
    }
    judge(args, status, &headers, &seen)
}

/// A terminal's next line begins at its begin.
fn end_line(seen: &[u8]) {
    use std::io::IsTerminal as _;
    if !seen.is_empty() && !seen.ends_with(b"\n") && std::io::stdout().is_terminal() {
        println!();
    }
}

fn object(status: StatusCode, headers: &HeaderMap, body: &[u8], elapsed: Duration) -> Value {
    let headers: BTreeMap<&str, String> = headers
        .iter()
        .map(|(name, value)| {
            (
                name.as_str(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    json!({
        "status": status.as_u16(), "headers": headers,
        "body": String::from_utf8_lossy(body),
        "milliseconds": u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
    })
}

/// Whether the call failed, in words.
fn judge(args: &CallArgs, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<()> {
    let name = &args.named.name;
    if status == StatusCode::NOT_FOUND && headers.contains_key(header::ROUTE_MISS) {
        return Err(Failure::NotFound(format!(
            "the router knows no function {name} in namespace {}; `{}` shows what there is",
            args.named.at.namespace,
            args.named.at.command("fn list")
        ))
        .into());
    }
    if status == StatusCode::UNAUTHORIZED && headers.contains_key(header::COMPONENT) {
        return Err(Failure::Refused(
            "the router does not accept the signature: do this machine's clock and the cluster's agree?".to_owned(),
        )
        .into());
    }
    if !status.is_server_error() {
        return Ok(());
    }
    let platform = headers.contains_key(header::COMPONENT);
    let failure: Option<wire::Failure> = serde_json::from_slice(body).ok().filter(|_| platform);
    let why = match failure {
        Some(failure) => format!("{}: {}", failure.component, failure.reason),
        None => format!("the function answered {status}"),
    };
    Err(Failure::Refused(format!("{why}; `{}` tells more", describe(args))).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Cli, Command};
    use crate::failure::{exit_code, text};
    use crate::functions::function::FunctionCommand;
    use clap::Parser as _;

    fn parse(words: &[&str]) -> CallArgs {
        let all = ["farplane", "fn", "call", "hello"].iter().chain(words);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Fn(FunctionCommand::Test(args)) => args,
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn a_call_goes_to_the_function_of_its_namespace() {
        let target = |words: &[&str]| ask(&parse(words)).unwrap().target;
        assert_eq!(target(&[]), "/fission-function/default/hello");
        assert_eq!(
            target(&["-n", "shop", "--subpath", "a?b=c"]),
            "/fission-function/shop/hello/a?b=c"
        );
        assert_eq!(
            target(&["--subpath", "?b=c", "--version", "v2"]),
            "/fission-function/default/hello:v2?b=c"
        );
    }

    #[test]
    fn a_body_is_posted_and_headers_are_sent() {
        let ask = ask(&parse(&["--body", "x", "-H", "a: b: c", "-H", "a:d"])).unwrap();
        assert_eq!((ask.method, ask.body.as_ref()), (Method::POST, &b"x"[..]));
        let values: Vec<&HeaderValue> = ask.headers.get_all("a").iter().collect();
        assert_eq!(values, ["b: c", "d"]);
    }

    #[test]
    fn only_a_server_s_error_is_a_failure_and_it_tells_whose() {
        let args = parse(&[]);
        let none = HeaderMap::new();
        assert!(judge(&args, StatusCode::NOT_FOUND, &none, b"").is_ok());
        let own = judge(&args, StatusCode::INTERNAL_SERVER_ERROR, &none, b"boom").unwrap_err();
        assert_eq!(exit_code(&own), 1);
        assert!(
            text(&own).contains("the function answered 500"),
            "{}",
            text(&own)
        );
        let mut headers = HeaderMap::new();
        headers.insert(header::COMPONENT, HeaderValue::from_static("executor"));
        let body = br#"{"component":"executor","reason":"no Pod is ready"}"#;
        let ours = judge(&args, StatusCode::BAD_GATEWAY, &headers, body).unwrap_err();
        assert!(text(&ours).starts_with("executor: no Pod is ready; `farplane fn describe hello`"));
        headers.insert(header::ROUTE_MISS, HeaderValue::from_static("true"));
        let absent = judge(&args, StatusCode::NOT_FOUND, &headers, b"").unwrap_err();
        assert_eq!(exit_code(&absent), 3);
    }
}
