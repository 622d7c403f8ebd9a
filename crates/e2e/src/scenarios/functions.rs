//! The function platform on a cluster that the hub hosts.

pub mod builds;
pub mod executors;
pub mod guide;
pub mod load;
pub mod lost;
pub mod triggers;
pub mod troubles;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::run::Output;
use crate::world::{CLUSTER, ORG, World};

const MINUTE: Duration = Duration::from_secs(60);
const PLATFORM: &str = "fission";

/// Runs `farplane` for the main cluster, which must succeed.
fn farplane(world: &World, arguments: &[&str]) -> Result<String> {
    farplane_raw(world, arguments)?.success(&format!("farplane {}", arguments.join(" ")))
}

fn farplane_raw(world: &World, arguments: &[&str]) -> Result<Output> {
    world.farplane_raw(&[arguments, &["--cluster", CLUSTER, "--org", ORG]].concat())
}

/// Writes code and gives its path.
fn code(world: &World, name: &str, text: &str) -> Result<String> {
    let path = world.file(name);
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path.display().to_string())
}

/// Calls a public route through the API server.
fn route(world: &World, path: &str) -> Result<Output> {
    let target = format!("/api/v1/namespaces/{PLATFORM}/services/router:80/proxy{path}");
    world.kubectl_raw(&["get", "--raw", &target])
}

/// Every Deployment is available, and doing it again changes nothing.
pub fn installed(world: &World) -> Result<()> {
    farplane(world, &["functions", "install"])?;
    let deployments = |world: &World| -> Result<Vec<(String, i64, i64)>> {
        let list = world.get(&["deployments", "-n", PLATFORM])?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let number = |value: &serde_json::Value| value.as_i64().unwrap_or(0);
        Ok(items
            .iter()
            .map(|item| {
                let name = item["metadata"]["name"].as_str().unwrap_or_default();
                let generation = number(&item["metadata"]["generation"]);
                (
                    name.to_owned(),
                    generation,
                    number(&item["status"]["availableReplicas"]),
                )
            })
            .collect())
    };
    let before = deployments(world)?;
    let names: Vec<&str> = before.iter().map(|(name, ..)| name.as_str()).collect();
    ensure!(
        names == ["controllers", "executor", "router", "storagesvc"],
        "the platform is {names:?}"
    );
    ensure!(
        before.iter().all(|(.., available)| *available > 0),
        "not all are available: {before:?}"
    );
    farplane(world, &["functions", "install"])?;
    ensure!(
        deployments(world)? == before,
        "installing again changed something"
    );
    Ok(())
}

/// A function made by one command is called at once, by name and by its path.
pub fn python(world: &World) -> Result<()> {
    let hello = code(
        world,
        "hello.py",
        "def main():\n    return 'Hello from Python'\n",
    )?;
    farplane(
        world,
        &[
            "fn", "create", "hello", "--env", "python", "--code", &hello, "--url", "/hello",
        ],
    )?;
    let answer = farplane(world, &["fn", "test", "hello"])?;
    ensure!(answer.contains("Hello from Python"), "it said {answer:?}");
    world.eventually("the route answers", MINUTE, || {
        let answer = route(world, "/hello")?.text();
        ensure!(answer.contains("Hello from Python"), "it said {answer:?}");
        Ok(())
    })?;
    ensure!(
        route(world, "/nowhere")?.code != Some(0),
        "a path that no route has answers"
    );
    let internal = route(world, "/fission-function/hello")?;
    ensure!(
        internal.code != Some(0),
        "any function can be called at the public listener"
    );
    Ok(())
}

/// The same in another language.
pub fn nodejs(world: &World) -> Result<()> {
    let text = "module.exports = async ({ request }) => ({ status: 200, body: `Hello ${request.query.who}` });\n";
    let hello = code(world, "hello.js", text)?;
    farplane(
        world,
        &[
            "fn",
            "create",
            "hello-node",
            "--env",
            "nodejs",
            "--code",
            &hello,
        ],
    )?;
    let answer = farplane(
        world,
        &["fn", "test", "hello-node", "--subpath", "/?who=Node"],
    )?;
    ensure!(answer.contains("Hello Node"), "it said {answer:?}");
    farplane(world, &["fn", "delete", "hello-node", "--yes"])?;
    Ok(())
}

