//! Functions, their versions and aliases, and the instances seen of each: kept as the world says.

use std::collections::HashMap;
use std::sync::Arc;

use farplane_functions_types::{FunctionAlias, FunctionReference};
use kube::ResourceExt as _;

use crate::executor::Executor;
use crate::state::{Meta, Slot};

/// What a call names is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The function.
    #[error("there is no function {namespace}/{name}")]
    Function {
        /// Namespace that was looked in.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A version or an alias of it.
    #[error("function {namespace}/{name} has no version or alias {label}")]
    Label {
        /// Namespace that was looked in.
        namespace: String,
        /// The function's name.
        name: String,
        /// What was asked for.
        label: String,
    },
    /// All weights are 0.
    #[error("no function has a weight above 0")]
    Weights,
}

/// A name for versions of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Alias {
    function: String,
    version: String,
    /// Another version, and the percent of calls that go to the first.
    other: Option<(String, u64)>,
}

impl Alias {
    fn of(alias: &FunctionAlias) -> Self {
        let resolved = alias.status.as_ref().map(|status| &status.resolved_version);
        let version = if alias.spec.version.is_empty() {
            resolved.cloned().unwrap_or_default()
        } else {
            alias.spec.version.clone()
        };
        let secondary = &alias.spec.secondary_version;
        let weight = alias.spec.weight.unwrap_or(100).clamp(0, 100);
        let other = (!secondary.is_empty())
            .then(|| (secondary.clone(), u64::try_from(weight).unwrap_or(100)));
        Self {
            function: alias.spec.function_name.clone(),
            version,
            other,
        }
    }

    fn pick(&self, roll: u64) -> &str {
        match &self.other {
            Some((other, percent)) if roll % 100 >= *percent => other,
            _ => &self.version,
        }
    }
}

/// By namespace and name.
type Names<T> = HashMap<String, HashMap<String, T>>;

/// All of them.
pub struct Functions {
    live: Names<Arc<Slot>>,
    versions: Names<Arc<Slot>>,
    aliases: Names<Alias>,
    /// By UID of the function, and version.
    by_id: HashMap<(String, String), Arc<Slot>>,
    /// Instances that were seen before their function was in this state: generation and address.
    early: HashMap<(String, String), Vec<(i64, String)>>,
    executor: Arc<Executor>,
}

fn get<'a, T>(names: &'a Names<T>, namespace: &str, name: &str) -> Option<&'a T> {
    names.get(namespace)?.get(name)
}

impl Functions {
    /// None yet.
    pub fn new(executor: Arc<Executor>) -> Self {
        Self {
            live: HashMap::new(),
            versions: HashMap::new(),
            aliases: HashMap::new(),
            by_id: HashMap::new(),
            early: HashMap::new(),
            executor,
        }
    }

    /// The live function of this name.
    pub fn live(&self, namespace: &str, name: &str) -> Option<&Arc<Slot>> {
        get(&self.live, namespace, name)
    }

    /// What a reference means; `roll` is any number, each as likely as the other.
    ///
    /// # Errors
    /// What of it is not there.
    pub fn resolve(
        &self,
        namespace: &str,
        reference: &FunctionReference,
        roll: impl Fn() -> u64,
    ) -> Result<Arc<Slot>, Missing> {
        if reference.kind != "function-weights" {
            let label = if reference.version.is_empty() {
                &reference.alias
            } else {
                &reference.version
            };
            return self.labelled(namespace, &reference.name, label, roll);
        }
        let weights = || {
            let all = reference.function_weights.iter();
            all.filter_map(|(name, weight)| Some((name, u64::try_from(*weight).ok()?)))
        };
        let total: u64 = weights().map(|(_, weight)| weight).sum();
        let mut drawn = roll().checked_rem(total).ok_or(Missing::Weights)?;
        for (name, weight) in weights() {
            if drawn < weight {
                return self.labelled(namespace, name, "", roll);
            }
            drawn -= weight;
        }
        Err(Missing::Weights)
    }

