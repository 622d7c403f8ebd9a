//! Images that nodes pull from the hub.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::world::World;

const MINUTE: Duration = Duration::from_secs(60);

/// Asks the address of the hub's images as any program of the host can; prints the first line
/// of the answer.
const ASK: &str = r#"
ask() {
    exec 3<>/dev/tcp/127.0.0.1/10270
    printf '%s %s HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n' "$1" "$2" >&3
    read -r line <&3
    exec 3<&-
    printf '%s %s %s\n' "$1" "$2" "$line"
}
"#;

/// An image that no node was given runs on both hosts; one that the hub lacks is named; and
/// what leads to the images leads to nothing else.
pub fn pulls(world: &World) -> Result<()> {
    let (name, reference) = an_environment(world)?;
    for host in ["one", "two"] {
        runs(world, host, &reference)?;
    }
    missing(world, "no-such-tag", &format!("farplane.io/{name}:v0"))?;
    missing(world, "no-such-image", "farplane.io/no-such-image:v0")?;
    only_images(world, &name)
}

/// Name and reference of a language's image, as the build lists them.
fn an_environment(world: &World) -> Result<(String, String)> {
    let path = world.dist.join("registry/images.json");
    let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let images: Value = serde_json::from_slice(&text).context("read the list of images")?;
    let mut named = images.as_object().into_iter().flatten();
    let (name, image) = named
        .find(|(name, _)| name.ends_with("-env"))
        .context("the build has no image of a language")?;
    let reference = image["ref"].as_str().context("an image has a reference")?;
    Ok((name.clone(), reference.to_owned()))
}

fn apply(world: &World, name: &str, host: &str, reference: &str) -> Result<()> {
    world.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeName: {host}
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: it
    image: {reference}
    command: [/bin/sh, -c, "id -u; test -d /opt/environment && echo there"]
"#
    ))
}

fn runs(world: &World, host: &str, reference: &str) -> Result<()> {
    let pod = format!("pulled-{host}");
    apply(world, &pod, host, reference)?;
    world.eventually("the Pod of a pulled image ends well", MINUTE * 2, || {
        let pod = world.get(&["pod", &pod])?;
        let phase = &pod["status"]["phase"];
        ensure!(phase == "Succeeded", "it is {phase}: {}", pod["status"]);
        Ok(())
    })?;
    let said = world.kubectl(&["logs", &pod])?;
    ensure!(said == "65532\nthere\n", "the image is another: {said}");
    world.eventually("the kubelet says that it pulled", MINUTE, || {
        let about = format!("involvedObject.name={pod},reason=Pulled");
        let events = world.kubectl(&["get", "events", "--field-selector", &about])?;
        ensure!(events.contains("Successfully pulled"), "{events}");
        Ok(())
    })?;
    forget(world, &pod)
}

fn missing(world: &World, pod: &str, reference: &str) -> Result<()> {
    apply(world, pod, "one", reference)?;
    world.eventually("the Pod says what is missing", MINUTE, || {
        let pod = world.get(&["pod", pod])?;
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let message = waiting["message"].as_str().unwrap_or_default();
        ensure!(
            message.contains(reference) && message.contains("not found"),
            "it says {waiting}"
        );
        Ok(())
    })?;
    forget(world, pod)
}

fn forget(world: &World, pod: &str) -> Result<()> {
    let arguments = ["delete", "pod", pod, "--now", "--wait=false"];
    world.kubectl(&arguments).map(drop)
}

fn only_images(world: &World, name: &str) -> Result<()> {
    let asked = [
        ("GET", "/v2/".to_owned(), "200"),
        ("GET", "/index.json".to_owned(), "404"),
        ("GET", "/artifacts/".to_owned() + &artifact(world)?, "404"),
        ("GET", "/v2/../index.json".to_owned(), "404"),
        ("POST", format!("/v2/{name}/blobs/uploads/"), "405"),
        ("PUT", format!("/v2/{name}/manifests/v0"), "405"),
        ("DELETE", format!("/v2/{name}/manifests/v0"), "405"),
        ("CONNECT", "127.0.0.1:8080".to_owned(), "405"),
    ];
    let mut script = ASK.to_owned();
    for (method, path, _) in &asked {
        script += &format!("ask {method} {path}\n");
    }
    let said = world.on_host("one", "bash -s", Some(script.as_bytes()))?;
    for (method, path, status) in asked {
        let expected = format!("{method} {path} HTTP/1.1 {status} ");
        ensure!(said.contains(&expected), "not {expected:?} but: {said}");
    }
    Ok(())
}

/// Digest of an artifact that the hub has.
fn artifact(world: &World) -> Result<String> {
    let path = world.dist.join("artifacts/index.json");
    let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let index: Value = serde_json::from_slice(&text).context("read the list of artifacts")?;
    let digest = index[0]["sha256"].as_str();
    Ok(digest.context("an artifact has a digest")?.to_owned())
}
