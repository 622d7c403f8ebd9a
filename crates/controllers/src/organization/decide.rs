//! What an organization is made of, and its status. Pure.

use std::collections::{BTreeMap, BTreeSet};

use farplane_types::names::{ORGANIZATION_LABEL, organization_namespace};
use farplane_types::{
    Host, HostPlan, JoinToken, Organization, OrganizationStatus, OrganizationUsage, Role, Subject,
    conditions,
};
use k8s_openapi::api::core::v1::{
    LimitRange, LimitRangeItem, LimitRangeSpec, Namespace, ResourceQuota, ResourceQuotaSpec,
};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject as RbacSubject};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt as _;

use crate::object::age_ms;

/// Name of the quota and the limit range in the namespace.
pub(super) const OBJECT_NAME: &str = "farplane";
/// A token is kept this long after its end, so that a late use gets the true reason.
const KEEP_EXPIRED_MS: u64 = 3_600_000;
const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// What is there.
#[derive(Default)]
pub(super) struct World {
    pub namespace: Option<Namespace>,
    pub hosts: Vec<Host>,
    pub clusters: usize,
    pub plans: Vec<HostPlan>,
    pub tokens: Vec<JoinToken>,
}

/// What must be there.
pub(super) struct Objects {
    pub namespace: Namespace,
    pub bindings: Vec<RoleBinding>,
    pub quota: Option<ResourceQuota>,
    pub limits: LimitRange,
}

/// True when the namespace was made for this organization.
pub(super) fn is_ours(organization: &Organization, namespace: &Namespace) -> bool {
    namespace.labels().get(ORGANIZATION_LABEL) == organization.metadata.name.as_ref()
}

/// True when somebody else's namespace has the wanted name.
pub(super) fn is_foreign(organization: &Organization, world: &World) -> bool {
    let namespace = world.namespace.as_ref();
    namespace.is_some_and(|namespace| !is_ours(organization, namespace))
}

pub(super) fn objects(organization: &Organization) -> Objects {
    let name = organization.name_any();
    let namespace = organization_namespace(&name);
    let labels = BTreeMap::from([(ORGANIZATION_LABEL.to_owned(), name)]);
    let meta = |object: &str| ObjectMeta {
        name: Some(object.to_owned()),
        namespace: Some(namespace.clone()),
        labels: Some(labels.clone()),
        ..ObjectMeta::default()
    };
    let mut namespace_labels = labels.clone();
    // Members make no Pods; if some role of the operator's lets them, then harmless ones.
    namespace_labels.insert(
        "pod-security.kubernetes.io/enforce".to_owned(),
        "restricted".to_owned(),
    );
    let roles = [
        (Role::Admin, "farplane:admin"),
        (Role::Developer, "farplane:developer"),
        (Role::Viewer, "farplane:viewer"),
    ];
    let bindings = roles.map(|(role, cluster_role)| RoleBinding {
        metadata: meta(cluster_role),
        role_ref: RoleRef {
            api_group: Some(RBAC_GROUP.to_owned()),
            kind: "ClusterRole".to_owned(),
            name: cluster_role.to_owned(),
        },
        subjects: Some(subjects(organization, role)),
    });
    let hard = &organization.spec.limits.resource_quota;
    let quota = (!hard.is_empty()).then(|| ResourceQuota {
        metadata: meta(OBJECT_NAME),
        spec: Some(ResourceQuotaSpec {
            hard: Some(quantities(hard)),
            ..ResourceQuotaSpec::default()
        }),
        ..ResourceQuota::default()
    });
    Objects {
        namespace: Namespace {
            metadata: ObjectMeta {
                name: Some(namespace.clone()),
                labels: Some(namespace_labels),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        },
        bindings: bindings.into(),
        quota,
        limits: LimitRange {
            metadata: meta(OBJECT_NAME),
            spec: Some(limit_range()),
        },
    }
}

/// Bounds for containers that name none, so that a quota can count them.
fn limit_range() -> LimitRangeSpec {
    let map = |cpu: &str, memory: &str| {
        Some(BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpu.to_owned())),
            ("memory".to_owned(), Quantity(memory.to_owned())),
        ]))
    };
    LimitRangeSpec {
        limits: vec![LimitRangeItem {
            type_: "Container".to_owned(),
            default_request: map("50m", "64Mi"),
            default: map("1", "512Mi"),
            ..LimitRangeItem::default()
        }],
    }
}

fn quantities(hard: &BTreeMap<String, String>) -> BTreeMap<String, Quantity> {
    hard.iter()
        .map(|(name, amount)| (name.clone(), Quantity(amount.clone())))
        .collect()
}

