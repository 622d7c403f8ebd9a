//! For tests: a real etcd and API server as plain processes on loopback, without nodes.
//!
//! The programs are those of the directory that `FARPLANE_TEST_BIN` names. Everything ends with
//! the value; failures are panics, as in any test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::{DynamicObject, NamespaceResourceScope};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Namespace of the objects of a [`World`].
pub const NAMESPACE: &str = "ns";

/// A program of tests hangs when it has run for so long: all of them together take two minutes.
const LONGEST: Duration = Duration::from_secs(900);

/// First of the ports for tests, and how many there are.
const PORTS: (u16, u32) = (20_000, 10_000);

/// What this program of tests has started.
static STARTED: Mutex<Vec<Arc<Mutex<Child>>>> = Mutex::new(Vec::new());
static WATCHED: Once = Once::new();

/// Ends the process with the test.
pub struct Running(Arc<Mutex<Child>>);

impl Running {
    fn new(child: Child) -> Self {
        let child = Arc::new(Mutex::new(child));
        STARTED.lock().unwrap().push(child.clone());
        WATCHED.call_once(|| drop(std::thread::spawn(end_what_hangs)));
        Self(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        end(&self.0);
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        started.retain(|other| !Arc::ptr_eq(other, &self.0));
    }
}

fn end(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    _ = child.kill();
    _ = child.wait();
}

/// A test that waits for ever would take the time of all others, and tell nobody its name; the
/// last lines before this one do.
#[allow(clippy::disallowed_methods, reason = "the limit is a time")]
fn end_what_hangs() {
    std::thread::sleep(LONGEST);
    eprintln!("tests hang: they have run for {} s", LONGEST.as_secs());
    let started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    for child in started.iter() {
        end(child);
    }
    std::process::exit(101);
}

/// A port that nobody listens at, and that is given to nobody else: a program may take its time to
/// listen. Not one of those that the kernel gives to connections, which come and go all the while.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Tests of other processes begin elsewhere.
    let first = std::process::id().wrapping_mul(97);
    loop {
        let next = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS.1;
        let port = PORTS.0 + u16::try_from(next).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Directory of the built programs.
pub fn programs() -> PathBuf {
    PathBuf::from(std::env::var("FARPLANE_TEST_BIN").expect("FARPLANE_TEST_BIN is not set"))
}

/// A program of the build.
pub fn program(name: &str) -> PathBuf {
    programs().join(name)
}

/// Starts a program of the build in `folder`; its output goes to a log there.
pub fn start(name: &str, folder: &Path, arguments: &[String]) -> Running {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join(format!("{name}.log")))
        .unwrap();
    let child = Command::new(program(name))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Running::new(child)
}

/// Asks again and again until there is an answer, for a minute.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(60), asking).await;
    answer.unwrap_or_else(|_| panic!("waited in vain for: {what}"))
}

/// etcd and API server. Everybody with the token `admin` may do anything.
pub struct ApiServer {
    port: u16,
    folder: tempfile::TempDir,
    _processes: [Running; 2],
}

