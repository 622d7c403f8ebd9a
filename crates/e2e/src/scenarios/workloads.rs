//! What a developer does with a cluster.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::scenarios::hub::condition;
use crate::world::{CLUSTER, ORG, World};

const MINUTE: Duration = Duration::from_secs(60);

/// Brings an image of the build to both hosts: there is no registry in a test.
pub fn bring_image(world: &World, name: &str) -> Result<String> {
    let (reference, file) = world.image(name)?;
    let archive = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    for host in ["one", "two"] {
        let line = "ctr=$(ls /var/lib/farplane/artifacts/*/ctr | head -n1); $ctr -a /run/farplane/containerd/containerd.sock -n k8s.io images import -";
        world.on_host(host, line, Some(&archive))?;
    }
    Ok(reference)
}

/// Four replicas, spread over both hosts.
pub fn deployment(world: &World) -> Result<()> {
    let image = bring_image(world, "test-server")?;
    world.apply(&format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 4
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {{matchLabels: {{app: web}}}}}}
      containers:
      - name: web
        image: {image}
        args: [serve, --port, "8080"]
        ports: [{{containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080}}]
"#
    ))?;
    world.eventually("deployment available", MINUTE * 2, || {
        condition(&world.get(&["deployment", "web"])?, "Available")
    })?;
    let pods = world.get(&["pods", "-l", "app=web"])?;
    let items = pods["items"].as_array().cloned().unwrap_or_default();
    let on = |host: &str| {
        items
            .iter()
            .filter(|pod| pod["spec"]["nodeName"] == host)
            .count()
    };
    ensure!(
        on("one") == 2 && on("two") == 2,
        "not spread: {} on one, {} on two",
        on("one"),
        on("two")
    );
    Ok(())
}

/// One Pod of `web` on a host.
pub fn pod_on(world: &World, host: &str) -> Result<String> {
    let pods = world.get(&[
        "pods",
        "-l",
        "app=web",
        "--field-selector",
        &format!("spec.nodeName={host},status.phase=Running"),
    ])?;
    let name = pods["items"][0]["metadata"]["name"]
        .as_str()
        .with_context(|| format!("no pod of web runs on {host}"))?;
    Ok(name.to_owned())
}