/// Code that does not load says so in its own words, to the caller and in `describe`.
pub fn broken(world: &World) -> Result<()> {
    let text = "import nothing_of_that_name\n\ndef main():\n    return ''\n";
    let broken = code(world, "broken.py", text)?;
    farplane_raw(
        world,
        &[
            "fn",
            "create",
            "broken",
            "--env",
            "python",
            "--code",
            &broken,
            "--no-wait",
        ],
    )?;
    let answer = farplane_raw(world, &["fn", "test", "broken"])?;
    ensure!(
        answer.code != Some(0),
        "code that does not load is a success"
    );
    let said = answer.text();
    ensure!(
        said.contains("nothing_of_that_name"),
        "its own words are missing: {said}"
    );
    world.eventually("describe tells the cause", MINUTE, || {
        let told = farplane(world, &["fn", "describe", "broken"])?;
        ensure!(told.contains("nothing_of_that_name"), "it tells: {told}");
        Ok(())
    })?;
    farplane(world, &["fn", "delete", "broken", "--yes"])?;
    Ok(())
}

/// Warm calls need nobody but router and instance; cold ones work again once the executor is back.
pub fn executor_away(world: &World) -> Result<()> {
    farplane(world, &["fn", "test", "hello"])?;
    world.kubectl(&[
        "scale",
        "deployment/executor",
        "-n",
        PLATFORM,
        "--replicas=0",
    ])?;
    world.eventually("the executor is gone", MINUTE, || {
        let pods = world.get(&["pods", "-n", PLATFORM, "-l", "svc=executor"])?;
        let gone = pods["items"].as_array().is_some_and(Vec::is_empty);
        ensure!(gone, "its Pod is there");
        Ok(())
    })?;
    for _ in 0..20 {
        let answer = route(world, "/hello")?;
        ensure!(
            answer.text().contains("Hello from Python"),
            "a warm call failed: {}",
            answer.text()
        );
    }
    world.kubectl(&[
        "scale",
        "deployment/executor",
        "-n",
        PLATFORM,
        "--replicas=1",
    ])?;
    let again = code(
        world,
        "again.py",
        "def main():\n    return 'Cold and well'\n",
    )?;
    farplane(
        world,
        &["fn", "create", "again", "--env", "python", "--code", &again],
    )?;
    let answer = farplane(world, &["fn", "test", "again"])?;
    ensure!(answer.contains("Cold and well"), "it said {answer:?}");
    let pods = world.get(&["pods", "-l", "functionName=hello"])?;
    let count = pods["items"].as_array().map_or(0, Vec::len);
    ensure!(
        count == 1,
        "the executor that came back has {count} instances of hello"
    );
    farplane(world, &["fn", "delete", "again", "--yes"])?;
    Ok(())
}

/// The Pod of an instance is deleted: the next call has another one.
pub fn instance_killed(world: &World) -> Result<()> {
    farplane(world, &["fn", "test", "hello"])?;
    world.kubectl(&["delete", "pod", "-l", "functionName=hello", "--wait=false"])?;
    for _ in 0..5 {
        let answer = farplane(world, &["fn", "test", "hello"])?;
        ensure!(answer.contains("Hello from Python"), "it said {answer:?}");
    }
    Ok(())
}

