//! A real etcd and API server with our definitions.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::{DynamicObject, NamespaceResourceScope};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::eventually;

/// Ends the process with the test.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Starts a program of the directory that `FARPLANE_TEST_BIN` names.
pub(crate) fn start(program: &str, directory: &Path, arguments: &[String]) -> Running {
    let programs = std::env::var("FARPLANE_TEST_BIN").expect("FARPLANE_TEST_BIN is not set");
    let log = directory.join(format!("{program}.log"));
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    let child = Command::new(Path::new(&programs).join(program))
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Running(child)
}

pub(crate) struct ApiServer {
    pub client: Client,
    _processes: Vec<Running>,
    _directory: tempfile::TempDir,
}

impl ApiServer {
    /// With namespaces `fission` and `ns`.
    pub async fn start() -> Self {
        _ = tracing_subscriber::fmt()
            .with_test_writer()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .try_init();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(path.join("sa.key"), key.serialize_pem()).unwrap();
        std::fs::write(path.join("sa.pub"), key.public_key_pem()).unwrap();
        let admin = "admin,admin,1,\"system:masters\"\n";
        std::fs::write(path.join("tokens.csv"), admin).unwrap();
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
        let uri = format!("https://127.0.0.1:{api}").parse().unwrap();
        let mut config = kube::Config::new(uri);
        config.accept_invalid_certs = true;
        config.auth_info.token = Some("admin".to_owned().into());
        let server = Self {
            client: Client::try_from(config).unwrap(),
            _processes: processes,
            _directory: directory,
        };
        let namespaces: Api<Namespace> = Api::all(server.client.clone());
        eventually("an API server", async || {
            namespaces.get("default").await.ok()
        })
        .await;
        let definitions: Api<CustomResourceDefinition> = Api::all(server.client.clone());
        for definition in farplane_functions_types::all_crds() {
            definitions
                .create(&PostParams::default(), &definition)
                .await
                .unwrap();
        }
        // Lists and watches of a kind that is not established yet begin anew without a word.
        for definition in farplane_functions_types::all_crds() {
            let name = definition.metadata.name.unwrap_or_default();
            eventually("a definition to be established", async || {
                let definition = definitions.get(&name).await.ok()?;
                let conditions = definition.status?.conditions?;
                let mut all = conditions.iter();
                all.find(|one| one.type_ == "Established" && one.status == "True")?;
                Some(())
            })
            .await;
        }
        for name in ["fission", "ns"] {
            let object = json!({ "metadata": { "name": name } });
            let object: Namespace = serde_json::from_value(object).unwrap();
            namespaces
                .create(&PostParams::default(), &object)
                .await
                .unwrap();
        }
        server
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), "ns")
    }

    /// Makes an object in namespace `ns`.
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
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), "ns", &resource);
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
