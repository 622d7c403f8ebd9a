//! What the gateway knows of the hub: hosts, plans, clusters, API server and gateway Pods.
//!
//! [`World`] is plain data with indexes, changed by one object at a time; [`lookup`] answers
//! questions on it without IO; [`shared`] keeps it in step with the API and tells plan
//! streams about changes.

pub mod lookup;
pub mod shared;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use farplane_types::names;
use farplane_types::{
    Host, HostConnection, HostPlan, HostPlanSpec, KubernetesCluster, PlaneReference,
};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// Key of an object by its metadata.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

/// What is kept of a `Host`.
#[derive(Clone, Debug)]
pub struct HostView {
    /// Namespace and name.
    pub key: Key,
    /// UID.
    pub uid: String,
    /// Organization of the namespace.
    pub organization: String,
    /// Whether deletion was asked for.
    pub deleting: bool,
    /// Address that the agent reported.
    pub node_address: Option<IpAddr>,
    /// Tunnels held by gateways.
    pub connections: Vec<HostConnection>,
}

/// What is kept of a `HostPlan`.
#[derive(Clone, Debug)]
pub struct PlanView {
    /// UID.
    pub uid: String,
    /// Generation.
    pub generation: i64,
    /// Whether deletion was asked for: the plan counts as none.
    pub deleting: bool,
    /// Ranges that the hub may reach through the host.
    pub reachable: Vec<IpNet>,
    /// The plan itself.
    pub spec: Arc<HostPlanSpec>,
    /// Conditions in the status, for their transition times.
    pub conditions: Vec<Condition>,
}

/// What is kept of a `KubernetesCluster`.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// Namespace and name.
    pub key: Key,
    /// UID, which is the plane's.
    pub uid: String,
    /// Organization of the namespace.
    pub organization: String,
    /// Server name of its API server.
    pub server_name: String,
}

/// What is kept of a Pod.
#[derive(Clone, Debug)]
pub struct PodView {
    /// Address.
    pub address: Option<IpAddr>,
    /// Whether it is ready and not on its way out.
    pub ready: bool,
    /// Whether it runs.
    pub running: bool,
}

/// Everything known, with indexes.
#[derive(Debug, Default)]
pub struct World {
    hub_domain: String,
    hosts: HashMap<String, HostView>,
    host_uids: HashMap<Key, String>,
    plans: HashMap<Key, PlanView>,
    plans_of_plane: HashMap<String, BTreeSet<Key>>,
    clusters: HashMap<Key, ClusterView>,
    cluster_of_name: HashMap<String, Key>,
    cluster_of_uid: HashMap<String, Key>,
    api_servers: HashMap<String, HashMap<String, PodView>>,
    gateways: HashMap<String, PodView>,
}

impl World {
    /// An empty world of a hub with this domain.
    pub fn new(hub_domain: &str) -> Self {
        Self {
            hub_domain: hub_domain.to_owned(),
            ..Self::default()
        }
    }
}

/// A kind that the world keeps. Each change answers the UIDs of the hosts whose plan may
/// have changed with it.
pub trait Tracked: Sized {
    /// Adds the object or replaces it.
    fn insert(world: &mut World, object: Self) -> Vec<String>;
    /// Forgets the object.
    fn remove(world: &mut World, key: &Key) -> Vec<String>;
    /// Keys of every object of this kind.
    fn keys(world: &World) -> Vec<Key>;
    /// Key of an object.
    fn key(&self) -> Key;

    /// Makes `objects` the only ones of their kind.
    fn replace(world: &mut World, objects: Vec<Self>) -> Vec<String> {
        let kept: HashSet<Key> = objects.iter().map(Self::key).collect();
        let gone: Vec<Key> = Self::keys(world)
            .into_iter()
            .filter(|key| !kept.contains(key))
            .collect();
        let mut affected = Vec::new();
        for key in gone {
            affected.extend(Self::remove(world, &key));
        }
        for object in objects {
            affected.extend(Self::insert(world, object));
        }
        affected
    }
}

impl Tracked for Host {
    fn insert(world: &mut World, object: Self) -> Vec<String> {
        let key = Key::of(&object.metadata);
        let Some(organization) = names::organization_of_namespace(&key.namespace) else {
            return Vec::new();
        };
        let uid = object.metadata.uid.unwrap_or_default();
        let status = object.status.unwrap_or_default();
        let mut affected = vec![uid.clone()];
        if let Some(old) = world.host_uids.insert(key.clone(), uid.clone())
            && old != uid
        {
            world.hosts.remove(&old);
            affected.push(old);
        }
        let view = HostView {
            organization: organization.to_owned(),
            key,
            uid: uid.clone(),
            deleting: object.metadata.deletion_timestamp.is_some(),
            node_address: status
                .facts
                .and_then(|facts| facts.node_address.parse().ok()),
            connections: status.connections,
        };
        world.hosts.insert(uid, view);
        affected
    }

    fn remove(world: &mut World, key: &Key) -> Vec<String> {
        let gone = world.host_uids.remove(key);
        if let Some(uid) = &gone {
            world.hosts.remove(uid);
        }
        gone.into_iter().collect()
    }

    fn keys(world: &World) -> Vec<Key> {
        world.host_uids.keys().cloned().collect()
    }

    fn key(&self) -> Key {
        Key::of(&self.metadata)
    }
}

