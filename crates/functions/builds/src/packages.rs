//! Looks at packages, and builds those that need it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use farplane_control::backoff;
use farplane_functions_types::package::build_status;
use farplane_functions_types::{Environment, Package};
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::Settings;
use crate::build::Build;
use crate::content;
use crate::decide::{Reason, Step, decide};
use crate::error::{BuildError, Error};
use crate::objects::{self, ENVIRONMENT};
use crate::place::{Builder, Place, Pods};
use crate::status::{self, Report};

/// How often a build is tried whose builder goes away.
const ATTEMPTS: u32 = 5;
/// Pause before the second attempt; doubled each time.
const PAUSE: Duration = Duration::from_secs(1);
/// What is waited for is told by watches; this is for what they do not tell.
const RECHECK: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(2);
const LASTING_RETRY: Duration = Duration::from_secs(60);

struct Context {
    client: Client,
    settings: Settings,
    place: Place,
    environments: Store<Environment>,
    /// True once all environments are known. Shared: the store's own waiting wakes only one of
    /// several that wait, and every package waits at the start.
    listed: Shared<BoxFuture<'static, bool>>,
    packages: Store<Package>,
    /// Bumped when a package or environment changed.
    changes: watch::Sender<u64>,
    /// Turns of a namespace's builds.
    turns: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// Attempts at a package's content that broke, by UID.
    broken: Mutex<HashMap<String, Broken>>,
}

struct Broken {
    hash: String,
    attempts: u32,
    /// Not before. What we write ourselves brings us back at once.
    next: Instant,
}

/// Runs until the shutdown.
pub async fn run(
    client: Client,
    settings: Settings,
    place: Place,
    pods: Option<Pods>,
    shutdown: CancellationToken,
) {
    let (changes, _) = watch::channel(0);
    let (packages, package_changes) = watched::<Package>(&client, &changes);
    let (environments, environment_changes) = watched::<Environment>(&client, &changes);
    let (by_environment, by_pod) = (packages.clone(), packages.clone());
    let mut controller = Controller::for_stream(package_changes, packages.clone())
        // A build that runs must not keep others from being looked at; turns are ours.
        .with_config(Config::default().concurrency(0))
        .watches_stream(environment_changes, move |environment: Environment| {
            of_environment(
                &by_environment,
                environment.namespace(),
                &environment.name_any(),
            )
        });
    if let Some(pods) = pods {
        controller = controller.watches_stream(pods.changes, move |pod| {
            let name = pod.labels().get(ENVIRONMENT).cloned().unwrap_or_default();
            of_environment(&by_pod, pod.namespace(), &name)
        });
    }
    let listing = environments.clone();
    let context = Arc::new(Context {
        client,
        settings,
        place,
        listed: async move { listing.wait_until_ready().await.is_ok() }
            .boxed()
            .shared(),
        environments,
        packages,
        changes,
        turns: Mutex::default(),
        broken: Mutex::default(),
    });
    let running = controller
        .run(reconcile, policy, context)
        .for_each(|_| std::future::ready(()));
    // Not graceful: builds may run for minutes, and are begun anew by the next process.
    tokio::select! {
        () = running => {}
        () = shutdown.cancelled() => {}
    }
}

fn watched<K>(
    client: &Client,
    changes: &watch::Sender<u64>,
) -> (
    Store<K>,
    impl Stream<Item = Result<K, watcher::Error>> + Send + 'static,
)
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (reader, writer) = store();
    let changes = changes.clone();
    let events = watcher(Api::<K>::all(client.clone()), watcher::Config::default());
    let stream = reflector(writer, events.backoff(backoff::watch()))
        .touched_objects()
        .inspect_ok(move |_| changes.send_modify(|count| *count += 1));
    (reader, stream)
}

/// Packages of an environment.
fn of_environment(
    packages: &Store<Package>,
    namespace: Option<String>,
    name: &str,
) -> Vec<ObjectRef<Package>> {
    let all = packages.state();
    let of = all.iter().filter(|package| {
        package.namespace() == namespace && package.spec.environment.name == name
    });
    of.map(|package| ObjectRef::from_obj(package.as_ref()))
        .collect()
}

#[allow(clippy::needless_pass_by_value, reason = "the controller's signature")]
fn policy(package: Arc<Package>, error: &Error, _: Arc<Context>) -> Action {
    tracing::warn!(package = package.name_any(), %error, "package was not looked after");
    Action::requeue(if error.is_lasting() {
        LASTING_RETRY
    } else {
        RETRY
    })
}

