//! A Deployment per environment, whose Pods wait for code.
//!
//! [`decide`] compares what there is with what there should be and is pure. The Deployment's
//! name has a digest of its Pods' template: another template is another Deployment, and the old
//! one goes when the new one has a Pod that is available. What callers wait for beyond that, and
//! what is kept ready after a burst, is made by [`extras`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farplane_functions_types::names::{self, annotation, label};
use farplane_functions_types::{Environment, ExecutorType};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::extras;
use crate::objects::{FIELD_MANAGER, Watched, is_code};
use crate::pod::{Platform, PoolTemplate, Refused, pool};

/// Pods that nobody waits for any more go after so long.
const CALM: Duration = Duration::from_secs(1);
/// Changes that arrive together cause one look.
const DEBOUNCE: Duration = Duration::from_millis(2);
/// After a write failed.
const RETRY: Duration = Duration::from_secs(2);
/// A reserve's time may be over.
const RESERVED: Duration = Duration::from_secs(30);
/// Everything is looked at again, whatever happened.
const RESYNC: Duration = Duration::from_secs(300);

/// A pool that should be.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub namespace: String,
    /// UID of the environment.
    pub environment: String,
    /// Name of the Deployment.
    pub name: String,
    pub replicas: i32,
}

/// A pool at one look, with what its Pods are made of.
struct Served<'a> {
    want: &'a Wanted,
    environment: &'a Environment,
    template: &'a PoolTemplate,
    /// Pods that it has when it is full.
    size: usize,
}

/// A pool's Deployment that is.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub namespace: String,
    pub environment: String,
    pub name: String,
    pub replicas: i32,
    pub available: i32,
    /// Which executor wrote it.
    pub writer: String,
    pub ending: bool,
}

/// What is to be done about Deployments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Write the Deployment of this environment (UID) with so many replicas.
    Write(String, i32),
    /// Delete a Deployment: namespace, name.
    Delete(String, String),
}

/// Compares. `writer` is this executor's name.
pub(crate) fn decide(wanted: &[Wanted], seen: &[Seen], writer: &str) -> Vec<Action> {
    let mut actions = Vec::new();
    for want in wanted {
        let is = |one: &&Seen| one.namespace == want.namespace && one.name == want.name;
        let found = seen.iter().find(is);
        if found.is_some_and(|one| one.ending) {
            continue;
        }
        let right = found.is_some_and(|one| one.replicas == want.replicas && one.writer == writer);
        if !right {
            actions.push(Action::Write(want.environment.clone(), want.replicas));
        }
    }
    for one in seen.iter().filter(|one| !one.ending) {
        let successor = wanted
            .iter()
            .find(|want| want.environment == one.environment);
        let superfluous = match successor {
            None => true,
            Some(want) if want.name == one.name => false,
            Some(want) => {
                want.replicas == 0
                    || seen
                        .iter()
                        .any(|other| other.name == want.name && other.available > 0)
            }
        };
        if superfluous {
            actions.push(Action::Delete(one.namespace.clone(), one.name.clone()));
        }
    }
    actions
}

/// The Deployment of a pool.
pub(crate) fn deployment(
    environment: &Environment,
    name: &str,
    template: &PoolTemplate,
    replicas: i32,
    writer: &str,
) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "labels": template.labels,
            "annotations": { annotation::EXECUTOR_INSTANCE: writer },
            "ownerReferences": [owner(environment)],
        },
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 0,
            "selector": { "matchLabels": template.labels },
            "template": template.template,
        },
    })
}

/// Goes with its environment, also while no executor runs.
pub(crate) fn owner(environment: &Environment) -> Value {
    json!({
        "apiVersion": "fission.io/v1",
        "kind": "Environment",
        "name": environment.name_any(),
        "uid": environment.uid(),
    })
}

pub(crate) fn seen(deployment: &Deployment) -> Option<Seen> {
    let labels = deployment.labels();
    if labels.get(label::EXECUTOR_TYPE).map(String::as_str) != Some(ExecutorType::Poolmgr.as_str())
    {
        return None;
    }
    let status = deployment.status.as_ref();
    Some(Seen {
        namespace: deployment.namespace().unwrap_or_default(),
        environment: labels
            .get(label::ENVIRONMENT_UID)
            .cloned()
            .unwrap_or_default(),
        name: deployment.name_any(),
        replicas: deployment.spec.replicas.unwrap_or(1),
        available: status
            .and_then(|status| status.available_replicas)
            .unwrap_or(0),
        writer: deployment
            .annotations()
            .get(annotation::EXECUTOR_INSTANCE)
            .cloned()
            .unwrap_or_default(),
        ending: deployment.metadata.deletion_timestamp.is_some(),
    })
}

/// Templates of environments, made once for each state of them.
#[derive(Default)]
struct Templates(HashMap<String, (Option<String>, Result<PoolTemplate, Refused>)>);