    /// A function, or with a label one of its versions or what an alias leads to.
    ///
    /// # Errors
    /// What of it is not there.
    pub fn labelled(
        &self,
        namespace: &str,
        name: &str,
        label: &str,
        roll: impl Fn() -> u64,
    ) -> Result<Arc<Slot>, Missing> {
        if label.is_empty() {
            let live = self.live(namespace, name).cloned();
            return live.ok_or_else(|| Missing::Function {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            });
        }
        let alias = get(&self.aliases, namespace, label).filter(|alias| alias.function == name);
        let version = alias.map_or(label, |alias| alias.pick(roll()));
        get(&self.versions, namespace, version)
            .filter(|slot| slot.meta().key.name == name)
            .cloned()
            .ok_or_else(|| Missing::Label {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                label: label.to_owned(),
            })
    }

    /// A function or a version is new or has changed.
    pub fn put(&mut self, meta: Meta) {
        let (key, generation) = (meta.key.clone(), meta.key.generation);
        let id = (key.uid, key.version.clone());
        let slot = if let Some(slot) = self.by_id.get(&id).cloned() {
            slot.change(meta);
            slot
        } else {
            let slot = Slot::new(meta, self.executor.clone());
            let (names, name) = if key.version.is_empty() {
                (&mut self.live, key.name)
            } else {
                (&mut self.versions, key.version)
            };
            let names = names.entry(key.namespace).or_default();
            // One of the same name that was deleted meanwhile goes.
            let old = names.insert(name, slot.clone());
            if let Some(old) = old {
                self.forget(&old);
            }
            self.by_id.insert(id.clone(), slot.clone());
            slot
        };
        let seen = self.early.remove(&id).unwrap_or_default();
        for (of, address) in seen {
            if of == generation {
                slot.add_instance(&address);
            } else if of > generation {
                self.early
                    .entry(id.clone())
                    .or_default()
                    .push((of, address));
            }
        }
    }

    /// A function was deleted.
    pub fn remove_live(&mut self, namespace: &str, name: &str) {
        let names = self.live.get_mut(namespace);
        if let Some(slot) = names.and_then(|names| names.remove(name)) {
            self.forget(&slot);
        }
    }

    /// A version was deleted.
    pub fn remove_version(&mut self, namespace: &str, name: &str) {
        let names = self.versions.get_mut(namespace);
        if let Some(slot) = names.and_then(|names| names.remove(name)) {
            self.forget(&slot);
        }
    }

    fn forget(&mut self, slot: &Slot) {
        let key = slot.meta().key.clone();
        self.by_id.remove(&(key.uid, key.version));
        slot.close();
    }

    /// An alias is new or has changed.
    pub fn put_alias(&mut self, alias: &FunctionAlias) {
        let names = self.aliases.entry(alias.namespace().unwrap_or_default());
        names
            .or_default()
            .insert(alias.name_any(), Alias::of(alias));
    }

    /// An alias was deleted.
    pub fn remove_alias(&mut self, namespace: &str, name: &str) {
        if let Some(names) = self.aliases.get_mut(namespace) {
            names.remove(name);
        }
    }

    /// An instance was seen.
    pub fn put_instance(&mut self, uid: String, version: String, generation: i64, address: String) {
        let id = (uid, version);
        let slot = self.by_id.get(&id);
        let known = slot.map(|slot| slot.meta().key.generation);
        match slot {
            // Not all executors write the generation.
            Some(slot) if known == Some(generation) || generation == 0 => {
                slot.add_instance(&address);
            }
            Some(_) if known > Some(generation) => {}
            // Its function, or this state of it, is told soon.
            _ => {
                let list = self.early.entry(id).or_default();
                list.retain(|(_, other)| *other != address);
                list.push((generation, address));
            }
        }
    }

    /// An instance is gone.
    pub fn remove_instance(&mut self, address: &str) {
        for slot in self.by_id.values() {
            slot.remove_instance(address);
        }
        self.early.retain(|_, list| {
            list.retain(|(_, other)| other != address);
            !list.is_empty()
        });
    }

    /// All functions and versions.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.by_id.values()
    }
}