async fn reconcile(package: Arc<Package>, context: Arc<Context>) -> Result<Action, Error> {
    if package.metadata.deletion_timestamp.is_some() || !context.listed.clone().await {
        return Ok(Action::await_change());
    }
    let environment = context.environment(&package);
    match decide(&package, environment.as_deref()) {
        Step::Nothing => Ok(Action::await_change()),
        Step::Build { .. } => Box::pin(context.look_again_and_build(&package)).await,
        step => context.settle(&package, step).await,
    }
}

impl Context {
    fn environment(&self, package: &Package) -> Option<Arc<Environment>> {
        let name = &package.spec.environment.name;
        let namespace = package.namespace().unwrap_or_default();
        self.environments
            .get(&ObjectRef::new(name).within(&namespace))
    }

    async fn settle(&self, package: &Package, step: Step) -> Result<Action, Error> {
        match step {
            Step::Settle(settled) => {
                let log = if settled.build_status == build_status::FAILED {
                    format!("{}\n", settled.reason.message)
                } else {
                    known_log(package)
                };
                let report = Report {
                    build_status: settled.build_status,
                    log,
                    hash: Some(settled.hash),
                    reason: settled.reason,
                };
                status::write(&self.client, package, &report).await?;
                Ok(Action::await_change())
            }
            Step::Wait(reason) => self.wait(package, reason).await,
            Step::Nothing | Step::Build { .. } => Ok(Action::await_change()),
        }
    }

    /// Says that a package waits, and for what.
    async fn wait(&self, package: &Package, reason: Reason) -> Result<Action, Error> {
        let report = Report {
            build_status: build_status::PENDING,
            log: format!("{}\n", reason.message),
            hash: None,
            reason,
        };
        status::write(&self.client, package, &report).await?;
        Ok(Action::requeue(RECHECK))
    }

    /// What we know may be older than what we wrote ourselves: a build that is done must not be
    /// begun again for it.
    async fn look_again_and_build(&self, package: &Package) -> Result<Action, Error> {
        let name = package.name_any();
        let namespace = package.namespace().unwrap_or_default();
        let api = Api::<Package>::namespaced(self.client.clone(), &namespace);
        let fresh = api.get_opt(&name).await;
        let Some(fresh) = fresh.map_err(Error::api("read package", &name))? else {
            return Ok(Action::await_change());
        };
        let environment = self.environment(&fresh);
        match (decide(&fresh, environment.as_deref()), environment) {
            (Step::Build { hash }, Some(environment)) => {
                self.build(&fresh, &environment, hash).await
            }
            (step, _) => self.settle(&fresh, step).await,
        }
    }

    async fn build(
        &self,
        package: &Package,
        environment: &Environment,
        hash: String,
    ) -> Result<Action, Error> {
        if let Some(pause) = self.pause(package, &hash) {
            return Ok(Action::requeue(pause));
        }
        let name = environment.name_any();
        if let Err(refused) = objects::builder(environment, &self.settings) {
            let message = format!("environment {name} has no builder: {refused}");
            return self
                .fail(package, &hash, String::new(), "BuilderRefused", message)
                .await;
        }
        let builder = (self.place)(environment);
        if let Builder::NotReady(trouble) = &builder {
            let message = format!("the builder of environment {name} is not ready: {trouble}");
            return self
                .wait(package, Reason::new("BuilderNotReady", message))
                .await;
        }
        let turns = self.turns(package);
        if turns.available_permits() == 0 {
            let message = "other builds of the namespace come first";
            self.wait(package, Reason::new("BuildQueued", message))
                .await?;
        }
        let Ok(_turn) = turns.acquire_owned().await else {
            return Ok(Action::await_change());
        };
        let Some(build) = Build::new(&self.settings, package, environment, &builder) else {
            return Ok(Action::requeue(RECHECK));
        };
        let running = Report {
            build_status: build_status::RUNNING,
            log: String::new(),
            hash: None,
            reason: Reason::new("BuildRunning", "the build command runs"),
        };
        status::write(&self.client, package, &running).await?;
        tracing::info!(
            package = package.name_any(),
            namespace = package.namespace(),
            "build begins"
        );
        let ended = tokio::select! {
            ended = build.run() => Some(ended),
            () = self.superseded(package, &hash) => None,
        };
        build.clean().await;
        let Some((log, result)) = ended else {
            tracing::info!(
                package = package.name_any(),
                "build stopped: its content changed"
            );
            return Ok(Action::requeue(Duration::ZERO));
        };
        // What was written meanwhile is ours: the digest keeps what others changed apart.
        match result {
            Ok(built) => {
                status::deploy(&self.client, package, &built).await?;
                self.succeed(package, hash, log).await
            }
            Err(error) => self.broke(package, hash, log, error).await,
        }
    }