impl Tracked for HostPlan {
    fn insert(world: &mut World, object: Self) -> Vec<String> {
        let key = Key::of(&object.metadata);
        let reachable = object.spec.reachable.iter();
        let view = PlanView {
            uid: object.metadata.uid.unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            deleting: object.metadata.deletion_timestamp.is_some(),
            reachable: reachable.filter_map(|range| range.parse().ok()).collect(),
            conditions: object.status.unwrap_or_default().conditions,
            spec: Arc::new(object.spec),
        };
        let plane = view.spec.plane.uid.clone();
        if let Some(old) = world.plans.insert(key.clone(), view) {
            unlink(&mut world.plans_of_plane, &old.spec.plane, &key);
        }
        world
            .plans_of_plane
            .entry(plane)
            .or_default()
            .insert(key.clone());
        world.host_uids.get(&key).cloned().into_iter().collect()
    }

    fn remove(world: &mut World, key: &Key) -> Vec<String> {
        if let Some(old) = world.plans.remove(key) {
            unlink(&mut world.plans_of_plane, &old.spec.plane, key);
        }
        world.host_uids.get(key).cloned().into_iter().collect()
    }

    fn keys(world: &World) -> Vec<Key> {
        world.plans.keys().cloned().collect()
    }

    fn key(&self) -> Key {
        Key::of(&self.metadata)
    }
}

fn unlink(index: &mut HashMap<String, BTreeSet<Key>>, plane: &PlaneReference, key: &Key) {
    if let Some(keys) = index.get_mut(&plane.uid) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(&plane.uid);
        }
    }
}

impl Tracked for KubernetesCluster {
    fn insert(world: &mut World, object: Self) -> Vec<String> {
        let key = Key::of(&object.metadata);
        let Some(organization) = names::organization_of_namespace(&key.namespace) else {
            return Vec::new();
        };
        let view = ClusterView {
            uid: object.metadata.uid.unwrap_or_default(),
            server_name: names::cluster_server_name(organization, &key.name, &world.hub_domain),
            organization: organization.to_owned(),
            key: key.clone(),
        };
        Self::remove(world, &key);
        world
            .cluster_of_name
            .insert(view.server_name.clone(), key.clone());
        world.cluster_of_uid.insert(view.uid.clone(), key.clone());
        world.clusters.insert(key, view);
        Vec::new()
    }

    fn remove(world: &mut World, key: &Key) -> Vec<String> {
        if let Some(old) = world.clusters.remove(key) {
            world.cluster_of_name.remove(&old.server_name);
            world.cluster_of_uid.remove(&old.uid);
        }
        Vec::new()
    }

    fn keys(world: &World) -> Vec<Key> {
        world.clusters.keys().cloned().collect()
    }

    fn key(&self) -> Key {
        Key::of(&self.metadata)
    }
}

/// A Pod of some plane's API server.
pub struct ApiServerPod(pub Pod);

impl Tracked for ApiServerPod {
    fn insert(world: &mut World, object: Self) -> Vec<String> {
        let key = object.key();
        let pods = world.api_servers.entry(key.namespace).or_default();
        pods.insert(key.name, pod_view(&object.0));
        Vec::new()
    }

    fn remove(world: &mut World, key: &Key) -> Vec<String> {
        if let Some(pods) = world.api_servers.get_mut(&key.namespace) {
            pods.remove(&key.name);
            if pods.is_empty() {
                world.api_servers.remove(&key.namespace);
            }
        }
        Vec::new()
    }

    fn keys(world: &World) -> Vec<Key> {
        let pods = |(namespace, pods): (&String, &HashMap<String, PodView>)| {
            let namespace = namespace.clone();
            let key = move |name: &String| Key {
                namespace: namespace.clone(),
                name: name.clone(),
            };
            pods.keys().map(key).collect::<Vec<_>>()
        };
        world.api_servers.iter().flat_map(pods).collect()
    }

    fn key(&self) -> Key {
        Key::of(&self.0.metadata)
    }
}

/// A Pod in the hub's own namespace; gateways are among them.
pub struct SystemPod(pub Pod);

impl Tracked for SystemPod {
    fn insert(world: &mut World, object: Self) -> Vec<String> {
        world
            .gateways
            .insert(object.key().name, pod_view(&object.0));
        Vec::new()
    }

    fn remove(world: &mut World, key: &Key) -> Vec<String> {
        world.gateways.remove(&key.name);
        Vec::new()
    }

    fn keys(world: &World) -> Vec<Key> {
        let key = |name: &String| Key {
            namespace: names::SYSTEM_NAMESPACE.to_owned(),
            name: name.clone(),
        };
        world.gateways.keys().map(key).collect()
    }

    fn key(&self) -> Key {
        Key::of(&self.0.metadata)
    }
}

fn pod_view(pod: &Pod) -> PodView {
    let status = pod.status.as_ref();
    let leaving = pod.metadata.deletion_timestamp.is_some();
    let running = status.and_then(|it| it.phase.as_deref()) == Some("Running");
    let ready = status
        .and_then(|it| it.conditions.as_deref())
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    PodView {
        address: status
            .and_then(|it| it.pod_ip.as_deref())
            .and_then(|it| it.parse().ok()),
        ready: ready && running && !leaving,
        running,
    }
}
