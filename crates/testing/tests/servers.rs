//! The program's servers, asked by the program's client.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_farplane-test-server");

/// A server on a free port that ends with the test.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(arguments)
            .args(["--port", "0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let port = first.rsplit(':').next().unwrap().parse().unwrap();
        // The server's later lines must find a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, port }
    }

    fn start_tls(mode: &str, folder: &Path) -> Self {
        let file = |name: &str| folder.join(name).display().to_string();
        let out = folder.display().to_string();
        assert!(
            run(&["self-signed", "--dns", "localhost", "--out", &out])
                .status
                .success()
        );
        Self::start(&[mode, "--cert", &file("tls.crt"), "--key", &file("tls.key")])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_client_sees_what_the_server_says() {
    let server = Server::start(&["serve"]);
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", server.port);
    let name = run(&["fetch", &url("/hostname")]);
    assert!(name.status.success());
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(out(&name), machine.trim());
    let echo = run(&[
        "fetch",
        &url("/echo"),
        "--host",
        "other.test",
        "--expect",
        "other.test",
    ]);
    assert!(echo.status.success(), "{}", out(&echo));
    assert!(
        !run(&["fetch", &url("/healthz"), "--expect", "ill"])
            .status
            .success()
    );
    assert!(!run(&["fetch", &url("/absent")]).status.success());
}

#[test]
fn an_aggregated_api_answers_over_tls_to_who_trusts_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_tls("apiservice", folder.path());
    let url = format!(
        "https://localhost:{}/apis/test.farplane.io/v1/pings",
        server.port
    );
    let ca = folder.path().join("tls.crt").display().to_string();
    let answer = run(&["fetch", &url, "--ca", &ca, "--expect", "PingList"]);
    assert!(
        answer.status.success(),
        "{}",
        String::from_utf8_lossy(&answer.stderr)
    );
    let other = tempfile::tempdir().unwrap();
    let path = other.path().display().to_string();
    assert!(
        run(&["self-signed", "--dns", "localhost", "--out", &path])
            .status
            .success()
    );
    let stranger = other.path().join("tls.crt").display().to_string();
    assert!(!run(&["fetch", &url, "--ca", &stranger]).status.success());
}

#[test]
fn a_silent_connection_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_tls("webhook", folder.path());
    let silent = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let url = format!("https://localhost:{}/healthz", server.port);
    let ca = folder.path().join("tls.crt").display().to_string();
    let answer = run(&["fetch", &url, "--ca", &ca, "--timeout", "5"]);
    drop(silent);
    assert!(
        answer.status.success(),
        "{}",
        String::from_utf8_lossy(&answer.stderr)
    );
}

#[test]
fn certificates_are_printed_as_json_for_who_has_no_files() {
    let pair: serde_json::Value =
        serde_json::from_str(&out(&run(&["self-signed", "--dns", "a.b.svc"]))).unwrap();
    assert!(
        pair["cert"]
            .as_str()
            .unwrap()
            .starts_with("-----BEGIN CERTIFICATE")
    );
    assert!(pair["key"].as_str().unwrap().contains("PRIVATE KEY"));
}

#[test]
fn names_are_resolved() {
    let found = run(&["resolve", "localhost"]);
    assert!(out(&found).contains("127.0.0.1"), "{}", out(&found));
}
