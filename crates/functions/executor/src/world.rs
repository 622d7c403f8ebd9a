//! Objects of users, watched, and what functions are made of now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farplane_functions_types::wire::FunctionKey;
use farplane_functions_types::{Environment, ExecutorType, Function, FunctionVersion, Package};
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::failed::Failed;
use crate::objects::Watched;
use crate::revision::{Parts, Revision, resolve, strip_package};

/// A caller may know of an object before our watch tells it.
const LAG: Duration = Duration::from_secs(1);

/// Objects of users.
pub(crate) struct World {
    pub environments: Watched<Environment>,
    pub functions: Watched<Function>,
    pub versions: Watched<FunctionVersion>,
    pub packages: Watched<Package>,
    storage_url: String,
    known: Mutex<Known>,
}

/// Resource versions of what a revision was put together from.
type Versions = [Option<String>; 4];
/// Last outcomes, by UID of the function and name of the version.
type Known = HashMap<(String, String), (Versions, Arc<Revision>)>;

impl World {
    pub fn start(client: &Client, storage_url: &str, tasks: &mut JoinSet<()>) -> Self {
        Self {
            environments: Watched::start(client, tasks),
            functions: Watched::start(client, tasks),
            versions: Watched::start(client, tasks),
            packages: Watched::start_with(client, watcher::Config::default(), tasks, strip_package),
            storage_url: storage_url.to_owned(),
            known: Mutex::default(),
        }
    }

    /// Returns once everything is known.
    pub async fn ready(&self) {
        self.environments.ready().await;
        self.functions.ready().await;
        self.versions.ready().await;
        self.packages.ready().await;
    }

    /// What a function is now. Waits for watches that are behind the caller.
    pub async fn find(&self, key: &FunctionKey) -> Result<Arc<Revision>, Failed> {
        let until = Instant::now() + LAG;
        let (mut functions, mut versions) = (self.functions.clone(), self.versions.clone());
        let (mut packages, mut environments) = (self.packages.clone(), self.environments.clone());
        loop {
            let found = self.functions.get(&key.namespace, &key.name);
            let version = self.versions.get(&key.namespace, &key.version);
            let there = key.version.is_empty() || version.is_some();
            if let Some(function) = &found
                && function.metadata.generation.unwrap_or(0) >= key.generation
                && (key.uid.is_empty() || function.uid().as_ref() == Some(&key.uid))
                && there
                && self.is_complete(function, version.as_deref())
            {
                return self.resolve(function, version.as_deref());
            }
            let changed = async {
                tokio::select! {
                    () = functions.changed() => {}
                    () = versions.changed() => {}
                    () = packages.changed() => {}
                    () = environments.changed() => {}
                }
            };
            if timeout_at(until, changed).await.is_ok() {
                continue;
            }
            return match found {
                Some(function) if there => self.resolve(&function, version.as_deref()),
                Some(_) => Err(missing(format!(
                    "version {}/{}",
                    key.namespace, key.version
                ))),
                None => Err(missing(format!("function {}/{}", key.namespace, key.name))),
            };
        }
    }

    /// True when the objects that a function names are known.
    fn is_complete(&self, function: &Function, version: Option<&FunctionVersion>) -> bool {
        let spec = version.map_or(&function.spec, |version| &version.spec.snapshot);
        let namespace = function.namespace().unwrap_or_default();
        let package = &spec.package.package_ref.name;
        spec.executor_type() == ExecutorType::Container
            || (self.packages.get(&namespace, package).is_some()
                && self
                    .environments
                    .get(&namespace, &spec.environment.name)
                    .is_some())
    }

    /// What a function is now, as far as the watches say.
    pub fn current(&self, key: &FunctionKey) -> Result<Arc<Revision>, Failed> {
        let function = self
            .functions
            .get(&key.namespace, &key.name)
            .filter(|function| function.uid().as_ref() == Some(&key.uid))
            .ok_or_else(|| missing(format!("function {}/{}", key.namespace, key.name)))?;
        if key.version.is_empty() {
            return self.resolve(&function, None);
        }
        let version = self
            .versions
            .get(&key.namespace, &key.version)
            .ok_or_else(|| missing(format!("version {}/{}", key.namespace, key.version)))?;
        self.resolve(&function, Some(&version))
    }

    /// Puts a function's objects together, or takes the last outcome when none has changed.
    pub fn resolve(
        &self,
        function: &Function,
        version: Option<&FunctionVersion>,
    ) -> Result<Arc<Revision>, Failed> {
        let namespace = function.namespace().unwrap_or_default();
        let spec = version.map_or(&function.spec, |version| &version.spec.snapshot);
        let environment = self.environments.get(&namespace, &spec.environment.name);
        let package = self
            .packages
            .get(&namespace, &spec.package.package_ref.name);
        let versions = [
            function.resource_version(),
            version.and_then(|version| version.resource_version()),
            environment.as_ref().and_then(|one| one.resource_version()),
            package.as_ref().and_then(|one| one.resource_version()),
        ];
        let name = version
            .map(|version| version.name_any())
            .unwrap_or_default();
        let slot = (function.uid().unwrap_or_default(), name.clone());
        if let Some((of, revision)) = self.known().get(&slot)
            && *of == versions
        {
            return Ok(revision.clone());
        }
        let revision = Arc::new(resolve(&Parts {
            function,
            spec,
            version: &name,
            environment: environment.as_deref(),
            package: package.as_deref(),
            storage_url: &self.storage_url,
        })?);
        self.known().insert(slot, (versions, revision.clone()));
        Ok(revision)
    }

    /// Forgets functions that are gone.
    pub fn tidy(&self) {
        let uids: std::collections::HashSet<String> = self
            .functions
            .all()
            .iter()
            .filter_map(|function| function.uid())
            .collect();
        self.known().retain(|(uid, _), _| uids.contains(uid));
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing(what: String) -> Failed {
    Failed::new(
        http::StatusCode::NOT_FOUND,
        "executor",
        format!("{what} does not exist"),
    )
}
