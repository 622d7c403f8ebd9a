//! Taking a host for a plane: whoever creates the host's plan has it.
//!
//! The plan has the host's name, and creating is refused when one exists. So two clusters
//! that choose the same host at the same time never both get it.

use farplane_types::{HostPlan, PlaneReference};
use kube::ResourceExt as _;
use kube::api::{Api, PostParams};

use crate::error::{Error, is_code};

/// What came of a claim.
#[derive(Debug, PartialEq)]
pub(crate) enum Claim {
    /// The host is ours, by this plan.
    Ours(Box<HostPlan>),
    /// Another plane has it, or our own earlier plan is not undone yet.
    Taken {
        by: PlaneReference,
        /// The plan is on its way out: the host will be free soon.
        leaving: bool,
    },
}

/// Creates the plan unless there is one.
pub(crate) async fn claim(api: &Api<HostPlan>, plan: &HostPlan) -> Result<Claim, Error> {
    let name = plan.name_any();
    match api.create(&PostParams::default(), plan).await {
        Ok(created) => return Ok(Claim::Ours(Box::new(created))),
        Err(error) if is_code(&error, 409) => {}
        Err(error) => return Err(Error::hub(format!("create HostPlan {name}"))(error)),
    }
    let existing = api
        .get(&name)
        .await
        .map_err(Error::hub(format!("read HostPlan {name}")))?;
    let leaving = existing.metadata.deletion_timestamp.is_some();
    if !leaving && existing.spec.plane.uid == plan.spec.plane.uid {
        return Ok(Claim::Ours(Box::new(existing)));
    }
    Ok(Claim::Taken {
        by: existing.spec.plane,
        leaving,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::Hub;
    use farplane_types::HostPlanSpec;

    fn plan(host: &str, uid: &str) -> HostPlan {
        let spec = HostPlanSpec {
            plane: PlaneReference {
                kind: "KubernetesCluster".into(),
                name: format!("cluster-{uid}"),
                uid: uid.into(),
            },
            listeners: vec![],
            reachable: vec![],
            units: vec![],
        };
        let mut plan = HostPlan::new(host, spec);
        plan.metadata.namespace = Some("org-a".into());
        plan
    }

    #[tokio::test]
    async fn of_two_clusters_that_want_one_host_one_gets_it() {
        let hub = Hub::default();
        let api = Api::<HostPlan>::namespaced(hub.client(), "org-a");
        let (a, b) = (plan("h", "u-1"), plan("h", "u-2"));
        let (first, second) = tokio::join!(claim(&api, &a), claim(&api, &b));
        let claims = [first.unwrap(), second.unwrap()];
        let ours = claims
            .iter()
            .filter(|one| matches!(one, Claim::Ours(_)))
            .count();
        assert_eq!(ours, 1, "{claims:?}");
        let Some(Claim::Taken { by, leaving }) =
            claims.iter().find(|one| matches!(one, Claim::Taken { .. }))
        else {
            panic!("{claims:?}");
        };
        let holder = api.get("h").await.unwrap();
        assert_eq!((by, *leaving), (&holder.spec.plane, false));
    }

    #[tokio::test]
    async fn claiming_again_is_no_change() {
        let hub = Hub::default();
        let api = Api::<HostPlan>::namespaced(hub.client(), "org-a");
        let plan = plan("h", "u-1");
        assert!(matches!(claim(&api, &plan).await, Ok(Claim::Ours(_))));
        assert!(matches!(claim(&api, &plan).await, Ok(Claim::Ours(_))));
    }

    #[tokio::test]
    async fn a_host_that_is_being_released_is_not_claimed_yet() {
        let hub = Hub::default();
        let api = Api::<HostPlan>::namespaced(hub.client(), "org-a");
        let mut old = plan("h", "u-1");
        let now = crate::object::now();
        old.metadata.deletion_timestamp = Some(now);
        api.create(&PostParams::default(), &old).await.unwrap();
        let again = claim(&api, &plan("h", "u-1")).await.unwrap();
        assert!(
            matches!(again, Claim::Taken { leaving: true, .. }),
            "{again:?}"
        );
    }
}
