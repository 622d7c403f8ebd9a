//! Attacks by a tenant who is admin of their own cluster.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use crate::world::{CLUSTER, ORG, World};

/// Without credentials only health answers.
pub fn anonymous(world: &World) -> Result<()> {
    let config = std::fs::read_to_string(world.kubeconfig(ORG, CLUSTER)?)?;
    let stripped: Vec<&str> = config
        .lines()
        .filter(|line| {
            !line.contains("client-certificate-data") && !line.contains("client-key-data")
        })
        .collect();
    let path = world.file("anonymous.kubeconfig");
    std::fs::write(&path, stripped.join("\n"))?;
    let answer = world.kubectl_with(&path, &["get", "--raw", "/api/v1/namespaces"], None)?;
    ensure!(
        answer.code != Some(0),
        "an anonymous request was answered: {}",
        answer.text()
    );
    Ok(())
}

/// A Secret's value cannot be found in the store's files.
pub fn secrets_at_rest(world: &World) -> Result<()> {
    let needle = "needle-that-must-not-be-in-the-store";
    let plain = "needle-that-may-be-in-the-store";
    world.apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: needle}}\nstringData: {{value: {needle}}}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: needle}}\ndata: {{value: {plain}}}\n"
    ))?;
    let uid = cluster_uid(world, CLUSTER)?;
    let folder = format!("/var/lib/farplane-hub/{}/stores/{uid}", world.hub);
    let found = |text: &str| -> Result<bool> {
        let output = crate::run::run(
            std::path::Path::new("/bin/grep"),
            &["-r", "-q", "-a", text, &folder],
            None,
            Duration::from_secs(30),
        )?;
        Ok(output.code == Some(0))
    };
    ensure!(
        found(plain)?,
        "the ConfigMap is not in {folder}: the test looks in the wrong place"
    );
    ensure!(
        !found(needle)?,
        "the Secret's value is readable in {folder}"
    );
    Ok(())
}

/// UID of a cluster of the main organization.
pub fn cluster_uid(world: &World, cluster: &str) -> Result<String> {
    uid_of(world, ORG, cluster)
}

/// UID of a cluster.
pub fn uid_of(world: &World, org: &str, cluster: &str) -> Result<String> {
    let object = world.hub_get(&["kubernetescluster", cluster, "-n", &format!("org-{org}")])?;
    Ok(object["metadata"]["uid"]
        .as_str()
        .context("the cluster has no uid")?
        .to_owned())
}