/// What an attack is refused with, and its kind and spec.
const ATTACKS: &[(&str, &str, &str)] = &[
    (
        "environment of another namespace",
        "Function",
        "{environment: {name: python, namespace: kube-system}}",
    ),
    (
        "package of another namespace",
        "Function",
        "{package: {packageref: {name: p, namespace: kube-system}}}",
    ),
    (
        "spec.secrets must be of namespace",
        "Function",
        "{secrets: [{name: s, namespace: kube-system}]}",
    ),
    (
        "the platform's own",
        "Function",
        "{secrets: [{name: fission-internal-auth-keys}]}",
    ),
    (
        "environment of another namespace",
        "Package",
        "{environment: {name: python, namespace: kube-system}}",
    ),
    (
        "another namespace cannot be watched",
        "KubernetesWatchTrigger",
        "{namespace: kube-system, type: POD, functionref: {type: name, name: hello}}",
    ),
    (
        "privileged",
        "Environment",
        "{runtime: {image: a, container: {securityContext: {privileged: true}}}}",
    ),
    (
        "no capability",
        "Environment",
        "{runtime: {image: a, container: {securityContext: {capabilities: {add: [SYS_ADMIN]}}}}}",
    ),
    (
        "hostNetwork",
        "Environment",
        "{runtime: {image: a, podspec: {hostNetwork: true}}}",
    ),
    (
        "hostPath",
        "Environment",
        "{runtime: {image: a, podspec: {volumes: [{name: v, hostPath: {path: /}}]}}}",
    ),
    (
        "tokens of service accounts",
        "Environment",
        "{runtime: {image: a, podspec: {volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]}}}",
    ),
    (
        "serviceAccountName",
        "Environment",
        "{runtime: {image: a}, builder: {image: b, podspec: {serviceAccountName: fission-executor}}}",
    ),
    (
        "hostPath",
        "Function",
        "{InvokeStrategy: {ExecutionStrategy: {ExecutorType: container}}, podspec: {containers: [], volumes: [{name: v, hostPath: {path: /}}]}}",
    ),
    (
        "only nodeselector",
        "MessageQueueTrigger",
        "{functionref: {type: name, name: hello}, podspec: {hostNetwork: false, serviceAccountName: ''}}",
    ),
    (
        "the router's own",
        "HTTPTrigger",
        "{relativeurl: /fission-function/hello, functionref: {type: name, name: hello}}",
    ),
    (
        "at most one of literal, url, or oci",
        "Package",
        "{deployment: {literal: YQ==, url: 'http://a'}}",
    ),
];

/// Objects by which a tenant would leave their namespace or their Pod.
pub fn attacks(world: &World) -> Result<()> {
    for (expected, kind, spec) in ATTACKS {
        let text = format!(
            "apiVersion: fission.io/v1\nkind: {kind}\nmetadata: {{name: attack}}\nspec: {spec}\n"
        );
        let answer = world.apply_raw(&text)?;
        ensure!(answer.code != Some(0), "{kind} {spec} is accepted");
        let said = answer.text().to_lowercase();
        ensure!(
            said.contains(&expected.to_lowercase()),
            "{kind} {spec} is refused with other words: {said}"
        );
    }
    Ok(())
}

/// A tenant's code has no token of the API server, and no key of the platform.
pub fn no_token(world: &World) -> Result<()> {
    let text = "import os\n\ndef main():\n    token = os.path.exists('/var/run/secrets/kubernetes.io/serviceaccount/token')\n    keys = [name for name in os.environ if name.endswith('_KEY')]\n    return f'token {token} keys {keys}'\n";
    let look = code(world, "look.py", text)?;
    farplane(
        world,
        &["fn", "create", "look", "--env", "python", "--code", &look],
    )?;
    let answer = farplane(world, &["fn", "test", "look"])?;
    ensure!(
        answer.contains("token False keys []"),
        "a function sees: {answer}"
    );
    farplane(world, &["fn", "delete", "look", "--yes"])?;
    Ok(())
}

/// Nothing of the platform is left.
pub fn uninstalled(world: &World) -> Result<()> {
    farplane(world, &["functions", "uninstall", "--purge", "--yes"])?;
    world.eventually("the namespace is gone", MINUTE * 2, || {
        let found = world.kubectl_raw(&["get", "namespace", PLATFORM])?;
        ensure!(found.code != Some(0), "it is there");
        Ok(())
    })?;
    let roles = world.kubectl(&[
        "get",
        "clusterroles,clusterrolebindings,validatingadmissionpolicies",
        "-o",
        "name",
    ])?;
    let left: Vec<&str> = roles
        .lines()
        .filter(|line| line.contains("fission"))
        .collect();
    ensure!(left.is_empty(), "still there: {left:?}");
    Ok(())
}