    fn turns(&self, package: &Package) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let namespace = package.namespace().unwrap_or_default();
        let limit = usize::from(self.settings.concurrency.max(1));
        let turns = turns
            .entry(namespace)
            .or_insert_with(|| Arc::new(Semaphore::new(limit)));
        Arc::clone(turns)
    }

    /// Ends when the package is gone or to be built from something else.
    async fn superseded(&self, package: &Package, hash: &str) {
        let mut changes = self.changes.subscribe();
        let of = ObjectRef::from_obj(package);
        loop {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
            let Some(now) = self.packages.get(&of) else {
                return;
            };
            let environment = self.environment(&now);
            if now.uid() != package.uid()
                || content::hash(&now.spec, environment.as_deref()) != hash
            {
                return;
            }
        }
    }

    async fn succeed(&self, package: &Package, hash: String, log: String) -> Result<Action, Error> {
        self.forget(package);
        let report = Report {
            build_status: build_status::SUCCEEDED,
            log,
            hash: Some(hash),
            reason: Reason::new("BuildSucceeded", "built"),
        };
        self.write_ended(package, &report).await?;
        tracing::info!(package = package.name_any(), "build succeeded");
        Ok(Action::await_change())
    }

    async fn broke(
        &self,
        package: &Package,
        hash: String,
        log: String,
        error: BuildError,
    ) -> Result<Action, Error> {
        let attempts = self.count(package, &hash);
        if error.is_passing() && attempts < ATTEMPTS {
            let message = format!("attempt {attempts} of {ATTEMPTS}: {error}");
            let pending = Report {
                build_status: build_status::PENDING,
                log: format!("{message}\n"),
                hash: None,
                reason: Reason::new("BuilderBroke", message),
            };
            self.write_ended(package, &pending).await?;
            return Ok(Action::requeue(PAUSE));
        }
        self.fail(package, &hash, log, "BuildFailed", error.to_string())
            .await
    }

    async fn fail(
        &self,
        package: &Package,
        hash: &str,
        mut log: String,
        reason: &'static str,
        message: String,
    ) -> Result<Action, Error> {
        self.forget(package);
        if !log.trim_end().ends_with(&message) {
            if !log.is_empty() && !log.ends_with('\n') {
                log.push('\n');
            }
            log.push_str(&message);
            log.push('\n');
        }
        tracing::warn!(package = package.name_any(), message, "build failed");
        let report = Report {
            build_status: build_status::FAILED,
            log,
            hash: Some(hash.to_owned()),
            reason: Reason::new(reason, message),
        };
        self.write_ended(package, &report).await?;
        Ok(Action::await_change())
    }

    /// Writes upon the status as it is after `running` was written.
    async fn write_ended(&self, package: &Package, report: &Report) -> Result<(), Error> {
        let name = package.name_any();
        let namespace = package.namespace().unwrap_or_default();
        let api = Api::<Package>::namespaced(self.client.clone(), &namespace);
        let fresh = api.get_opt(&name).await;
        match fresh.map_err(Error::api("read package", &name))? {
            Some(fresh) if fresh.uid() == package.uid() => {
                status::write(&self.client, &fresh, report).await
            }
            _ => Ok(()),
        }
    }

    /// Counts an attempt that broke; says how many there were.
    fn count(&self, package: &Package, hash: &str) -> u32 {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = package.uid().unwrap_or_default();
        let before = broken.get(&uid).filter(|before| before.hash == hash);
        let attempts = before.map_or(0, |before| before.attempts) + 1;
        let entry = Broken {
            hash: hash.to_owned(),
            attempts,
            next: Instant::now() + PAUSE * 2_u32.pow(attempts - 1),
        };
        broken.insert(uid, entry);
        attempts
    }

    /// How long the next attempt has to wait.
    fn pause(&self, package: &Package, hash: &str) -> Option<Duration> {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        let before = broken.get(&package.uid().unwrap_or_default())?;
        let left = before.next.saturating_duration_since(Instant::now());
        (before.hash == hash && !left.is_zero()).then_some(left)
    }

    fn forget(&self, package: &Package) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.remove(&package.uid().unwrap_or_default());
    }
}

fn known_log(package: &Package) -> String {
    let status = package.status.as_ref();
    status.map_or_else(String::new, |status| status.build_log.clone())
}