impl ApiServer {
    /// Starts both; returns before they are ready.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(path.join("sa.key"), key.serialize_pem()).unwrap();
        std::fs::write(path.join("sa.pub"), key.public_key_pem()).unwrap();
        let admin = "admin,admin,1,\"system:masters\"\n";
        std::fs::write(path.join("tokens.csv"), admin).unwrap();
        let (store, peer, port) = (free_port(), free_port(), free_port());
        let etcd = [
            "--data-dir=data".to_owned(),
            format!("--listen-client-urls=http://127.0.0.1:{store}"),
            format!("--advertise-client-urls=http://127.0.0.1:{store}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
            "--heartbeat-interval=20".to_owned(),
            "--election-timeout=100".to_owned(),
        ];
        let api_server = [
            format!("--etcd-servers=http://127.0.0.1:{store}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            "--cert-dir=certs".to_owned(),
            "--token-auth-file=tokens.csv".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--service-account-issuer=https://test".to_owned(),
            "--service-account-key-file=sa.pub".to_owned(),
            "--service-account-signing-key-file=sa.key".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ];
        let processes = [
            start("etcd", path, &etcd),
            start("kube-apiserver", path, &api_server),
        ];
        Self {
            port,
            folder,
            _processes: processes,
        }
    }

    /// Directory of both, for files of the test too.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `https://` address.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// A client that may do anything, once the API server answers.
    pub async fn client(&self) -> Client {
        let mut config = kube::Config::new(self.url().parse().unwrap());
        config.accept_invalid_certs = true;
        config.auth_info.token = Some("admin".to_owned().into());
        let client = Client::try_from(config).unwrap();
        let namespaces: Api<Namespace> = Api::all(client.clone());
        eventually("an API server", async || {
            namespaces.get("default").await.ok()
        })
        .await;
        client
    }
}

/// Makes kinds and waits until they are established: lists and watches of one that is not
/// begin anew without a word.
pub async fn define(client: &Client, definitions: &[CustomResourceDefinition]) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in definitions {
        api.create(&PostParams::default(), definition)
            .await
            .unwrap();
    }
    for definition in definitions {
        let name = definition.metadata.name.clone().unwrap_or_default();
        eventually("a definition to be established", async || {
            let conditions = api.get(&name).await.ok()?.status?.conditions?;
            let mut all = conditions.iter();
            all.find(|one| one.type_ == "Established" && one.status == "True")
                .map(drop)
        })
        .await;
    }
}

/// Makes namespaces.
pub async fn namespaces(client: &Client, names: &[&str]) {
    let api: Api<Namespace> = Api::all(client.clone());
    for name in names {
        let object = json!({ "metadata": { "name": name } });
        let object: Namespace = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }
}

/// An API server with kinds of its own, and what tests do with objects of namespace
/// [`NAMESPACE`].
pub struct World {
    /// May do anything.
    pub client: Client,
    _server: ApiServer,
}

impl World {
    /// With these kinds and namespaces, and [`NAMESPACE`].
    pub async fn start(definitions: &[CustomResourceDefinition], names: &[&str]) -> Self {
        let server = ApiServer::start();
        let client = server.client().await;
        define(&client, definitions).await;
        namespaces(&client, names).await;
        namespaces(&client, &[NAMESPACE]).await;
        Self {
            client,
            _server: server,
        }
    }

    /// Objects of [`NAMESPACE`].
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Makes an object in [`NAMESPACE`].
    pub async fn create<K>(&self, name: &str, spec: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: DeserializeOwned + Serialize + Clone + std::fmt::Debug,
    {
        let object = json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()),
            "metadata": { "name": name }, "spec": spec,
        });
        let object: K = serde_json::from_value(object).unwrap();
        let api = self.api::<K>();
        // A definition that was just made takes a moment to be served.
        eventually("an object to be made", async || {
            match api.create(&PostParams::default(), &object).await {
                Ok(made) => Some(made),
                Err(kube::Error::Api(status)) if status.code == 404 => None,
                Err(error) => panic!("{error}"),
            }
        })
        .await
    }

    /// Changes an object of [`NAMESPACE`].
    pub async fn patch<K>(&self, name: &str, patch: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: DeserializeOwned + Clone + std::fmt::Debug,
    {
        self.api::<K>()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap()
    }

    /// Waits until a condition is `status=reason`, such as `True=Ready`.
    pub async fn condition<K>(&self, name: &str, type_: &str, expected: &str)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: DeserializeOwned + Serialize + Clone + std::fmt::Debug,
    {
        let resource = kube::core::ApiResource::erase::<K>(&());
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), NAMESPACE, &resource);
        let what = format!("{type_} of {name} to be {expected}");
        eventually(&what, async || {
            let object = api.get(name).await.ok()?;
            let conditions = object.data["status"]["conditions"].as_array()?.clone();
            let one = conditions.iter().find(|one| one["type"] == type_)?;
            let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
            let seen = format!("{}={}", text("status"), text("reason"));
            (seen == expected).then_some(())
        })
        .await;
    }
}
