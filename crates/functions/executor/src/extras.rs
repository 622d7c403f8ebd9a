//! Pods beside the pools: for callers that wait, and kept ready after a burst.
//!
//! A Deployment replaces a Pod as soon as it is taken. While callers wait this takes the
//! processors from the Pods that they wait for, and no Deployment can be told to make so many just
//! once. So what is missing is made here, Pod by Pod: nobody replaces them. They are like those of
//! the pool in all else, and one that nobody takes is ended.
//!
//! How many are missing, and which are to end, says the state ([`State::missing`],
//! [`State::reserve_missing`], [`State::shed`]).
//!
//! [`State::missing`]: crate::state::State::missing
//! [`State::reserve_missing`]: crate::state::State::reserve_missing
//! [`State::shed`]: crate::state::State::shed

use std::sync::Arc;
use std::time::Instant;

use farplane_functions_types::Environment;
use farplane_functions_types::names::label;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::objects::FIELD_MANAGER;
use crate::pod::PoolTemplate;
use crate::pools::owner;
use crate::state::PodView;

/// Such a Pod, as JSON. `pool` is the name of the pool that it could be of.
pub(crate) fn pod(environment: &Environment, pool: &str, template: &PoolTemplate) -> Value {
    let mut labels = template.labels.clone();
    // The pool's Deployment would take it for one of its own.
    labels.remove(label::POOL);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": format!("{pool}-"),
            "labels": labels,
            "annotations": template.template["metadata"]["annotations"],
            "ownerReferences": [owner(environment)],
        },
        "spec": template.template["spec"],
    })
}

/// Makes so many of them at once, and tells the state before the watch does: none is made twice.
///
/// # Errors
/// When one of them could not be made.
pub(crate) async fn make(
    engine: &Arc<Engine>,
    namespace: &str,
    pod: Value,
    count: usize,
) -> Result<(), kube::Error> {
    let pod: Pod = serde_json::from_value(pod).map_err(kube::Error::SerdeError)?;
    let api = Api::<Pod>::namespaced(engine.client.clone(), namespace);
    let parameters = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let made = join_all((0..count).map(|_| api.create(&parameters, &pod))).await;
    let mut outcome = Ok(());
    for one in made {
        match one {
            Ok(made) => {
                tracing::info!(namespace, pod = made.metadata.name, "Pod beside the pool");
                let effects = engine.state().observe(PodView::read(&made), Instant::now());
                engine.run(effects);
            }
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{self, Platform};

    #[test]
    fn it_is_like_a_pod_of_the_pool_but_no_deployment_counts_it() {
        let mut environment = Environment::new("python", Default::default());
        environment.metadata.namespace = Some("demo".to_owned());
        environment.metadata.uid = Some("u1".to_owned());
        environment.spec.runtime.image = "python-env".to_owned();
        let template = pod::pool(&environment, &Platform::default()).unwrap();
        let made: Pod = serde_json::from_value(pod(&environment, "pool", &template)).unwrap();
        let labels = made.metadata.labels.clone().unwrap();
        let selector = template.labels.iter();
        assert!(
            selector
                .clone()
                .any(|(name, value)| labels.get(name).map(String::as_str) != value.as_str()),
            "a Deployment's selector finds it"
        );
        assert_eq!(labels.len(), selector.len() - 1);
        assert_eq!(
            serde_json::to_value(made.spec.as_ref().unwrap()).unwrap()["containers"][0]["image"],
            "python-env"
        );
        let view = PodView::read(&made);
        assert!(view.labels.is_none() && !view.pooled);
        assert_eq!(view.environment, "u1");
        let owners = made.metadata.owner_references.unwrap();
        assert_eq!((owners.len(), owners[0].uid.as_str()), (1, "u1"));
    }
}