/// From a Pod on each host, the Service's name answers, from Pods of both hosts.
pub fn service_by_name(world: &World) -> Result<()> {
    for host in ["one", "two"] {
        let pod = pod_on(world, host)?;
        let mut seen = std::collections::BTreeSet::new();
        world.eventually("both hosts answer by the service's name", MINUTE, || {
            for _ in 0..8 {
                let name = world.kubectl(&[
                    "exec",
                    &pod,
                    "--",
                    "farplane-test-server",
                    "fetch",
                    "http://web.default.svc.cluster.local/hostname",
                ])?;
                seen.insert(name.trim().to_owned());
            }
            ensure!(
                seen.len() >= 3,
                "from {pod} on {host} only {seen:?} answered"
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// The three ways into a Pod, all through the tunnel.
pub fn logs_exec_port_forward(world: &World) -> Result<()> {
    for host in ["one", "two"] {
        let pod = pod_on(world, host)?;
        let said = world.kubectl(&[
            "exec",
            &pod,
            "--",
            "farplane-test-server",
            "fetch",
            "http://127.0.0.1:8080/hostname",
        ])?;
        ensure!(
            said.trim() == pod,
            "exec on {host} answered {said:?}, not {pod}"
        );
        let logs = world.kubectl(&["logs", &pod])?;
        ensure!(!logs.trim().is_empty(), "logs of {pod} are empty");
        port_forward(world, &pod)?;
    }
    Ok(())
}

fn port_forward(world: &World, pod: &str) -> Result<()> {
    let config = world.kubeconfig(ORG, CLUSTER)?;
    let log = world.file("port-forward.log");
    let out = std::fs::File::create(&log).context("create the log of port-forward")?;
    let mut child = Command::new(world.dist.join("bin/kubectl"))
        .arg("--kubeconfig")
        .arg(config)
        .args(["port-forward", &format!("pod/{pod}"), ":8080"])
        .stdout(Stdio::from(out))
        .stderr(Stdio::null())
        .spawn()
        .context("start kubectl port-forward")?;
    let answer = world.eventually("port-forward answers", MINUTE, || {
        let text = std::fs::read_to_string(&log)?;
        let port = text
            .split("127.0.0.1:")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .context("no port yet")?;
        http_get(&format!("127.0.0.1:{port}"), "/hostname")
    });
    let _ = child.kill();
    let _ = child.wait();
    let answer = answer?;
    ensure!(
        answer.trim().ends_with(pod),
        "port-forward to {pod} answered {answer:?}"
    );
    Ok(())
}

fn http_get(address: &str, path: &str) -> Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "answered {answer:?}");
    Ok(answer)
}

/// Certificate for a Service, made inside the cluster by the test server.
fn server_with_certificate(world: &World, name: &str, mode: &str) -> Result<String> {
    let (image, _) = world.image("test-server")?;
    let pod = pod_on(world, "one")?;
    let dns = format!("{name}.default.svc");
    let pair = world.kubectl(&[
        "exec",
        &pod,
        "--",
        "farplane-test-server",
        "self-signed",
        "--dns",
        &dns,
    ])?;
    let pair: serde_json::Value =
        serde_json::from_str(&pair).context("read the certificate the test server made")?;
    let text = |key: &str| pair[key].as_str().unwrap_or_default().to_owned();
    let (certificate, key) = (text("cert"), text("key"));
    let indent = |pem: &str| pem.trim().replace('\n', "\n    ");
    world.apply(&format!(
        r#"
apiVersion: v1
kind: Secret
metadata: {{name: {name}}}
stringData:
  tls.crt: |
    {certificate}
  tls.key: |
    {key}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: server
    image: {image}
    args: [{mode}, --port, "8443", --cert, /tls/tls.crt, --key, /tls/tls.key]
    volumeMounts: [{{name: tls, mountPath: /tls}}]
    readinessProbe: {{tcpSocket: {{port: 8443}}, periodSeconds: 1}}
  volumes: [{{name: tls, secret: {{secretName: {name}}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 443, targetPort: 8443}}]
"#,
        certificate = indent(&certificate),
        key = indent(&key),
    ))?;
    world.eventually(&format!("{name} ready"), MINUTE, || {
        condition(&world.get(&["pod", name])?, "Ready")
    })?;
    world.kubectl(&["get", "secret", name, "-o", r"jsonpath={.data.tls\.crt}"])
}

/// A validating webhook behind a Service of the cluster refuses and allows.
pub fn webhook(world: &World) -> Result<()> {
    let bundle = server_with_certificate(world, "judge", "webhook")?;
    world.apply(&format!(
        r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {{name: judge}}
webhooks:
- name: judge.test.farplane.io
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  clientConfig: {{caBundle: {bundle}, service: {{name: judge, namespace: default, path: /validate}}}}
  rules: [{{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}}]
  objectSelector: {{matchLabels: {{judged: "yes"}}}}
"#
    ))?;
    let map = |name: &str, deny: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{judged: \"yes\", deny: \"{deny}\"}}}}\n"
        )
    };
    world.eventually("the webhook allows", MINUTE, || {
        world.apply(&map("good", "false"))
    })?;
    let refused = world.apply_raw(&map("bad", "true"))?;
    ensure!(
        refused.code != Some(0) && refused.text().contains("denied"),
        "the webhook did not refuse: {}",
        refused.text()
    );
    world
        .kubectl(&["delete", "validatingwebhookconfiguration", "judge"])
        .map(drop)
}

/// An aggregated API behind a Service of the cluster answers through the main API.
pub fn aggregated_api(world: &World) -> Result<()> {
    let bundle = server_with_certificate(world, "pings", "apiservice")?;
    world.apply(&format!(
        r#"
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: v1.test.farplane.io}}
spec:
  group: test.farplane.io
  version: v1
  groupPriorityMinimum: 100
  versionPriority: 100
  caBundle: {bundle}
  service: {{name: pings, namespace: default, port: 443}}
"#
    ))?;
    world.eventually("the aggregated API answers", MINUTE, || {
        condition(
            &world.get(&["apiservice", "v1.test.farplane.io"])?,
            "Available",
        )?;
        world.kubectl(&["get", "--raw", "/apis/test.farplane.io/v1/pings"])
    })?;
    world
        .kubectl(&["delete", "apiservice", "v1.test.farplane.io"])
        .map(drop)
}
