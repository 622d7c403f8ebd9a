//! Plans of the hosts of one cluster: claimed, kept as they should be, given back.

use std::collections::{BTreeMap, BTreeSet};

use farplane_types::names::{FINALIZER, PLANE_LABEL};
use farplane_types::{HostPlan, HostPlanSpec, KubernetesCluster, PlaneReference};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::ResourceExt as _;
use kube::api::{Api, ObjectMeta, PostParams};

use super::claim::{Claim, claim};
use crate::error::{Error, is_code};
use crate::object;

/// Plans written at the same time.
const CONCURRENCY: usize = 16;

/// True when the plan belongs to this cluster.
pub(crate) fn is_ours(cluster: &KubernetesCluster, plan: &HostPlan) -> bool {
    Some(&plan.spec.plane.uid) == cluster.metadata.uid.as_ref()
}

/// What is to be done about plans.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changes {
    pub claim: Vec<HostPlan>,
    /// Existing plans with their new spec.
    pub replace: Vec<HostPlan>,
    /// Names and UIDs.
    pub release: Vec<(String, Option<String>)>,
}

/// Compares what should be with what is. Plans that are on their way out stay untouched.
pub(crate) fn decide(
    cluster: &KubernetesCluster,
    wanted: BTreeMap<String, HostPlanSpec>,
    existing: &[HostPlan],
) -> Changes {
    let mut changes = Changes::default();
    let names: BTreeSet<&String> = wanted.keys().collect();
    let leaving = existing
        .iter()
        .filter(|plan| is_ours(cluster, plan) && !object::is_deleting(*plan))
        .filter(|plan| !names.contains(&plan.name_any()));
    changes.release = leaving.map(|plan| (plan.name_any(), plan.uid())).collect();
    for (host, spec) in wanted {
        let old = existing.iter().find(|plan| plan.name_any() == host);
        match old.filter(|plan| is_ours(cluster, plan) && !object::is_deleting(*plan)) {
            None => changes.claim.push(plan(cluster, &host, spec)),
            Some(old) if old.spec != spec => {
                let mut new = old.clone();
                new.spec = spec;
                changes.replace.push(new);
            }
            Some(_) => {}
        }
    }
    changes
}

fn plan(cluster: &KubernetesCluster, host: &str, spec: HostPlanSpec) -> HostPlan {
    let uid = cluster.uid().unwrap_or_default();
    HostPlan {
        metadata: ObjectMeta {
            name: Some(host.to_owned()),
            namespace: cluster.namespace(),
            labels: Some(BTreeMap::from([(PLANE_LABEL.to_owned(), uid)])),
            // From the beginning: a plan must never vanish while its host runs it.
            finalizers: Some(vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

/// Carries the changes out. Returns, by host, why it could not be claimed.
pub(crate) async fn apply(
    api: &Api<HostPlan>,
    changes: Changes,
) -> Result<BTreeMap<String, String>, Error> {
    let Changes {
        claim: claims,
        replace,
        release,
    } = changes;
    // Giving back first: another cluster may wait for it.
    for (name, uid) in release {
        object::delete(api, &name, uid).await?;
    }
    for plan in replace {
        update(api, &plan).await?;
    }
    stream::iter(claims)
        .map(|plan| async move {
            let name = plan.name_any();
            Ok(match claim(api, &plan).await? {
                Claim::Ours(_) => None,
                Claim::Taken { by, leaving } => Some((name, refusal(&by, leaving))),
            })
        })
        .buffer_unordered(CONCURRENCY)
        .try_filter_map(|refused| async move { Ok(refused) })
        .try_collect()
        .await
}

fn refusal(by: &PlaneReference, leaving: bool) -> String {
    if leaving {
        format!(
            "is being released by cluster {}; it joins as soon as it is clean",
            by.name
        )
    } else {
        format!(
            "is used by cluster {}; choose another host or remove it there",
            by.name
        )
    }
}

async fn update(api: &Api<HostPlan>, plan: &HostPlan) -> Result<(), Error> {
    let name = plan.name_any();
    match api.replace(&name, &PostParams::default(), plan).await {
        Ok(_) => Ok(()),
        // Changed or gone meanwhile: the event of that brings us back.
        Err(error) if is_code(&error, 409) || is_code(&error, 404) => Ok(()),
        Err(error) => Err(Error::hub(format!("update HostPlan {name}"))(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farplane_types::KubernetesClusterSpec;

    fn cluster(uid: &str) -> KubernetesCluster {
        let spec: KubernetesClusterSpec = serde_json::from_str("{}").unwrap();
        let mut cluster = KubernetesCluster::new("c", spec);
        cluster.metadata.uid = Some(uid.into());
        cluster.metadata.namespace = Some("org-a".into());
        cluster
    }

    fn reference(cluster: &KubernetesCluster) -> PlaneReference {
        PlaneReference {
            kind: "KubernetesCluster".to_owned(),
            name: cluster.name_any(),
            uid: cluster.uid().unwrap_or_default(),
        }
    }

    fn spec(cluster: &KubernetesCluster, reachable: &str) -> HostPlanSpec {
        HostPlanSpec {
            plane: reference(cluster),
            listeners: vec![],
            reachable: vec![reachable.into()],
            units: vec![],
        }
    }

    fn wanted(
        cluster: &KubernetesCluster,
        hosts: &[&str],
        reachable: &str,
    ) -> BTreeMap<String, HostPlanSpec> {
        let plans = hosts
            .iter()
            .map(|&host| (host.to_owned(), spec(cluster, reachable)));
        plans.collect()
    }

    #[test]
    fn plans_follow_the_selection() {
        let ours = cluster("u-1");
        let other = cluster("u-2");
        let existing = [
            plan(&ours, "keep", spec(&ours, "a")),
            plan(&ours, "leave", spec(&ours, "a")),
            plan(&other, "foreign", spec(&other, "a")),
        ];
        let changes = decide(&ours, wanted(&ours, &["keep", "new"], "a"), &existing);
        let claimed: Vec<_> = changes.claim.iter().map(|plan| plan.name_any()).collect();
        assert_eq!(claimed, ["new"]);
        assert_eq!(changes.claim[0].finalizers(), [FINALIZER]);
        assert_eq!(changes.replace, []);
        let released: Vec<_> = changes
            .release
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(released, ["leave"]);
    }

    #[test]
    fn a_changed_plan_is_replaced_and_an_equal_one_left() {
        let ours = cluster("u-1");
        let existing = [plan(&ours, "a", spec(&ours, "x"))];
        let same = decide(&ours, wanted(&ours, &["a"], "x"), &existing);
        assert_eq!(same, Changes::default());
        let changed = decide(&ours, wanted(&ours, &["a"], "y"), &existing);
        assert_eq!(changed.replace.len(), 1);
    }

    #[tokio::test]
    async fn a_host_in_use_is_refused_in_words() {
        let hub = crate::scripted::Hub::default();
        let api = Api::<HostPlan>::namespaced(hub.client(), "org-a");
        let (ours, other) = (cluster("u-1"), cluster("u-2"));
        let theirs = decide(&other, wanted(&other, &["h"], "x"), &[]);
        assert!(apply(&api, theirs).await.unwrap().is_empty());
        // Decided before the other's plan was seen.
        let mine = decide(&ours, wanted(&ours, &["h"], "x"), &[]);
        let refused = apply(&api, mine).await.unwrap();
        assert!(refused["h"].contains("used by cluster c"), "{refused:?}");
    }
}
