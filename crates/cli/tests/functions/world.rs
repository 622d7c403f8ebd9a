//! A real etcd and API server, and the command.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use farplane_test_api::{ApiServer, program, programs};
use serde_json::Value;

pub(crate) struct World {
    server: ApiServer,
}

impl World {
    pub(crate) fn start() -> Self {
        let server = ApiServer::start();
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
             clusters: [{{name: a, cluster: {{server: \"{}\", insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: a, user: {{token: admin}}}}]\n\
             contexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n",
            server.url()
        );
        std::fs::write(server.folder().join("kubeconfig"), config).unwrap();
        let world = Self { server };
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !world
            .kubectl(&["get", "namespace", "default"])
            .status
            .success()
        {
            assert!(
                std::time::Instant::now() < end,
                "the API server is not ready"
            );
        }
        world
    }

    pub(crate) fn path(&self) -> &Path {
        self.server.folder()
    }

    pub(crate) fn kubectl(&self, words: &[&str]) -> Output {
        Command::new(program("kubectl"))
            .args(["--kubeconfig", "kubeconfig"])
            .args(words)
            .current_dir(self.path())
            .output()
            .unwrap()
    }

    /// An object as the cluster has it.
    pub(crate) fn object(&self, words: &str) -> Value {
        let words: Vec<&str> = words.split_whitespace().collect();
        let output = self.kubectl(&[&["get", "-o", "json"], &words[..]].concat());
        assert!(output.status.success(), "{words:?}: {}", err(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn run(&self, words: &[&str], more: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_farplane"))
            .args(words)
            .env("KUBECONFIG", self.path().join("kubeconfig"))
            .env("HOME", "/nonexistent")
            .envs(more.iter().copied())
            .current_dir(self.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a command that must end with this code; gives what it wrote to both streams.
    pub(crate) fn expect(&self, code: i32, words: &str) -> String {
        let list: Vec<&str> = words.split_whitespace().collect();
        let output = self.run(&list, &[]);
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            err(&output)
        );
        assert_eq!(output.status.code(), Some(code), "{words}: {text}");
        text
    }

    pub(crate) fn json(&self, words: &str) -> Value {
        let list: Vec<&str> = words.split_whitespace().chain(["-o", "json"]).collect();
        let output = self.run(&list, &[]);
        assert!(output.status.success(), "{words}: {}", err(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A distribution with a chart and a list of images.
    pub(crate) fn install(&self) -> String {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts");
        for (target, link) in [(programs(), "dist/bin"), (chart, "dist/charts")] {
            let link = self.path().join(link);
            std::fs::create_dir_all(link.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target.canonicalize().unwrap(), link).unwrap();
        }
        self.write(
            "dist/registry/images.json",
            r#"{"functions":{"ref":"farplane.io/functions:1"},"python-env":{"ref":"farplane.io/python-env:v3-1"},
                "python-builder":{"ref":"farplane.io/python-builder:v3-1"}}"#,
        );
        self.write("node.yaml", NODE);
        let made = self.kubectl(&["create", "-f", "node.yaml"]);
        assert!(made.status.success(), "{}", err(&made));
        let ready = r#"{"status":{"conditions":[{"type":"Ready","status":"True","reason":"x","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#;
        let patched = self.kubectl(&[
            "patch",
            "node",
            "one",
            "--subresource=status",
            "--type=merge",
            "-p",
            ready,
        ]);
        assert!(patched.status.success(), "{}", err(&patched));
        let untaint = ["taint", "node", "one", "node.kubernetes.io/not-ready-"];
        // Absent where the admission plugin is off.
        let _ = self.kubectl(&untaint);
        // No kubelet starts the Pods, so it waits in vain; everything is applied by then.
        self.expect(4, "functions install --dist dist --timeout 1s")
    }
}

/// Its kubelet is one of ours, where there is one.
const NODE: &str =
    "apiVersion: v1\nkind: Node\nmetadata: {name: one, labels: {kubernetes.io/hostname: one}}\n";

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
