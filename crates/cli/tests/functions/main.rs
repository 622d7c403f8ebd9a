//! Functions by the command, against a real etcd and API server. There are no nodes: what a
//! router answers is answered here, with the signature checked.
//!
//! Ignored unless asked for, as it needs `etcd`, `kube-apiserver` and `helm` in the directory
//! that `FARPLANE_TEST_BIN` names.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panic"
)]

mod node;
mod world;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

use farplane_functions_types::auth::{Key, Service, now};
use serde_json::Value;

use world::{World, err};

#[test]
#[ignore = "needs etcd, kube-apiserver, kubectl and helm in FARPLANE_TEST_BIN"]
fn functions_from_installation_to_removal() {
    let world = World::start();
    let absent = world.expect(3, "fn list");
    assert!(absent.contains("farplane functions install"), "{absent}");
    let waited = world.install();
    assert!(waited.contains("router: waits: has no Pod yet"), "{waited}");
    installed(&world);
    made(&world);
    called(&world);
    deleted(&world);
    removed(&world);
}

/// Archives are on the only node, and stay there when it is installed again.
fn installed(world: &World) {
    let storage = "deployment storagesvc -n fission";
    let before = world.object(storage);
    let pod = &before["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"]["kubernetes.io/hostname"], "one");
    world.expect(4, "functions install --dist dist --timeout 1s --replicas 2");
    assert_eq!(&world.object(storage)["spec"]["template"]["spec"], pod);
    assert_eq!(
        world.object("deployment router -n fission")["spec"]["replicas"],
        2
    );
    let status = world.expect(4, "functions status");
    assert!(status.contains("Languages:      python"), "{status}");
    let languages = world.json("env list --languages");
    assert_eq!(languages["python"]["image"], "farplane.io/python-env:v3-1");
}

fn made(world: &World) {
    world.write("hello.py", "def main():\n    return 'hi'\n");
    let text = world.expect(
        0,
        "fn create hello --env python --code hello.py --no-wait --url /hello --timeout 10s",
    );
    assert!(
        text.contains("there was no environment python: it is made"),
        "{text}"
    );
    let function = world.object("function hello");
    let spec = &function["spec"];
    assert_eq!(spec["functionTimeout"], 10);
    let package = spec["package"]["packageref"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let code = &world.object(&format!("package {package}"))["spec"]["deployment"];
    assert_eq!(code["literal"], "ZGVmIG1haW4oKToKICAgIHJldHVybiAnaGknCg==");
    assert_eq!(
        world.object("environment python")["spec"]["builder"]["image"],
        "farplane.io/python-builder:v3-1"
    );
    world.expect(1, "fn create hello --env python --code hello.py");
    let taken = world.expect(1, "route create --function hello --url /hello");
    assert!(taken.contains("GET /hello is taken by route"), "{taken}");
    world.expect(3, "fn create other --env cobol --code hello.py");
    // The same again is no change; other code is another package, and the old one goes.
    world.expect(0, "fn update hello --code hello.py --no-wait");
    assert_eq!(world.object("function hello")["metadata"]["generation"], 1);
    world.write("hello.py", "def main():\n    return 'ho'\n");
    world.expect(0, "fn update hello --code hello.py --no-wait");
    assert_ne!(
        world.object("function hello")["spec"]["package"]["packageref"]["name"],
        package
    );
    assert_eq!(
        world.object("package")["items"].as_array().unwrap().len(),
        1
    );
    let timer = world.expect(0, "timer create --function hello --cron @hourly");
    assert!(timer.contains(":00:00Z"), "{timer}");
    let described = world.expect(0, "fn describe hello");
    assert!(
        described.contains("the executor has not made the pool yet"),
        "{described}"
    );
    assert!(described.contains("GET /hello"), "{described}");
    let late = world.expect(4, "fn update hello --timeout 20s --wait-timeout 1s");
    assert!(
        late.contains("pool: waits: the executor has not made the pool yet"),
        "{late}"
    );
}

/// First line, headers and body of a request.
type Asked = (String, BTreeMap<String, String>, Vec<u8>);

/// A router that answers one request and tells what it was asked.
fn router(head: &str, body: &str) -> (String, mpsc::Receiver<Asked>) {
    let answer = format!(
        "HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        sender.send(asked(&stream)).unwrap();
        (&stream).write_all(answer.as_bytes()).unwrap();
    });
    (url, receiver)
}