impl Templates {
    fn of(
        &mut self,
        environment: &Environment,
        platform: &Platform,
    ) -> Result<PoolTemplate, Refused> {
        let version = environment.resource_version();
        let uid = environment.uid().unwrap_or_default();
        match self.0.get(&uid) {
            Some((of, template)) if *of == version => template.clone(),
            _ => {
                let template = pool(environment, platform);
                if let Err(refused) = &template {
                    let name = environment.name_any();
                    tracing::warn!(name, %refused, "an environment cannot be run");
                }
                self.0.insert(uid, (version, template.clone()));
                template
            }
        }
    }
}

/// Keeps the pools as they should be.
pub(crate) struct Pools {
    engine: Arc<Engine>,
    environments: Watched<Environment>,
    deployments: Watched<Deployment>,
    platform: Platform,
    templates: Templates,
    /// When somebody waited last.
    waited: HashMap<String, Instant>,
}

impl Pools {
    pub fn new(engine: Arc<Engine>, deployments: Watched<Deployment>) -> Self {
        let settings = &engine.settings;
        Self {
            environments: engine.world.environments.clone(),
            deployments,
            platform: Platform {
                image: settings.fetcher_image.clone(),
                pull_policy: settings.pull_policy.clone(),
            },
            templates: Templates::default(),
            waited: HashMap::new(),
            engine,
        }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        loop {
            let again = self.look().await;
            tokio::select! {
                () = self.environments.changed() => {}
                () = self.deployments.changed() => {}
                () = self.engine.demand.notified() => {}
                () = tokio::time::sleep(again) => {}
            }
            tokio::time::sleep(DEBOUNCE).await;
        }
    }

    /// Compares and writes once. Returns when to look again at the latest.
    async fn look(&mut self) -> Duration {
        let mut again = RESYNC;
        let mut wanted = Vec::new();
        let mut made = HashMap::new();
        let environments = self.environments.all();
        for environment in &environments {
            if environment.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let uid = environment.uid().unwrap_or_default();
            let template = match self.templates.of(environment, &self.platform) {
                Ok(template) => template,
                Err(refused) => {
                    self.engine.state().refuse(&uid, Some(refused.to_string()));
                    continue;
                }
            };
            let namespace = environment.namespace().unwrap_or_default();
            wanted.push(Wanted {
                name: names::pool(&environment.name_any(), &namespace, &template.hash),
                namespace,
                environment: uid.clone(),
                replicas: environment.spec.pool_size(),
            });
            made.insert(uid, (environment.clone(), template));
        }
        self.waited.retain(|uid, _| made.contains_key(uid));
        self.templates.0.retain(|uid, _| {
            environments
                .iter()
                .any(|one| one.uid().as_ref() == Some(uid))
        });
        self.engine
            .tenants
            .keep(|namespace| wanted.iter().any(|want| want.namespace == namespace));
        let deployments = self.deployments.all();
        let seen: Vec<Seen> = deployments.iter().filter_map(|one| seen(one)).collect();
        let writer = self.engine.settings.pod_name.clone();
        let actions = decide(&wanted, &seen, &writer);
        for want in &wanted {
            let written = |action: &Action| matches!(action, Action::Write(uid, _) if *uid == want.environment);
            if !actions.iter().any(written) {
                self.engine.state().refuse(&want.environment, None);
            }
        }
        for action in actions {
            if let Err(error) = self.act(&action, &wanted, &made).await {
                tracing::warn!(?action, %error, "a pool could not be changed");
                again = RETRY;
                self.refused(&action, &error);
            }
        }
        for want in &wanted {
            if let Some((environment, template)) = made.get(&want.environment) {
                let pool = Served {
                    want,
                    environment,
                    template,
                    size: usize::try_from(want.replicas).unwrap_or(0),
                };
                again = again.min(self.serve(&pool).await);
            }
        }
        again
    }

    /// Makes Pods for callers that wait, and ends those that nobody waits for any more. Returns
    /// when to look again at the latest.
    async fn serve(&mut self, pool: &Served<'_>) -> Duration {
        let (uid, now) = (&pool.want.environment, Instant::now());
        let waiting = self.engine.state().waiting(uid);
        if waiting > 0 {
            self.waited.insert(uid.clone(), now);
        }
        let missing = self.engine.state().missing(uid, pool.size);
        if missing > 0
            && let Err(error) = self.beside(pool, missing).await
        {
            let name = &pool.want.name;
            tracing::warn!(name, %error, "Pods for callers that wait were not made");
            return RETRY;
        }
        match self.waited.get(uid) {
            Some(at) if now - *at < CALM => CALM,
            _ => self.rest(pool, now).await,
        }
    }

    /// Makes so many Pods beside a pool.
    async fn beside(&self, pool: &Served<'_>, count: usize) -> Result<(), kube::Error> {
        let pod = extras::pod(pool.environment, &pool.want.name, pool.template);
        extras::make(&self.engine, &pool.want.namespace, pod, count).await
    }

