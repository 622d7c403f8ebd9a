//! Endpoints: how many hosts they have, and how many are connected.

use std::sync::Arc;

use farplane_types::host::CONNECTED;
use farplane_types::{Endpoint, EndpointStatus, Host, conditions};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;

use crate::context::{Context, RESYNC, drive};
use crate::error::Error;
use crate::object;

/// Runs the controller.
pub(crate) async fn run(context: Arc<Context>) -> Error {
    let client = context.client.clone();
    let any = watcher::Config::default;
    let controller = Controller::new(Api::<Endpoint>::all(client.clone()), any()).watches(
        Api::<Host>::all(client),
        any(),
        |host| {
            let namespace = host.namespace()?;
            Some(ObjectRef::new(&host.spec.endpoint).within(&namespace))
        },
    );
    drive("Endpoint", controller, context, reconcile).await
}

async fn reconcile(endpoint: Arc<Endpoint>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = endpoint.namespace().unwrap_or_default();
    let hosts = Api::<Host>::namespaced(context.client.clone(), &namespace)
        .list(&ListParams::default())
        .await
        .map_err(Error::hub(format!("list Hosts of {namespace}")))?;
    let status = decide(&endpoint, &hosts.items, object::now());
    if endpoint.status.as_ref() != Some(&status) {
        let api = Api::<Endpoint>::namespaced(context.client.clone(), &namespace);
        object::apply_status(&api, endpoint.as_ref(), &status).await?;
    }
    Ok(Action::requeue(RESYNC))
}

fn decide(endpoint: &Endpoint, hosts: &[Host], now: Time) -> EndpointStatus {
    let mut status = endpoint.status.clone().unwrap_or_default();
    let name = endpoint.name_any();
    let (mut all, mut connected) = (0, 0);
    for host in hosts.iter().filter(|host| host.spec.endpoint == name) {
        all += 1;
        let observed = host.status.as_ref();
        if observed.is_some_and(|status| conditions::is_true(&status.conditions, CONNECTED)) {
            connected += 1;
        }
    }
    let generation = endpoint.metadata.generation;
    status.observed_generation = generation;
    status.hosts = all;
    status.connected_hosts = connected;
    conditions::set(
        &mut status.conditions,
        conditions::READY,
        true,
        "Ready",
        "",
        generation,
        now,
    );
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use farplane_types::{EndpointSpec, HostProvider, HostSpec, HostStatus};

    fn host(endpoint: &str, connected: bool) -> Host {
        let mut host = Host::new(
            "h",
            HostSpec {
                endpoint: endpoint.to_owned(),
                provider: HostProvider::Own,
                unschedulable: false,
            },
        );
        let mut status = HostStatus::default();
        conditions::set(
            &mut status.conditions,
            CONNECTED,
            connected,
            "X",
            "",
            None,
            object::now(),
        );
        host.status = Some(status);
        host
    }

    #[test]
    fn only_hosts_of_the_endpoint_count() {
        let endpoint = Endpoint::new("site", EndpointSpec::default());
        let hosts = [host("site", true), host("site", false), host("other", true)];
        let status = decide(&endpoint, &hosts, object::now());
        assert_eq!((status.hosts, status.connected_hosts), (2, 1));
    }
}
