//! Where the weights of a canary are: an HTTPTrigger, or a FunctionAlias.

use farplane_functions_types::{CanaryConfig, FunctionAlias, FunctionVersion, HTTPTrigger};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::canary::metrics::Which;

/// Why there is no place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PlaceError {
    /// It may come.
    Wait(String),
    /// It will not do.
    Unfit(String),
}

/// Where the weights are.
#[derive(Debug)]
pub(crate) enum Place {
    Trigger(Box<HTTPTrigger>),
    Alias(Box<FunctionAlias>),
}

/// The HTTPTrigger that a canary names, the alias that it calls, or the alias of that name.
pub(crate) async fn find(client: &Client, canary: &CanaryConfig) -> Result<Place, PlaceError> {
    let namespace = canary.namespace().unwrap_or_default();
    let name = &canary.spec.trigger;
    let triggers = Api::<HTTPTrigger>::namespaced(client.clone(), &namespace);
    let trigger = triggers
        .get_opt(name)
        .await
        .map_err(|error| PlaceError::Wait(format!("HTTPTrigger {name}: {error}")))?;
    let alias_name = match trigger {
        Some(trigger) if trigger.spec.function_ref.kind == "function-weights" => {
            return Ok(Place::Trigger(Box::new(trigger)));
        }
        Some(trigger) if !trigger.spec.function_ref.alias.is_empty() => {
            trigger.spec.function_ref.alias
        }
        Some(_) => {
            let message = format!(
                "HTTPTrigger {name} has neither weights nor an alias; give it functionref type function-weights"
            );
            return Err(PlaceError::Wait(message));
        }
        None => name.clone(),
    };
    let aliases = Api::<FunctionAlias>::namespaced(client.clone(), &namespace);
    let alias = aliases
        .get_opt(&alias_name)
        .await
        .map_err(|error| PlaceError::Wait(format!("FunctionAlias {alias_name}: {error}")))?;
    let Some(alias) = alias else {
        let message = format!("there is no HTTPTrigger {name} and no FunctionAlias {alias_name}");
        return Err(PlaceError::Wait(message));
    };
    fits(&alias, canary)?;
    let versions = Api::<FunctionVersion>::namespaced(client.clone(), &namespace);
    for name in [&canary.spec.new_function, &canary.spec.old_function] {
        let version = versions
            .get_opt(name)
            .await
            .map_err(|error| PlaceError::Wait(format!("FunctionVersion {name}: {error}")))?;
        let of = version.map(|version| version.spec.function_name);
        if of.as_ref() != Some(&alias.spec.function_name) {
            let function = &alias.spec.function_name;
            let message = format!("FunctionVersion {name} of function {function} does not exist");
            return Err(PlaceError::Unfit(message));
        }
    }
    Ok(Place::Alias(Box::new(alias)))
}

/// Whether a canary may move an alias.
fn fits(alias: &FunctionAlias, canary: &CanaryConfig) -> Result<(), PlaceError> {
    let (spec, name) = (&alias.spec, alias.name_any());
    if !spec.package_digest.is_empty() {
        let message = format!("FunctionAlias {name} names a digest; a canary needs a version");
        return Err(PlaceError::Unfit(message));
    }
    let at_old = spec.version == canary.spec.old_function;
    let at_new = spec.version == canary.spec.new_function && spec.secondary_version.is_empty();
    if !at_old && !at_new {
        let message = format!(
            "FunctionAlias {name} leads to {}, not to {}",
            spec.version, canary.spec.old_function
        );
        return Err(PlaceError::Unfit(message));
    }
    Ok(())
}

impl Place {
    /// Whose calls tell how the new one does.
    pub fn counted(&self, canary: &CanaryConfig) -> Which {
        let namespace = canary.namespace().unwrap_or_default();
        let new = canary.spec.new_function.clone();
        match self {
            Self::Trigger(_) => Which {
                namespace,
                function: new,
                version: None,
            },
            Self::Alias(alias) => Which {
                namespace,
                function: alias.spec.function_name.clone(),
                version: Some(new),
            },
        }
    }

    /// Percent of calls that go to the new one.
    pub fn weight(&self, new: &str) -> i64 {
        match self {
            Self::Trigger(trigger) => {
                let weights = &trigger.spec.function_ref.function_weights;
                weights.get(new).copied().unwrap_or(0)
            }
            Self::Alias(alias) => {
                let spec = &alias.spec;
                if spec.version == new {
                    100
                } else if spec.secondary_version == new {
                    100 - spec.weight.unwrap_or(100)
                } else {
                    0
                }
            }
        }
    }

