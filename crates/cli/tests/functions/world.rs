//! A real etcd and API server, and the command.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// Ends the process with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) struct World {
    folder: tempfile::TempDir,
    _processes: Vec<Running>,
}

fn programs() -> PathBuf {
    PathBuf::from(std::env::var("FARPLANE_TEST_BIN").expect("FARPLANE_TEST_BIN is not set"))
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn start(program: &str, folder: &Path, arguments: &[String]) -> Running {
    let log = std::fs::File::create(folder.join(format!("{program}.log"))).unwrap();
    let child = Command::new(programs().join(program))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Running(child)
}

impl World {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(path.join("sa.key"), key.serialize_pem()).unwrap();
        std::fs::write(path.join("sa.pub"), key.public_key_pem()).unwrap();
        std::fs::write(
            path.join("tokens.csv"),
            "admin,admin,1,\"system:masters\"\n",
        )
        .unwrap();
        let (store, peer, api) = (free_port(), free_port(), free_port());
        let etcd = [
            "--data-dir=data".to_owned(),
            format!("--listen-client-urls=http://127.0.0.1:{store}"),
            format!("--advertise-client-urls=http://127.0.0.1:{store}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
        ];
        let api_server = [
            format!("--etcd-servers=http://127.0.0.1:{store}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={api}"),
            "--cert-dir=certs".to_owned(),
            "--token-auth-file=tokens.csv".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--service-account-issuer=https://test".to_owned(),
            "--service-account-key-file=sa.pub".to_owned(),
            "--service-account-signing-key-file=sa.key".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ];
        let processes = vec![
            start("etcd", path, &etcd),
            start("kube-apiserver", path, &api_server),
        ];
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
             clusters: [{{name: a, cluster: {{server: \"https://127.0.0.1:{api}\", insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: a, user: {{token: admin}}}}]\n\
             contexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n"
        );
        std::fs::write(path.join("kubeconfig"), config).unwrap();
        let world = Self {
            folder,
            _processes: processes,
        };
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
        self.folder.path()
    }

    pub(crate) fn kubectl(&self, words: &[&str]) -> Output {
        Command::new(programs().join("kubectl"))
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
