//! The hub's processes: command lines, what each waits for, how each is asked whether
//! it is ready.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farplane_supervise::{Check, Probe, Program};
use futures::future::BoxFuture;

use crate::api;
use crate::command::run;
use crate::files::Files;
use crate::network::{API_SERVICE, SERVICE_RANGE};
use crate::record::Record;

/// A page that needs TLS and a client certificate.
#[derive(Debug)]
struct SecurePage {
    kubeconfig: PathBuf,
    server: Option<&'static str>,
    page: &'static str,
}

impl Probe for SecurePage {
    fn ask(&self) -> BoxFuture<'_, bool> {
        Box::pin(api::healthy(&self.kubeconfig, self.server, self.page))
    }
}

/// containerd answers on its socket.
#[derive(Debug)]
struct Containerd {
    ctr: PathBuf,
    socket: PathBuf,
}

impl Probe for Containerd {
    fn ask(&self) -> BoxFuture<'_, bool> {
        Box::pin(async {
            let (ctr, socket) = (self.ctr.display(), self.socket.display().to_string());
            // Spares starting `ctr` before there is anything to ask.
            self.socket.exists()
                && run(&ctr.to_string(), &["--address", &socket, "version"])
                    .await
                    .is_ok()
        })
    }
}

/// A plain page on loopback.
fn page(port: u16, page: &str) -> Check {
    Check::Http(format!("http://127.0.0.1:{port}{page}"))
}

const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One process of the hub.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    pub program: Program,
    /// Processes that have to be ready first.
    pub needs: &'static [&'static str],
}

/// Every process, in the order of starting; stopping goes the other way round.
pub(crate) fn all(record: &Record, files: &Files) -> Vec<Component> {
    let make = Maker { record, files };
    vec![
        make.etcd(),
        make.containerd(),
        make.apiserver(),
        make.controller_manager(),
        make.scheduler(),
        make.kubelet(),
        make.proxy(),
    ]
}

struct Maker<'a> {
    record: &'a Record,
    files: &'a Files,
}