fn asked(stream: &TcpStream) -> Asked {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (line.trim_end().to_owned(), headers, body)
}

fn called(world: &World) {
    let secret = [
        "create",
        "secret",
        "generic",
        "fission-internal-auth",
        "-n",
        "fission",
        "--from-literal=secret=master",
    ];
    assert!(world.kubectl(&secret).status.success());
    let (url, asked) = router("200 OK", "hi");
    let words = [
        "fn",
        "call",
        "hello",
        "--body",
        "x=1",
        "--subpath",
        "a?b=c",
        "-H",
        "X-A: b",
    ];
    let output = world.run(&words, &[("FISSION_ROUTER_INTERNAL_URL", &url)]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(output.stdout, b"hi");
    assert!(err(&output).starts_with("200 OK in "), "{}", err(&output));
    let (line, headers, body) = asked.recv().unwrap();
    assert_eq!(line, "POST /fission-function/default/hello/a?b=c HTTP/1.1");
    assert_eq!(
        (headers["x-a"].as_str(), body.as_slice()),
        ("b", &b"x=1"[..])
    );
    let signed = headers.iter().map(|(name, value)| {
        let name: hyper::header::HeaderName = name.parse().unwrap();
        (name, value.parse().unwrap())
    });
    let key = Key::derived(b"master", Service::RouterInternal, None);
    let target = "/fission-function/default/hello/a?b=c";
    key.verify("POST", target, &body, &signed.collect(), now())
        .unwrap();
    let (url, _asked) = router(
        "502 Bad Gateway\r\nx-fission-component: function",
        r#"{"component":"function","reason":"NameError: x","requestId":"r1"}"#,
    );
    let output = world.run(
        &["fn", "test", "hello"],
        &[("FISSION_ROUTER_INTERNAL_URL", &url)],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("error: function: NameError: x; `farplane fn describe hello`"),
        "{}",
        err(&output)
    );
    let unready = world.expect(4, "fn test hello");
    assert!(
        unready.contains("no Pod of the fission-router"),
        "{unready}"
    );
}

fn deleted(world: &World) {
    assert!(
        world
            .expect(1, "env delete python --yes")
            .contains("functions use environment python")
    );
    assert!(world.expect(2, "fn delete hello").contains("--yes"));
    world.expect(0, "fn delete hello --yes");
    for kind in ["function", "package", "httptrigger", "timetrigger"] {
        assert_eq!(
            world.object(kind)["items"],
            Value::Array(Vec::new()),
            "{kind}"
        );
    }
    world.expect(3, "fn describe hello");
    world.expect(0, "env delete python --yes");
}

fn removed(world: &World) {
    world.expect(2, "functions uninstall");
    world.expect(0, "functions uninstall --yes");
    let left = world.object(
        "deployment,service,clusterrole -A -l app.kubernetes.io/part-of=farplane-functions",
    );
    assert_eq!(left["items"], Value::Array(Vec::new()));
    assert!(
        world.kubectl(&["get", "functions"]).status.success(),
        "kinds are kept"
    );
    world.expect(3, "functions uninstall --yes");
}

#[test]
#[ignore = "needs etcd, kube-apiserver, kubectl and helm in FARPLANE_TEST_BIN"]
fn specs_are_applied_once_and_taken_back() {
    let world = World::start();
    world.install();
    world.expect(0, "spec init --name shop");
    world.write("app/main.py", "x = '??>>'\n");
    world.write("app/requirements.txt", "flask\n");
    world.write("specs/all.yaml", SPECS);
    world.expect(0, "spec validate");
    let dry = world.expect(0, "spec apply --dry-run");
    assert!(
        dry.contains("function app: would be created") && dry.contains("no changes made"),
        "{dry}"
    );
    world.expect(0, "spec apply");
    let versions = |world: &World| -> Vec<String> {
        let all = world.object("environment,package,function,httptrigger,timetrigger");
        let items = all["items"].as_array().unwrap().iter();
        items
            .map(|one| one["metadata"]["resourceVersion"].to_string())
            .collect()
    };
    let before = versions(&world);
    assert_eq!(before.len(), 5);
    assert!(
        world
            .expect(0, "spec apply --delete")
            .contains("all 5 objects are as they should be")
    );
    assert_eq!(
        versions(&world),
        before,
        "an unchanged directory writes nothing"
    );
    // Another source is another package, and the function follows it; nothing else changes.
    world.write("app/requirements.txt", "django\n");
    let changed = world.json("spec apply");
    let actions: BTreeMap<&str, &str> = changed
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["kind"].as_str().unwrap(),
                one["action"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(actions["Package"], "updated");
    assert_eq!(actions["Function"], "updated");
    assert_eq!(
        (actions["Environment"], actions["HTTPTrigger"]),
        ("unchanged", "unchanged")
    );
    let package = world.object("package app-1")["metadata"]["resourceVersion"].clone();
    assert_eq!(
        world.object("function app")["spec"]["package"]["packageref"]["resourceversion"],
        package
    );
    taken_back(&world);
}

/// What is no longer written down goes, what others made stays.
fn taken_back(world: &World) {
    let shorter = SPECS.rsplit_once("---\n").unwrap().0;
    world.write("specs/all.yaml", shorter);
    assert!(
        world
            .expect(0, "spec apply --delete")
            .contains("timer t1: deleted")
    );
    let other = [
        "annotate",
        "environments.fission.io",
        "python",
        "fission-uid=other",
        "--overwrite",
    ];
    assert!(world.kubectl(&other).status.success());
    assert!(world.expect(1, "spec apply").contains("--allow-conflicts"));
    world.expect(0, "spec destroy --yes");
    assert_eq!(
        world.object("function,package,httptrigger")["items"],
        Value::Array(Vec::new())
    );
    assert_eq!(
        world.object("environment")["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    world.expect(0, "functions uninstall --purge --yes");
    assert!(
        !world.kubectl(&["get", "functions"]).status.success(),
        "kinds are gone"
    );
}

const SPECS: &str = "\
apiVersion: fission.io/v1
kind: Environment
metadata: {creationTimestamp: null, name: python, namespace: default}
spec: {builder: {command: build, image: b}, keeparchive: false, poolsize: 3, resources: {}, runtime: {image: i}, version: 3}
---
include: [app/*]
kind: ArchiveUploadSpec
apiVersion: fission.io/v1
name: app
---
apiVersion: fission.io/v1
kind: Package
metadata: {name: app-1, namespace: default, creationTimestamp: null}
spec:
  deployment: {checksum: {}}
  environment: {name: python, namespace: default}
  source: {checksum: {}, type: url, url: 'archive://app'}
status: {buildstatus: pending, lastUpdateTimestamp: null}
---
apiVersion: fission.io/v1
kind: Function
metadata: {name: app, namespace: default}
spec:
  InvokeStrategy:
    ExecutionStrategy: {ExecutorType: poolmgr, MaxScale: 0, MinScale: 0, SpecializationTimeout: 120, TargetCPUPercent: 0}
    StrategyType: execution
  concurrency: 500
  configmaps: null
  environment: {name: python, namespace: default}
  functionTimeout: 60
  package: {functionName: main.main, packageref: {name: app-1, namespace: default}}
  requestsPerPod: 1
  resources: {}
  secrets: null
---
apiVersion: fission.io/v1
kind: HTTPTrigger
metadata: {name: r1, namespace: default}
spec:
  createingress: false
  functionref: {functionweights: null, name: app, type: name}
  host: ''
  ingressconfig: {annotations: null, host: '*', path: /app, tls: ''}
  methods: [GET]
  prefix: ''
  relativeurl: /app
---
apiVersion: fission.io/v1
kind: TimeTrigger
metadata: {name: t1, namespace: default}
spec: {cron: '@every 1m', functionref: {functionweights: null, name: app, type: name}}
";