/// Addresses inside the hub that a tenant would like to reach.
fn hub_targets(world: &World) -> Result<Vec<String>> {
    let service = world.hub_get(&["service", "kubernetes"])?;
    let gateway = world.hub_get(&["service", "farplane-gateway", "-n", "farplane-system"])?;
    let text = |value: &serde_json::Value| {
        value["spec"]["clusterIP"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    Ok(vec![text(&service), text(&gateway), "127.0.0.1".to_owned()])
}

/// A Node whose address is the hub's own: the proxy of it reaches nothing. A true node is
/// turned, since the hub removes nodes that are no hosts within a moment.
pub fn node_address(world: &World) -> Result<()> {
    let status = world.get(&["node", "one"])?["status"].clone();
    let mut outcome = Ok(());
    for target in hub_targets(world)? {
        outcome = outcome.and_then(|()| through_node(world, &target));
    }
    let (addresses, endpoints) = (&status["addresses"], &status["daemonEndpoints"]);
    let before = json!({ "addresses": addresses, "daemonEndpoints": endpoints });
    patch_node(world, &before)?;
    outcome
}

fn patch_node(world: &World, status: &serde_json::Value) -> Result<()> {
    let patch = json!({ "status": status }).to_string();
    let how = ["--subresource=status", "--type=merge", "-p", &patch];
    world
        .kubectl(&[&["patch", "node", "one"][..], &how].concat())
        .map(drop)
}

fn through_node(world: &World, target: &str) -> Result<()> {
    for port in [443, 6443, 8443] {
        patch_node(
            world,
            &json!({
                "addresses": [{ "type": "InternalIP", "address": target }],
                "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
            }),
        )?;
        let path = format!("/api/v1/nodes/https:one:{port}/proxy/version");
        let answer = world.kubectl_raw(&["get", "--raw", &path])?;
        refused(&answer.text(), answer.code, target)?;
    }
    Ok(())
}

/// A webhook by URL at the hub's own addresses reaches nothing.
pub fn webhook_url(world: &World) -> Result<()> {
    for target in hub_targets(world)? {
        world.apply(&format!(
            r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {{name: evil}}
webhooks:
- name: evil.test.farplane.io
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  timeoutSeconds: 5
  clientConfig: {{url: "https://{target}:443/validate"}}
  rules: [{{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}}]
  objectSelector: {{matchLabels: {{evil: "yes"}}}}
"#
        ))?;
        let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: evil-, labels: {evil: \"yes\"}}\n";
        let answer = world.eventually("the webhook is called", Duration::from_secs(20), || {
            let config = world.kubeconfig(ORG, CLUSTER)?;
            let answer =
                world.kubectl_with(&config, &["create", "-f", "-"], Some(map.as_bytes()))?;
            ensure!(answer.code != Some(0), "the webhook was not called yet");
            Ok(answer)
        });
        world.kubectl(&["delete", "validatingwebhookconfiguration", "evil"])?;
        let answer = answer?;
        refused(&answer.text(), answer.code, &target)?;
    }
    Ok(())
}

/// An aggregated API whose Service's endpoints are the hub's addresses reaches nothing.
pub fn api_service(world: &World) -> Result<()> {
    for target in hub_targets(world)?
        .iter()
        .filter(|target| !target.starts_with("127."))
    {
        world.apply(&format!(
            r#"
apiVersion: v1
kind: Service
metadata: {{name: evil}}
spec: {{ports: [{{port: 443, targetPort: 443}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: evil, labels: {{kubernetes.io/service-name: evil}}}}
addressType: IPv4
endpoints: [{{addresses: ["{target}"]}}]
ports: [{{port: 443, protocol: TCP}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: v1.evil.farplane.io}}
spec: {{group: evil.farplane.io, version: v1, groupPriorityMinimum: 10, versionPriority: 10, insecureSkipTLSVerify: true, service: {{name: evil, namespace: default}}}}
"#
        ))?;
        let answer = world.kubectl_raw(&["get", "--raw", "/apis/evil.farplane.io/v1/x"])?;
        let proxy = world.kubectl_raw(&[
            "get",
            "--raw",
            "/api/v1/namespaces/default/services/https:evil:443/proxy/version",
        ])?;
        world.kubectl(&[
            "delete",
            "apiservice/v1.evil.farplane.io",
            "service/evil",
            "endpointslice/evil",
        ])?;
        refused(&answer.text(), answer.code, target)?;
        refused(&proxy.text(), proxy.code, target)?;
    }
    Ok(())
}

fn refused(text: &str, code: Option<i32>, target: &str) -> Result<()> {
    ensure!(code != Some(0), "{target} answered: {text}");
    for sign in [
        "gitVersion",
        "certificate signed by unknown",
        "failed to verify certificate",
        "Unauthorized",
    ] {
        ensure!(
            !text.contains(sign),
            "something at {target} was reached ({sign}): {text}"
        );
    }
    Ok(())
}

/// Organizations `a-b` and `a` with names that would meet if they were joined.
pub fn colliding_names(world: &World) -> Result<()> {
    for (org, cluster) in [("a-b", "c"), ("a", "b-c")] {
        world.farplane(&["org", "create", org])?;
        world.farplane(&["cluster", "create", cluster, "--org", org, "--wait"])?;
    }
    let own = world.kubectl_with(
        &world.kubeconfig("a-b", "c")?,
        &["create", "configmap", "mine"],
        None,
    )?;
    own.success("make an object in the cluster of a-b")?;
    let other = world.kubectl_with(
        &world.kubeconfig("a", "b-c")?,
        &["get", "configmap", "mine"],
        None,
    )?;
    ensure!(
        other.code != Some(0) && other.text().contains("NotFound"),
        "the clusters share a store: {}",
        other.text()
    );
    let mixed =
        std::fs::read_to_string(world.kubeconfig("a", "b-c")?)?.replace("b-c.a.k8s", "c.a-b.k8s");
    let path = world.file("mixed.kubeconfig");
    std::fs::write(&path, mixed)?;
    let crossed = world.kubectl_with(&path, &["get", "namespaces"], None)?;
    ensure!(
        crossed.code != Some(0),
        "credentials of one cluster work at the other"
    );
    for (org, cluster) in [("a-b", "c"), ("a", "b-c")] {
        world.farplane(&[
            "cluster", "delete", cluster, "--org", org, "--yes", "--wait",
        ])?;
        world.farplane(&["org", "delete", org, "--yes", "--wait"])?;
    }
    Ok(())
}

/// Address of the gateway for lab hosts, and a fresh token.
pub fn join_arguments(world: &World) -> Result<(String, String)> {
    let line = world.farplane(&["host", "join-command", "--org", ORG, "--endpoint", "lab"])?;
    let token = line
        .split_whitespace()
        .find(|word| word.starts_with("fpj1."))
        .context("no token in the join command")?;
    let gateway = world.hub_get(&["service", "farplane-gateway", "-n", "farplane-system"])?;
    let address = gateway["spec"]["clusterIP"].as_str();
    let hub = format!("{}:8443", address.unwrap_or_default());
    Ok((hub, token.to_owned()))
}

/// A token enrols once; a forged one, and one sent for another organization, never.
pub fn tokens(world: &World) -> Result<()> {
    let (hub, token) = join_arguments(world)?;
    let join = |token: &str, name: &str| {
        let folder = format!("/tmp/join-{name}");
        let command = format!(
            "rm -rf {folder}; mkdir -p {folder}; farplane-agent join --enrol-only --hub {hub} --token {token} --name {name} --state-dir {folder} --config {folder}/agent.yaml 2>&1 || echo REFUSED"
        );
        world.on_host("one", &command, None)
    };
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts[4] = "00".repeat(32);
    let forged = join(&parts.join("."), "forged")?;
    ensure!(
        forged.contains("REFUSED"),
        "a forged token was accepted: {forged}"
    );
    let other = token.replace(&format!(".{ORG}."), ".other.");
    let foreign = join(&other, "foreign")?;
    ensure!(
        foreign.contains("REFUSED"),
        "a token works for another organization: {foreign}"
    );
    let first = join(&token, "third")?;
    ensure!(
        !first.contains("REFUSED"),
        "a good token was refused: {first}"
    );
    let second = join(&token, "fourth")?;
    ensure!(
        second.contains("REFUSED") && second.contains("used"),
        "a token works twice: {second}"
    );
    let Ok(()) = world
        .farplane(&["host", "remove", "third", "--org", ORG, "--yes"])
        .map(drop)
    else {
        bail!("the host that joined cannot be removed");
    };
    Ok(())
}
