//! One build: fetch the source, run the command, upload what it made.

use std::time::Duration;

use bytes::Bytes;
use farplane_functions_types::wire::{
    BuildReply, BuildRequest, FetchRequest, UploadReply, UploadRequest,
};
use farplane_functions_types::{Environment, ObjectReference, Package};
use hyper::StatusCode;
use kube::ResourceExt as _;
use uuid::Uuid;

use crate::Settings;
use crate::error::BuildError;
use crate::place::Builder;
use crate::sidecar::Sidecar;

/// How long the fetcher may take for a source of any size.
const FETCH_DEADLINE: Duration = Duration::from_secs(5 * 60);
/// How long packing and uploading may take.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(6 * 60);
/// How much longer than the command the builder may take to answer.
const ANSWER_SLACK: Duration = Duration::from_secs(30);
/// How long cleaning up may take.
const CLEAN_DEADLINE: Duration = Duration::from_secs(10);

/// A build of a package by a builder.
#[derive(Debug)]
pub struct Build<'a> {
    settings: &'a Settings,
    package: &'a Package,
    environment: &'a Environment,
    fetcher: Sidecar,
    builder: Sidecar,
    /// Name of the source in the builder's Pod; no other build has it.
    name: String,
}

impl<'a> Build<'a> {
    /// A build to be run; none while the builder is not ready.
    pub fn new(
        settings: &'a Settings,
        package: &'a Package,
        environment: &'a Environment,
        builder: &Builder,
    ) -> Option<Self> {
        let Builder::Ready { fetcher, builder } = builder else {
            return None;
        };
        let namespace = package.namespace().unwrap_or_default();
        let random = Uuid::new_v4().simple().to_string();
        let mut name = package.name_any();
        // Names of files are shorter than those of objects may be.
        name.truncate(200);
        Some(Self {
            settings,
            package,
            environment,
            fetcher: Sidecar::fetcher(*fetcher, &settings.secret, &namespace),
            builder: Sidecar::builder(*builder, &settings.secret, &namespace),
            name: format!("{name}-{}", &random[..8]),
        })
    }

    /// Runs. The log is what the command said, whatever came of it.
    pub async fn run(&self) -> (String, Result<UploadReply, BuildError>) {
        if let Err(error) = self.fetch().await {
            return (String::new(), Err(error));
        }
        let reply = match self.build().await {
            Ok(reply) => reply,
            Err((log, error)) => return (log, Err(error)),
        };
        let uploaded = self.upload(&reply.artifact_filename).await;
        (reply.build_logs, uploaded)
    }

    async fn fetch(&self) -> Result<(), BuildError> {
        let request = FetchRequest {
            fetch_type: 0,
            package: ObjectReference {
                namespace: self.package.namespace().unwrap_or_default(),
                name: self.package.name_any(),
            },
            storage_url: self.settings.storage_url.clone(),
            filename: self.name.clone(),
            archive: Some(self.package.spec.source.clone()),
            ..FetchRequest::default()
        };
        let answer = self
            .fetcher
            .post("/fetch", &request, FETCH_DEADLINE)
            .await?;
        success("the source cannot be fetched", answer).map(drop)
    }

    async fn build(&self) -> Result<BuildReply, (String, BuildError)> {
        let own = &self.package.spec.build_command;
        let command = if own.trim().is_empty() {
            &self.environment.spec.builder.command
        } else {
            own
        };
        let request = BuildRequest {
            src_pkg_filename: self.name.clone(),
            command: command.clone(),
        };
        let deadline = self.settings.build_deadline + ANSWER_SLACK;
        let sent = self.builder.post("/", &request, deadline).await;
        let (status, body) = sent.map_err(|error| (String::new(), error))?;
        match serde_json::from_slice::<BuildReply>(&body) {
            Ok(reply) if status.is_success() => Ok(reply),
            // The builder's own words are the end of the log.
            Ok(reply) => {
                let words = reply.build_logs.trim_end().lines().next_back();
                let words = words.unwrap_or("the build failed").to_owned();
                Err((reply.build_logs, BuildError::Refused(words)))
            }
            Err(_) => {
                let words = words("the builder did not build", status, &body);
                Err((String::new(), BuildError::Broken(words)))
            }
        }
    }

    async fn upload(&self, artifact: &str) -> Result<UploadReply, BuildError> {
        let request = UploadRequest {
            filename: artifact.to_owned(),
            storage_url: self.settings.storage_url.clone(),
            archive_package: !self.environment.spec.keep_archive,
        };
        let answer = self
            .fetcher
            .post("/upload", &request, UPLOAD_DEADLINE)
            .await?;
        let body = success("the package cannot be uploaded", answer)?;
        serde_json::from_slice(&body)
            .map_err(|error| BuildError::Broken(format!("the answer to the upload: {error}")))
    }

    /// Removes what the build left in the builder's Pod.
    pub async fn clean(&self) {
        let target = format!("/clean?name={}", self.name);
        match self.builder.delete(&target, CLEAN_DEADLINE).await {
            Ok(status) if status.is_success() => {}
            Ok(status) => tracing::warn!(source = self.name, %status, "a build was not cleaned up"),
            Err(error) => tracing::warn!(source = self.name, %error, "a build was not cleaned up"),
        }
    }
}

fn success(what: &str, (status, body): (StatusCode, Bytes)) -> Result<Bytes, BuildError> {
    if status.is_success() {
        return Ok(body);
    }
    let words = words(what, status, &body);
    // A key that does not fit yet, or something that is away, may be right the next time.
    if status.is_server_error() || status == StatusCode::UNAUTHORIZED {
        return Err(BuildError::Broken(words));
    }
    Err(BuildError::Refused(words))
}

fn words(what: &str, status: StatusCode, body: &Bytes) -> String {
    let body = String::from_utf8_lossy(body);
    match body.trim() {
        "" => format!("{what}: {status}"),
        body => format!("{what}: {body}"),
    }
}