/// Members of a role in a fixed order, each once.
fn subjects(organization: &Organization, role: Role) -> Vec<RbacSubject> {
    let of_role = organization
        .spec
        .members
        .iter()
        .filter(|member| member.role == role);
    let names: BTreeSet<(&str, &str)> = of_role
        .map(|member| match &member.subject {
            Subject::Group(name) => ("Group", name.as_str()),
            Subject::User(name) => ("User", name.as_str()),
        })
        .collect();
    names
        .into_iter()
        .map(|(kind, name)| RbacSubject {
            api_group: Some(RBAC_GROUP.to_owned()),
            kind: kind.to_owned(),
            name: name.to_owned(),
            namespace: None,
        })
        .collect()
}

/// What an organization uses of its limits.
pub(crate) fn usage(hosts: &[Host], clusters: usize, plans: &[HostPlan]) -> OrganizationUsage {
    let used: BTreeSet<String> = plans.iter().map(|plan| plan.name_any()).collect();
    let vcpus = hosts
        .iter()
        .filter(|host| used.contains(&host.name_any()))
        .filter_map(|host| host.status.as_ref()?.facts.as_ref())
        .map(|facts| facts.vcpus)
        .sum();
    OrganizationUsage {
        hosts: u32::try_from(hosts.len()).unwrap_or(u32::MAX),
        clusters: u32::try_from(clusters).unwrap_or(u32::MAX),
        vcpus,
    }
}

pub(super) fn status(
    organization: &Organization,
    world: &World,
    failure: Option<String>,
    now: Time,
) -> OrganizationStatus {
    let mut status = organization.status.clone().unwrap_or_default();
    let name = organization_namespace(&organization.name_any());
    let generation = organization.metadata.generation;
    let (ready, reason, message) = match (is_foreign(organization, world), failure) {
        (true, _) => (
            false,
            "NamespaceTaken",
            format!(
                "namespace {name} exists and is not this organization's; delete it or choose another name"
            ),
        ),
        (false, Some(failure)) => (false, "Failed", failure),
        (false, None) => (true, "Ready", String::new()),
    };
    status.observed_generation = generation;
    status.namespace = ready.then_some(name).or(status.namespace);
    status.usage = usage(&world.hosts, world.clusters, &world.plans);
    conditions::set(
        &mut status.conditions,
        conditions::READY,
        ready,
        reason,
        message,
        generation,
        now,
    );
    status
}

/// Tokens whose end is long past.
pub(super) fn expired_tokens<'a>(
    world: &'a World,
    now: &'a Time,
) -> impl Iterator<Item = &'a JoinToken> {
    world
        .tokens
        .iter()
        .filter(move |token| age_ms(&token.spec.expires_at, now) > KEEP_EXPIRED_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use farplane_types::{Member, OrganizationSpec};
    use k8s_openapi::jiff::Timestamp;

    fn organization(members: Vec<(Subject, Role)>) -> Organization {
        let members = members
            .into_iter()
            .map(|(subject, role)| Member { subject, role })
            .collect();
        Organization::new(
            "acme",
            OrganizationSpec {
                members,
                ..OrganizationSpec::default()
            },
        )
    }

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn members_are_bound_to_the_role_they_have_and_no_other() {
        let objects = objects(&organization(vec![
            (Subject::Group("ops".into()), Role::Admin),
            (Subject::User("eve".into()), Role::Viewer),
            (Subject::User("eve".into()), Role::Viewer),
        ]));
        let bound: Vec<(String, Vec<String>)> = objects
            .bindings
            .iter()
            .map(|binding| {
                let subjects = binding.subjects.iter().flatten();
                let names = subjects.map(|one| format!("{}:{}", one.kind, one.name));
                (binding.role_ref.name.clone(), names.collect())
            })
            .collect();
        assert_eq!(
            bound[0],
            ("farplane:admin".into(), vec!["Group:ops".into()])
        );
        assert_eq!(bound[1], ("farplane:developer".into(), vec![]));
        assert_eq!(
            bound[2],
            ("farplane:viewer".into(), vec!["User:eve".into()])
        );
        assert!(objects.quota.is_none());
    }

    #[test]
    fn a_namespace_of_somebody_else_is_left_alone_and_told() {
        let organization = organization(vec![]);
        let mut world = World {
            namespace: Some(Namespace::default()),
            ..World::default()
        };
        assert!(is_foreign(&organization, &world));
        let told = status(&organization, &world, None, at(1));
        let ready = conditions::get(&told.conditions, conditions::READY).unwrap();
        assert_eq!(
            (ready.status.as_str(), ready.reason.as_str()),
            ("False", "NamespaceTaken")
        );
        world.namespace = Some(objects(&organization).namespace);
        assert!(!is_foreign(&organization, &world));
    }

    #[test]
    fn the_same_world_gives_the_same_status() {
        let mut organization = organization(vec![]);
        let world = World::default();
        let first = status(&organization, &world, None, at(1));
        organization.status = Some(first.clone());
        assert_eq!(status(&organization, &world, None, at(9)), first);
    }
}