impl Maker<'_> {
    fn component(
        &self,
        name: &'static str,
        needs: &'static [&'static str],
        check: Check,
        arguments: Vec<String>,
    ) -> Component {
        let bin = self.record.dist.join("bin");
        let mut command = vec![bin.join(name).display().to_string()];
        command.extend(arguments);
        // containerd finds its shim and runc beside itself.
        let path = format!("{}:{USUAL_PATH}", bin.display());
        let program = Program {
            name: name.to_owned(),
            command,
            environment: BTreeMap::from([("PATH".to_owned(), path)]),
            check: Some(check),
            grace: Duration::from_secs(10),
        };
        Component { program, needs }
    }

    fn pki(&self, file: &str) -> String {
        self.files.pki().join(file).display().to_string()
    }

    fn config(&self, file: &str) -> String {
        self.files.config().join(file).display().to_string()
    }

    fn state(&self, file: &str) -> String {
        self.files.state.join(file).display().to_string()
    }

    fn etcd(&self) -> Component {
        let arguments = vec![
            "--name=hub".to_owned(),
            format!("--data-dir={}", self.state("etcd")),
            "--listen-client-urls=https://127.0.0.1:2379".to_owned(),
            "--advertise-client-urls=https://127.0.0.1:2379".to_owned(),
            "--listen-peer-urls=https://127.0.0.1:2380".to_owned(),
            "--initial-advertise-peer-urls=https://127.0.0.1:2380".to_owned(),
            "--initial-cluster=hub=https://127.0.0.1:2380".to_owned(),
            // It elects itself, and serves nobody before; by default that takes up to a second.
            "--heartbeat-interval=20".to_owned(),
            "--election-timeout=100".to_owned(),
            "--listen-metrics-urls=http://127.0.0.1:2381".to_owned(),
            "--client-cert-auth=true".to_owned(),
            format!("--trusted-ca-file={}", self.pki("etcd-ca.crt")),
            format!("--cert-file={}", self.pki("etcd.crt")),
            format!("--key-file={}", self.pki("etcd.key")),
            "--peer-client-cert-auth=true".to_owned(),
            format!("--peer-trusted-ca-file={}", self.pki("etcd-ca.crt")),
            format!("--peer-cert-file={}", self.pki("etcd.crt")),
            format!("--peer-key-file={}", self.pki("etcd.key")),
            "--auto-compaction-mode=periodic".to_owned(),
            "--auto-compaction-retention=30m".to_owned(),
            "--quota-backend-bytes=4294967296".to_owned(),
            "--logger=zap".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        let check = page(2381, "/readyz");
        self.component("etcd", &[], check, arguments)
    }

    fn containerd(&self) -> Component {
        let check = Check::Custom(Arc::new(Containerd {
            ctr: self.record.dist.join("bin/ctr"),
            socket: self.files.containerd_socket(),
        }));
        let arguments = vec![format!("--config={}", self.config("containerd.toml"))];
        self.component("containerd", &[], check, arguments)
    }

    fn apiserver(&self) -> Component {
        let mut arguments = self.apiserver_keys();
        arguments.extend([
            format!("--advertise-address={}", self.record.hub_address()),
            "--bind-address=0.0.0.0".to_owned(),
            "--secure-port=6443".to_owned(),
            "--etcd-servers=https://127.0.0.1:2379".to_owned(),
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--anonymous-auth=false".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--requestheader-allowed-names=front-proxy-client".to_owned(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
            "--requestheader-group-headers=X-Remote-Group".to_owned(),
            "--requestheader-username-headers=X-Remote-User".to_owned(),
            "--profiling=false".to_owned(),
        ]);
        let check = Check::Custom(Arc::new(SecurePage {
            kubeconfig: self.files.kubeconfig(),
            server: None,
            page: "/readyz",
        }));
        self.component("kube-apiserver", &["etcd"], check, arguments)
    }

    fn apiserver_keys(&self) -> Vec<String> {
        [
            ("etcd-cafile", "etcd-ca.crt"),
            ("etcd-certfile", "apiserver-etcd-client.crt"),
            ("etcd-keyfile", "apiserver-etcd-client.key"),
            ("tls-cert-file", "apiserver.crt"),
            ("tls-private-key-file", "apiserver.key"),
            ("client-ca-file", "ca.crt"),
            ("kubelet-certificate-authority", "ca.crt"),
            ("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
            ("kubelet-client-key", "apiserver-kubelet-client.key"),
            ("service-account-key-file", "sa.pub"),
            ("service-account-signing-key-file", "sa.key"),
            ("requestheader-client-ca-file", "front-proxy-ca.crt"),
            ("proxy-client-cert-file", "front-proxy-client.crt"),
            ("proxy-client-key-file", "front-proxy-client.key"),
            ("encryption-provider-config", "encryption.yaml"),
        ]
        .iter()
        .map(|(flag, file)| format!("--{flag}={}", self.pki(file)))
        .collect()
    }

    /// Flags that the controller manager and the scheduler share. There is one of each,
    /// so an election would only cost time.
    fn controller_flags(&self, kubeconfig: &str) -> Vec<String> {
        let kubeconfig = self.pki(kubeconfig);
        vec![
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--leader-elect=false".to_owned(),
            "--profiling=false".to_owned(),
            format!("--tls-cert-file={}", self.pki("loopback.crt")),
            format!("--tls-private-key-file={}", self.pki("loopback.key")),
        ]
    }

    fn controller_manager(&self) -> Component {
        let mut arguments = self.controller_flags("controller-manager.kubeconfig");
        arguments.extend([
            format!("--root-ca-file={}", self.pki("ca.crt")),
            format!("--service-account-private-key-file={}", self.pki("sa.key")),
            "--use-service-account-credentials=true".to_owned(),
            "--allocate-node-cidrs=false".to_owned(),
            // At the usual rate the controllers take seconds to get their own tokens.
            "--kube-api-qps=200".to_owned(),
            "--kube-api-burst=400".to_owned(),
        ]);
        let check = Check::Custom(Arc::new(SecurePage {
            kubeconfig: self.files.kubeconfig(),
            server: Some("https://127.0.0.1:10257"),
            page: "/healthz",
        }));
        self.component(
            "kube-controller-manager",
            &["kube-apiserver"],
            check,
            arguments,
        )
    }

    fn scheduler(&self) -> Component {
        let check = Check::Custom(Arc::new(SecurePage {
            kubeconfig: self.files.kubeconfig(),
            server: Some("https://127.0.0.1:10259"),
            page: "/healthz",
        }));
        let arguments = self.controller_flags("scheduler.kubeconfig");
        self.component("kube-scheduler", &["kube-apiserver"], check, arguments)
    }

    fn kubelet(&self) -> Component {
        let arguments = vec![
            format!("--config={}", self.config("kubelet.json")),
            format!("--kubeconfig={}", self.pki("kubelet.kubeconfig")),
            format!("--root-dir={}", self.state("kubelet")),
            format!("--cert-dir={}", self.state("kubelet/pki")),
            format!("--hostname-override={}", self.record.name),
            format!("--node-ip={}", self.record.hub_address()),
        ];
        let check = page(10248, "/healthz");
        self.component(
            "kubelet",
            &["containerd", "kube-apiserver"],
            check,
            arguments,
        )
    }

    fn proxy(&self) -> Component {
        let check = page(10256, "/healthz");
        let arguments = vec![format!("--config={}", self.config("kube-proxy.json"))];
        self.component("kube-proxy", &["kube-apiserver"], check, arguments)
    }
}

/// Addresses that the API server's certificate has to name.
pub(crate) fn apiserver_addresses(record: &Record) -> [std::net::IpAddr; 3] {
    [
        record.hub_address().into(),
        API_SERVICE.into(),
        std::net::Ipv4Addr::LOCALHOST.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_needs_starts_before_it() {
        let record = Record::empty(&crate::HubName::default());
        let all = all(&record, &Files::new("/state"));
        for (position, component) in all.iter().enumerate() {
            for need in component.needs {
                let found = all
                    .iter()
                    .position(|other| other.program.name == *need)
                    .unwrap();
                assert!(found < position, "{} needs {need}", component.program.name);
            }
        }
    }
}
