//! What the program does that can be seen without a hub: help, wrong usage, exit codes,
//! and the reference page. `FARPLANE_BLESS=1` writes the expected texts anew.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Help of each command that people see, and the file that holds it.
const HELP: &[&str] = &[
    "",
    "up",
    "down",
    "status",
    "doctor",
    "version",
    "completion",
    "org",
    "org create",
    "org list",
    "org delete",
    "endpoint",
    "endpoint create",
    "endpoint list",
    "endpoint delete",
    "host",
    "host join-command",
    "host list",
    "host describe",
    "host remove",
    "lab",
    "lab add",
    "lab remove",
    "cluster",
    "cluster create",
    "cluster list",
    "cluster describe",
    "cluster delete",
    "cluster kubeconfig",
    "functions",
    "functions install",
    "functions uninstall",
    "functions status",
    "env",
    "env create",
    "env list",
    "env describe",
    "env delete",
    "fn",
    "fn create",
    "fn deploy",
    "fn update",
    "fn list",
    "fn describe",
    "fn test",
    "fn logs",
    "fn delete",
    "route",
    "route create",
    "route list",
    "route delete",
    "timer",
    "timer create",
    "timer list",
    "timer show",
    "timer delete",
    "spec",
    "spec init",
    "spec validate",
    "spec apply",
    "spec list",
    "spec destroy",
];

fn farplane(words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_farplane"))
        .args(words.split_whitespace())
        .env_remove("FARPLANE_KUBECONFIG")
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent")
        .env("COLUMNS", "100")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Compares with a file of the tree, or writes it.
fn expect(path: &Path, text: &str) {
    if std::env::var_os("FARPLANE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        expected == text,
        "{} has drifted; FARPLANE_BLESS=1 cargo test -p farplane-cli writes it anew. Now:\n{text}",
        path.display()
    );
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

#[test]
fn help_of_each_command() {
    for words in HELP {
        let output = farplane(&format!("{words} --help"));
        assert_eq!(output.status.code(), Some(0), "{words}");
        let name = match *words {
            "" => "farplane".to_owned(),
            words => words.replace(' ', "-"),
        };
        expect(&golden(&format!("help/{name}.txt")), &out(&output));
    }
}

#[test]
fn the_reference_page_is_what_the_commands_say() {
    let output = farplane("internal markdown-help");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
    expect(&page, &out(&output));
}

#[test]
fn wrong_usage_is_told_with_code_2_and_asks_no_hub() {
    let cases = [
        ("", "Usage"),
        ("cluster create Bad_Name --org demo", "a name has up to 50"),
        ("cluster create a", "--org"),
        (
            "cluster create a --org demo --control-plane-replicas 2",
            "1 or 3",
        ),
        (
            "cluster create a --org demo --hosts one --all-hosts",
            "cannot be used with",
        ),
        (
            "cluster create a --org demo --timeout 5",
            "is not a duration",
        ),
        (
            "host join-command --org demo --endpoint lab --ttl 2h",
            "an hour at most",
        ),
        ("org list -o toml", "possible values"),
        (
            "org list --hub a --hub-kubeconfig /b",
            "cannot be used with",
        ),
        ("up --name a --hub b", "two hubs"),
        ("fn create Bad --env python --code a", "a name has up to 63"),
        ("fn create a --env python", "--code"),
        ("fn list --cluster a", "--org"),
        (
            "fn list --cluster a --org b --kubeconfig c",
            "cannot be used with",
        ),
        (
            "fn create a --env python --code a --timeout 5",
            "is not a duration",
        ),
        (
            "fn create a --env e --code a --min-scale 2 --max-scale 1",
            "is more than",
        ),
        ("route create --function a", "--url"),
        ("route create --function a --url /..", "does not contain"),
        (
            "route create --function a --url /a --method BREW",
            "a method is one of",
        ),
        (
            "timer create --function a --cron @often",
            "is not a schedule",
        ),
        ("timer show --cron 99_*_*_*_*", "is not valid"),
        ("env create a --version 4", "4 is not in 1..=3"),
        ("down --hub-kubeconfig /b", "--name"),
        ("unheard-of", "unrecognized"),
    ];
    for (words, expected) in cases {
        let output = farplane(words);
        assert_eq!(output.status.code(), Some(2), "{words}: {}", err(&output));
        assert!(err(&output).contains(expected), "{words}: {}", err(&output));
        assert!(output.stdout.is_empty(), "{words}");
    }
}

#[test]
fn what_is_not_there_has_code_3() {
    for (words, expected) in [
        (
            "org list --hub surely-absent",
            "there is no hub named surely-absent",
        ),
        (
            "status --hub surely-absent",
            "there is no hub named surely-absent",
        ),
        (
            "down --hub surely-absent",
            "there is no hub named surely-absent",
        ),
        (
            "org list --hub-kubeconfig /nonexistent/config",
            "/nonexistent/config",
        ),
        (
            "fn list --kubeconfig /nonexistent/config",
            "there is no kubeconfig /nonexistent/config",
        ),
        ("fn list", "there is no cluster to work in"),
    ] {
        let output = farplane(words);
        assert_eq!(output.status.code(), Some(3), "{words}: {}", err(&output));
        assert!(err(&output).contains(expected), "{words}: {}", err(&output));
    }
}

/// A kubeconfig for an address at which nothing listens.
fn kubeconfig(folder: &Path, server: &str) -> PathBuf {
    let path = folder.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
         clusters: [{{name: a, cluster: {{server: \"{server}\"}}}}]\n\
         users: [{{name: a, user: {{token: a}}}}]\n\
         contexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_hub_that_does_not_answer_is_told_in_words() {
    let folder = tempfile::tempdir().unwrap();
    // Bound and closed again: nothing listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let path = kubeconfig(folder.path(), &format!("http://{address}"));
    let output = farplane(&format!("org list --hub-kubeconfig {}", path.display()));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("is it running? `farplane status` tells"),
        "{}",
        err(&output)
    );
}

#[test]
fn version_and_completion_go_to_stdout() {
    let version = farplane("version -o json");
    let value: serde_json::Value = serde_json::from_slice(&version.stdout).unwrap();
    assert_eq!(value["farplane"], env!("CARGO_PKG_VERSION"));
    for shell in ["bash", "zsh", "fish"] {
        let script = farplane(&format!("completion {shell}"));
        assert_eq!(script.status.code(), Some(0));
        assert!(out(&script).contains("join-command"), "{shell}");
        assert!(script.stderr.is_empty());
    }
}
