//! The program itself: its commands, exit codes, signals and memory.

use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::support::{Hub, Machine, echo_server, own, until, until_or};

/// Private memory of an agent with its two sessions, from the product's promises.
const MAX_PRIVATE_KIB: u64 = 20 * 1024;

fn program(config: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farplane-agent"));
    command
        .arg("--config")
        .arg(config)
        .args(arguments)
        .env_remove("HTTPS_PROXY")
        .env_remove("https_proxy")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn run(config: &Path, arguments: &[&str]) -> Output {
    let running = program(config, arguments).output();
    let ended = tokio::time::timeout(Duration::from_secs(60), running).await;
    ended.expect("the command ends").unwrap()
}

fn start(config: &Path) -> Child {
    let mut command = program(config, &["run"]);
    command.stderr(Stdio::null()).spawn().unwrap()
}

async fn end(mut child: Child, signal: Signal) -> ExitStatus {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), child.wait()).await;
    ended.expect("it ends").unwrap()
}

fn private_kib(child: &Child) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", child.id().unwrap());
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("Private_"));
    let sizes = lines.map(|line| {
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    });
    sizes.sum()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_lives_dies_and_leaves() {
    let hub = Hub::new();
    let gateway = hub.gateway(None, "127.0.0.1:1").await;
    let machine = Machine::new(gateway.address, Some(&hub.token("t1", 10)));
    let file = machine.folder.path().join("file");
    let _server = echo_server(&own(75)).await;
    let agent = start(&machine.config);
    until("the host joins", || hub.host().is_some()).await;
    gateway.knows(&hub);
    let plan = json!({ "units": [{ "file": { "path": file, "content": "x", "mode": 0o600 } }] });
    gateway.plans(&hub, 1, &plan);
    until_or(|| hub.is_applied(1), || format!("{:?}", machine.status())).await;
    until("both tunnels are told", || {
        let status = machine.status();
        let connected = status.tunnels.values().filter(|it| it.state == "connected");
        connected.count() == 2 && status.plan.is_some_and(|plan| plan.applied)
    })
    .await;
    assert!(
        private_kib(&agent) <= MAX_PRIVATE_KIB,
        "{} KiB",
        private_kib(&agent)
    );

    let status = run(&machine.config, &["status", "-o", "json"]).await;
    assert!(status.status.success(), "{status:?}");
    let told: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(
        (&told["phase"], &told["running"]),
        (&json!("running"), &json!(true))
    );
    let people = run(&machine.config, &["status"]).await;
    assert!(text(&people.stdout).contains("farplane://host/demo/site/one/"));

    let second = run(&machine.config, &["run"]).await;
    assert_eq!(second.status.code(), Some(1));
    assert!(
        text(&second.stderr).contains("another agent uses"),
        "{second:?}"
    );

    // Nothing is lost by a kill: the next one goes on with the same identity.
    assert!(!end(agent, Signal::SIGKILL).await.success());
    let agent = start(&machine.config);
    until("it is back", || {
        let status = machine.status();
        status.pid == agent.id().unwrap() && status.phase == "running"
    })
    .await;
    assert_eq!(end(agent, Signal::SIGTERM).await.code(), Some(0));
    assert!(file.exists());
    let stopped = run(&machine.config, &["status"]).await;
    assert_eq!(stopped.status.code(), Some(1));

    let left = run(&machine.config, &["leave"]).await;
    assert!(left.status.success(), "{left:?}");
    assert!(text(&left.stdout).contains("farplane host remove"));
    assert!(!file.exists() && !machine.config.exists());
    assert!(!machine.agent_dir().join("identity.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_only_enrols_starts_nothing_and_says_why_it_was_refused() {
    let hub = Hub::new();
    let gateway = hub.gateway(None, "127.0.0.1:1").await;
    let token = hub.token("t1", 10).to_string();
    let address = gateway.address.to_string();
    let join = async |name: &str| {
        let folder = tempfile::tempdir().unwrap();
        let (config, state) = (
            folder.path().join("agent.yaml"),
            folder.path().join("state"),
        );
        let state = state.to_str().unwrap();
        let mut arguments = vec!["join", "--enrol-only", "--hub", &address, "--token", &token];
        arguments.extend(["--name", name, "--state-dir", state]);
        let output = run(&config, &arguments).await;
        (folder, output)
    };
    let (folder, first) = join("one").await;
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    assert!(text(&first.stdout).contains("joined as farplane://host/demo/site/one/"));
    assert!(!text(&first.stdout).contains("run --config"), "{first:?}");
    let agent_dir = folder.path().join("state/agent");
    assert!(agent_dir.join("identity.json").exists());
    assert!(gateway.gateway.sessions.all().is_empty());
    let (folder, second) = join("two").await;
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(text(&second.stderr).contains("used"), "{second:?}");
    let agent_dir = folder.path().join("state/agent");
    assert!(!agent_dir.join("identity.json").exists());
}

#[tokio::test]
async fn wrong_input_is_named_with_exit_code_2() {
    let machine = Machine::new("127.0.0.1:1".parse().unwrap(), None);
    std::fs::write(&machine.config, "hub: a:1\ntokn: x\n").unwrap();
    let hub = ["join", "--hub", "nowhere", "--token", "x"];
    for (arguments, words) in [
        (&["run"][..], "tokn"),
        (&["status"], "tokn"),
        (&hub, "host:port"),
        (&["join"], "--hub"),
        (&["dance"], "dance"),
    ] {
        let output = run(&machine.config, arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {output:?}");
        assert!(
            text(&output.stderr).contains(words),
            "{arguments:?} {output:?}"
        );
    }
    machine.configure("127.0.0.1:1".parse().unwrap(), None);
    let output = run(&machine.config, &["run"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("farplane host join-command"),
        "{output:?}"
    );
}

#[tokio::test]
async fn help_teaches_and_the_version_is_told() {
    let nowhere = Path::new("/nonexistent");
    let help = text(&run(nowhere, &["--help"]).await.stdout);
    for words in [
        "join",
        "run",
        "status",
        "leave",
        "doctor",
        "host join-command",
    ] {
        assert!(help.contains(words), "{words}\n{help}");
    }
    let version = text(&run(nowhere, &["version"]).await.stdout);
    assert_eq!(
        version.trim(),
        format!("farplane-agent {}", farplane_agent::VERSION)
    );
}