    /// Nobody waits: keeps the reserve, and ends what is beyond it.
    async fn rest(&self, pool: &Served<'_>, now: Instant) -> Duration {
        let uid = &pool.want.environment;
        let (missing, reserve) = {
            let state = self.engine.state();
            let missing = state.reserve_missing(uid, pool.size, now);
            (missing, state.reserve(uid, pool.size, now))
        };
        if missing > 0
            && let Err(error) = self.beside(pool, missing).await
        {
            let name = &pool.want.name;
            tracing::info!(name, %error, "no Pods are kept beside the pool");
            self.engine.state().forget_reserve(uid);
        }
        let effects = self.engine.state().shed(uid, pool.size + reserve);
        self.engine.run(effects);
        if reserve > 0 { RESERVED } else { RESYNC }
    }

    /// What the API server does not take as a Deployment is told to callers.
    fn refused(&self, action: &Action, error: &kube::Error) {
        if let (Action::Write(uid, _), kube::Error::Api(status)) = (action, error)
            && matches!(status.code, 400 | 422)
        {
            let why = Some(status.message.clone());
            self.engine.state().refuse(uid, why);
        }
    }

    async fn act(
        &self,
        action: &Action,
        wanted: &[Wanted],
        made: &HashMap<String, (Arc<Environment>, PoolTemplate)>,
    ) -> Result<(), kube::Error> {
        let client = self.engine.client.clone();
        match action {
            Action::Write(uid, replicas) => {
                let Some(((environment, template), want)) = made
                    .get(uid)
                    .zip(wanted.iter().find(|want| want.environment == *uid))
                else {
                    return Ok(());
                };
                self.engine.tenants.ensure(&want.namespace).await?;
                let writer = &self.engine.settings.pod_name;
                let object = deployment(environment, &want.name, template, *replicas, writer);
                let api = Api::<Deployment>::namespaced(client, &want.namespace);
                let mut parameters = PatchParams::apply(FIELD_MANAGER).force();
                // A field that is none is refused instead of dropped.
                parameters.field_validation = Some(kube::api::ValidationDirective::Strict);
                api.patch(&want.name, &parameters, &Patch::Apply(&object))
                    .await?;
                tracing::info!(
                    namespace = want.namespace,
                    name = want.name,
                    replicas,
                    "pool"
                );
            }
            Action::Delete(namespace, name) => {
                let api = Api::<Deployment>::namespaced(client, namespace);
                match api.delete(name, &DeleteParams::background()).await {
                    Err(error) if !is_code(&error, 404) => return Err(error),
                    _ => tracing::info!(namespace, name, "pool removed"),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(name: &str, replicas: i32) -> Wanted {
        Wanted {
            namespace: "n".into(),
            environment: "e".into(),
            name: name.into(),
            replicas,
        }
    }

    fn is(name: &str, replicas: i32, available: i32) -> Seen {
        Seen {
            namespace: "n".into(),
            environment: "e".into(),
            name: name.into(),
            replicas,
            available,
            writer: "me".into(),
            ending: false,
        }
    }

    fn write(replicas: i32) -> Action {
        Action::Write("e".into(), replicas)
    }

    fn delete(name: &str) -> Action {
        Action::Delete("n".into(), name.into())
    }

    #[test]
    fn a_pool_is_made_and_then_left_alone() {
        assert_eq!(decide(&[want("a", 3)], &[], "me"), [write(3)]);
        assert_eq!(decide(&[want("a", 3)], &[is("a", 3, 0)], "me"), []);
    }

    #[test]
    fn a_pool_is_as_large_as_its_environment_says() {
        assert_eq!(decide(&[want("a", 7)], &[is("a", 3, 3)], "me"), [write(7)]);
        assert_eq!(decide(&[want("a", 3)], &[is("a", 7, 3)], "me"), [write(3)]);
    }

    #[test]
    fn an_old_pool_goes_when_the_new_one_has_a_pod() {
        let wanted = [want("new", 3)];
        let old = is("old", 3, 3);
        assert_eq!(
            decide(&wanted, std::slice::from_ref(&old), "me"),
            [write(3)]
        );
        let young = [old.clone(), is("new", 3, 0)];
        assert_eq!(decide(&wanted, &young, "me"), []);
        let grown = [old.clone(), is("new", 3, 1)];
        assert_eq!(decide(&wanted, &grown, "me"), [delete("old")]);
        // A pool without Pods never has one.
        let empty = [old, is("new", 0, 0)];
        assert_eq!(decide(&[want("new", 0)], &empty, "me"), [delete("old")]);
    }

    #[test]
    fn pools_of_environments_that_are_gone_go() {
        assert_eq!(decide(&[], &[is("a", 3, 3)], "me"), [delete("a")]);
        let mut ending = is("a", 3, 3);
        ending.ending = true;
        assert_eq!(decide(&[], &[ending], "me"), []);
    }

    #[test]
    fn another_executors_pool_is_adopted() {
        assert_eq!(
            decide(&[want("a", 3)], &[is("a", 3, 3)], "other"),
            [write(3)]
        );
    }
}