    /// Gives the new one this share.
    pub async fn step(
        &self,
        client: &Client,
        canary: &CanaryConfig,
        to: i64,
    ) -> Result<(), String> {
        self.patch(client, self.stepped(canary, to)).await
    }

    /// Gives the old one all.
    pub async fn roll_back(&self, client: &Client, canary: &CanaryConfig) -> Result<(), String> {
        self.patch(client, self.ended(canary, false)).await
    }

    /// Gives the new one all, for good.
    pub async fn finish(&self, client: &Client, canary: &CanaryConfig) -> Result<(), String> {
        self.patch(client, self.ended(canary, true)).await
    }

    fn stepped(&self, canary: &CanaryConfig, to: i64) -> Value {
        let (new, old) = (&canary.spec.new_function, &canary.spec.old_function);
        match self {
            Self::Trigger(_) => {
                let weights = json!({ new: to, old: 100 - to });
                json!({ "functionref": { "functionweights": weights } })
            }
            Self::Alias(_) => {
                json!({ "version": old, "weight": 100 - to, "secondaryVersion": new })
            }
        }
    }

    fn ended(&self, canary: &CanaryConfig, to_new: bool) -> Value {
        let (new, old) = (&canary.spec.new_function, &canary.spec.old_function);
        match self {
            Self::Trigger(_) => self.stepped(canary, if to_new { 100 } else { 0 }),
            Self::Alias(_) => {
                let version = if to_new { new } else { old };
                json!({ "version": version, "weight": null, "secondaryVersion": null })
            }
        }
    }

    /// With the resource version, so that a change of somebody else is not lost.
    async fn patch(&self, client: &Client, spec: Value) -> Result<(), String> {
        let parameters = PatchParams::default();
        let body = |version: Option<String>| {
            Patch::Merge(json!({ "metadata": { "resourceVersion": version }, "spec": spec }))
        };
        let written = match self {
            Self::Trigger(trigger) => {
                let namespace = trigger.namespace().unwrap_or_default();
                let api = Api::<HTTPTrigger>::namespaced(client.clone(), &namespace);
                let body = body(trigger.resource_version());
                let written = api.patch(&trigger.name_any(), &parameters, &body).await;
                written.map(drop)
            }
            Self::Alias(alias) => {
                let namespace = alias.namespace().unwrap_or_default();
                let api = Api::<FunctionAlias>::namespaced(client.clone(), &namespace);
                let body = body(alias.resource_version());
                let written = api.patch(&alias.name_any(), &parameters, &body).await;
                written.map(drop)
            }
        };
        written.map_err(|error| format!("the weights could not be changed: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canary() -> CanaryConfig {
        let object = json!({
            "apiVersion": "fission.io/v1", "kind": "CanaryConfig",
            "metadata": { "namespace": "ns", "name": "c" },
            "spec": { "trigger": "t", "newfunction": "f-v2", "oldfunction": "f-v1" },
        });
        serde_json::from_value(object).unwrap()
    }

    fn alias(spec: Value) -> FunctionAlias {
        let mut spec = spec;
        spec["functionName"] = json!("f");
        let object = json!({
            "apiVersion": "fission.io/v1", "kind": "FunctionAlias",
            "metadata": { "namespace": "ns", "name": "prod" }, "spec": spec,
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn an_alias_has_the_new_one_second_until_the_end() {
        let weight = |spec| Place::Alias(Box::new(alias(spec))).weight("f-v2");
        assert_eq!(weight(json!({ "version": "f-v1" })), 0);
        let shared = json!({ "version": "f-v1", "weight": 70, "secondaryVersion": "f-v2" });
        assert_eq!(weight(shared.clone()), 30);
        assert_eq!(weight(json!({ "version": "f-v2" })), 100);
        let place = Place::Alias(Box::new(alias(shared)));
        assert_eq!(
            place.stepped(&canary(), 40),
            json!({ "version": "f-v1", "weight": 60, "secondaryVersion": "f-v2" })
        );
        assert_eq!(place.ended(&canary(), true)["version"], "f-v2");
        assert_eq!(place.ended(&canary(), false)["version"], "f-v1");
        assert_eq!(place.ended(&canary(), false)["weight"], Value::Null);
        let which = place.counted(&canary());
        assert_eq!(
            (which.function.as_str(), which.version.as_deref()),
            ("f", Some("f-v2"))
        );
    }

    #[test]
    fn an_alias_that_leads_elsewhere_is_left_alone() {
        let fits = |spec| fits(&alias(spec), &canary()).is_ok();
        assert!(fits(json!({ "version": "f-v1" })));
        assert!(fits(json!({ "version": "f-v2" })));
        assert!(!fits(json!({ "version": "f-v3" })));
        assert!(!fits(json!({ "packageDigest": "sha256:00" })));
    }
}
