//! Builder and fetcher on loopback, with real commands.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

mod support;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use farplane_functions_sidecar::builder::{self, Settings};
use farplane_functions_types::wire::{BuildReply, BuildRequest};
use hyper::{Method, StatusCode};
use support::{call, key};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

struct Builder {
    packages: TempDir,
    address: SocketAddr,
    _stop: DropGuard,
}

impl Builder {
    async fn new(deadline: Duration) -> Self {
        let packages = tempfile::tempdir().unwrap();
        let settings = Settings {
            packages: packages.path().to_owned(),
            key: key(),
            deadline,
            ..Settings::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(builder::serve(settings, listener, stop.clone()));
        Self {
            packages,
            address,
            _stop: stop.drop_guard(),
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.packages.path().join(path)
    }

    /// A source with a build script.
    fn source(&self, name: &str, script: &str) {
        std::fs::create_dir(self.at(name)).unwrap();
        let path = self.at(name).join("build.sh");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    async fn build(&self, name: &str, command: &str) -> (StatusCode, BuildReply) {
        let request = BuildRequest {
            src_pkg_filename: name.to_owned(),
            command: command.to_owned(),
        };
        let body = serde_json::to_vec(&request).unwrap();
        let (status, body) = call(self.address, Method::POST, "/", body, Some(&key())).await;
        (status, serde_json::from_str(&body).unwrap())
    }
}

const LONG: Duration = Duration::from_secs(60);

fn runs(pid_file: &Path) -> bool {
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    // A zombie that nobody has waited for yet does not run.
    status.is_ok_and(|status| !status.contains(") Z "))
}

async fn until(mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_command_makes_a_package_and_its_log_is_kept_in_order() {
    let builder = Builder::new(LONG).await;
    builder.source(
        "src",
        "echo out; echo err >&2; echo \"$1\"; cat /dev/stdin; cp -r $SRC_PKG $DEPLOY_PKG; echo ${BUILDER_KEY:-no key}",
    );
    let (status, reply) = builder.build("src", "./build.sh argument").await;
    assert_eq!(status, StatusCode::OK, "{}", reply.build_logs);
    assert_eq!(reply.build_logs, "out\nerr\nargument\nno key\n");
    assert!(
        builder
            .at(&reply.artifact_filename)
            .join("build.sh")
            .exists()
    );

    let target = "/clean?name=src";
    let (status, _) = call(
        builder.address,
        Method::DELETE,
        target,
        Vec::new(),
        Some(&key()),
    )
    .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(builder.packages.path().read_dir().unwrap().count(), 0);
}

#[tokio::test]
async fn what_a_build_made_can_be_read_by_the_fetcher() {
    let builder = Builder::new(LONG).await;
    builder.source(
        "src",
        "umask 077; mkdir -p $DEPLOY_PKG/d; echo x > $DEPLOY_PKG/d/f; ln -s /etc/shadow $DEPLOY_PKG/l",
    );
    let (status, reply) = builder.build("src", "./build.sh").await;
    assert_eq!(status, StatusCode::OK, "{}", reply.build_logs);
    let mode = |path: &str| {
        let path = builder.at(&reply.artifact_filename).join(path);
        path.metadata().unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("d"), 0o755);
    assert_eq!(mode("d/f"), 0o644);
}

#[tokio::test]
async fn a_build_that_fails_says_so_after_its_log() {
    let builder = Builder::new(LONG).await;
    builder.source("src", "echo before; exit 3");
    let (status, reply) = builder.build("src", "./build.sh").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(
        reply.build_logs,
        "before\nthe build command failed: exit status: 3\n"
    );

    builder.source("nothing", "true");
    let (status, reply) = builder.build("nothing", "./build.sh").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        reply.build_logs.contains("wrote nothing"),
        "{}",
        reply.build_logs
    );

    let (status, reply) = builder.build("src", "./missing.sh").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        reply.build_logs.contains("cannot be started"),
        "{}",
        reply.build_logs
    );
}

#[tokio::test]
async fn a_build_that_never_ends_is_stopped_with_its_children() {
    let builder = Builder::new(Duration::from_millis(1500)).await;
    builder.source(
        "src",
        "sleep 3600 & echo $! > $SRC_PKG/child; echo started; wait",
    );
    let (status, reply) = builder.build("src", "./build.sh").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        reply.build_logs.starts_with("started\n"),
        "{}",
        reply.build_logs
    );
    assert!(
        reply.build_logs.contains("did not end within"),
        "{}",
        reply.build_logs
    );
    let child = builder.at("src/child");
    until(|| !runs(&child)).await;
}

#[tokio::test]
async fn a_build_whose_caller_is_gone_is_stopped() {
    let builder = Builder::new(LONG).await;
    builder.source(
        "src",
        "sleep 3600 & echo $! > $SRC_PKG/.child; mv $SRC_PKG/.child $SRC_PKG/child; wait",
    );
    let child = builder.at("src/child");
    tokio::select! {
        _ = builder.build("src", "./build.sh") => unreachable!(),
        () = until(|| child.exists()) => {}
    }
    until(|| !runs(&child)).await;
}

#[tokio::test]
async fn what_a_build_leaves_behind_does_not_hold_it() {
    let builder = Builder::new(LONG).await;
    builder.source(
        "src",
        "sleep 3600 & echo $! > $SRC_PKG/child; touch $DEPLOY_PKG",
    );
    let (status, _) = builder.build("src", "./build.sh").await;
    assert_eq!(status, StatusCode::OK);
    let child = builder.at("src/child");
    until(|| !runs(&child)).await;
}

#[tokio::test]
async fn names_and_commands_of_others_are_refused() {
    let builder = Builder::new(LONG).await;
    builder.source("src", "touch $DEPLOY_PKG");
    for name in ["../src", "/etc", "", ".", "missing"] {
        let (status, reply) = builder.build(name, "./build.sh").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{name}");
        assert!(reply.build_logs.contains("source"), "{}", reply.build_logs);
    }
    let (status, reply) = builder.build("src", "./build.sh; id").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        reply.build_logs.contains("no shell"),
        "{}",
        reply.build_logs
    );
    let body = br#"{"srcPkgFilename":"src","command":"./build.sh"}"#.to_vec();
    let (status, _) = call(builder.address, Method::POST, "/", body, None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let target = "/clean?name=../x";
    let (status, _) = call(
        builder.address,
        Method::DELETE,
        target,
        Vec::new(),
        Some(&key()),
    )
    .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_log_of_any_length_is_kept_by_its_end() {
    let builder = Builder::new(LONG).await;
    builder.source("src", "seq 1 200000; touch $DEPLOY_PKG");
    let (status, reply) = builder.build("src", "./build.sh").await;
    assert_eq!(status, StatusCode::OK);
    assert!(reply.build_logs.len() < 256 * 1024);
    assert!(
        reply.build_logs.starts_with('['),
        "{}",
        &reply.build_logs[..80]
    );
    assert!(reply.build_logs.ends_with("199999\n200000\n"));
}
