//! The builder's requests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use farplane_functions_types::wire::{BuildReply, BuildRequest};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::command;
use super::process::Build;
use super::settings::Settings;
use crate::archive::name;
use crate::fetcher::remove;
use crate::http::{self, BodyError, Reply};

const COMPONENT: &str = "builder";
/// Between the name of a source and what is random in the name of its package. No object's name
/// has it, so no source has the name of another's package.
const SEPARATOR: char = '_';

/// Serves until the shutdown; builds that run then are ended with their connections.
pub async fn serve(settings: Settings, listener: TcpListener, shutdown: CancellationToken) {
    let settings = Arc::new(settings);
    http::serve(listener, shutdown, move |request| {
        let settings = Arc::clone(&settings);
        async move { answer(&settings, request).await }
    })
    .await;
}

async fn answer(settings: &Settings, request: Request<Incoming>) -> Reply {
    let reply = match (request.method(), request.uri().path()) {
        (_, "/healthz") => return http::empty(StatusCode::OK),
        (_, "/version") => return http::version(),
        (&Method::POST, "/") => build(settings, request).await,
        (&Method::DELETE, "/clean") => clean(settings, request).await,
        (_, "/") => return http::method_not_allowed("POST"),
        (_, "/clean") => return http::method_not_allowed("DELETE"),
        _ => return http::failure(StatusCode::NOT_FOUND, COMPONENT, "there is no such path"),
    };
    reply.unwrap_or_else(|error| error.reply(COMPONENT))
}

/// An answer in the words that a log would have.
fn reply(status: StatusCode, artifact: &str, log: String) -> Reply {
    http::json(
        status,
        &BuildReply {
            artifact_filename: artifact.to_owned(),
            build_logs: log,
        },
    )
}

fn refused(reason: &dyn std::fmt::Display) -> Reply {
    reply(StatusCode::BAD_REQUEST, "", format!("{reason}\n"))
}

async fn build(settings: &Settings, request: Request<Incoming>) -> Result<Reply, BodyError> {
    let request: BuildRequest = http::read(request, &settings.key).await?;
    let name = &request.src_pkg_filename;
    let source = match source(&settings.packages, name) {
        Ok(source) => source,
        Err(reason) => return Ok(refused(&reason)),
    };
    let command = match command::parse(&request.command) {
        Ok(command) => command,
        Err(refusal) => return Ok(refused(&refusal)),
    };
    let random = Uuid::new_v4().simple().to_string();
    let artifact = format!("{name}{SEPARATOR}{}", &random[..8]);
    let build = Build {
        command,
        source,
        output: settings.packages.join(&artifact),
        deadline: settings.deadline,
    };
    tracing::info!(source = name, "build begins");
    let (mut log, result) = build.run().await;
    let Err(failure) = result else {
        tracing::info!(source = name, "build succeeded");
        return Ok(reply(StatusCode::OK, &artifact, log));
    };
    tracing::warn!(source = name, error = %failure, "build failed");
    if !log.is_empty() && !log.ends_with('\n') {
        log.push('\n');
    }
    log.push_str(&format!("{failure}\n"));
    Ok(reply(StatusCode::INTERNAL_SERVER_ERROR, &artifact, log))
}

fn source(packages: &Path, name: &str) -> Result<PathBuf, String> {
    if !name::is_plain(name) {
        return Err(format!(
            "source {name:?} is refused: it must be one name without directories"
        ));
    }
    let source = packages.join(name);
    match source.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() || metadata.is_file() => Ok(source),
        Ok(_) => Err(format!("source {name:?} is neither file nor directory")),
        Err(error) => Err(format!(
            "source {name:?} is not there ({error}); it must be fetched first"
        )),
    }
}

/// Removes a source and what was built from it.
async fn clean(settings: &Settings, request: Request<Incoming>) -> Result<Reply, BodyError> {
    let query = request.uri().query().unwrap_or_default();
    let name = query.split('&').find_map(|pair| pair.strip_prefix("name="));
    let name = name.unwrap_or_default().to_owned();
    http::body(request, &settings.key).await?;
    if !name::is_plain(&name) {
        return Ok(refused(&format!("name {name:?} is refused")));
    }
    let artifacts = format!("{name}{SEPARATOR}");
    let packages = settings.packages.clone();
    let cleaned = tokio::task::spawn_blocking(move || {
        let entries = packages.read_dir().into_iter().flatten().flatten();
        for entry in entries {
            let file = entry.file_name();
            let file = file.to_string_lossy();
            if file == name || file.starts_with(&artifacts) {
                remove(&entry.path());
            }
        }
    });
    Ok(match cleaned.await {
        Ok(()) => reply(StatusCode::OK, "", String::new()),
        Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, "", error.to_string()),
    })
}
