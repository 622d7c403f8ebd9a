//! Labels, annotations, headers, ports and names of objects that the parts and other tools
//! look for. They are part of Fission's contract unless they say `farplane`.

use sha2::{Digest, Sha256};

/// Group of every kind.
pub const GROUP: &str = "fission.io";
/// Version of every kind.
pub const VERSION: &str = "v1";
/// Namespace of the platform when nothing else is said.
pub const NAMESPACE: &str = "fission";
/// Secret with the master secret under `secret`.
pub const AUTH_SECRET: &str = "fission-internal-auth";
/// Secret of a tenant's namespace with `fetcherKey`, `builderKey` and `storageKey`.
pub const AUTH_KEYS_SECRET: &str = "fission-internal-auth-keys";
/// ServiceAccount of Pods with instances.
pub const FETCHER_ACCOUNT: &str = "fission-fetcher";
/// ServiceAccount of builder Pods.
pub const BUILDER_ACCOUNT: &str = "fission-builder";

/// Ports.
pub mod port {
    /// Runtimes, and the router's public listener.
    pub const RUNTIME: u16 = 8888;
    /// The router's internal listener.
    pub const ROUTER_INTERNAL: u16 = 8889;
    /// The executor.
    pub const EXECUTOR: u16 = 8888;
    /// Fetchers, and storage.
    pub const FETCHER: u16 = 8000;
    /// Storage.
    pub const STORAGE: u16 = 8000;
    /// Builders.
    pub const BUILDER: u16 = 8001;
    /// Metrics and probes of every part.
    pub const METRICS: u16 = 8080;
}

/// Labels.
pub mod label {
    /// Which Deployment of the platform a Pod is of.
    pub const SERVICE: &str = "svc";
    /// `fission-router`, `fission-storage`.
    pub const APPLICATION: &str = "application";
    /// Name of the environment.
    pub const ENVIRONMENT_NAME: &str = "environmentName";
    /// Namespace of the environment.
    pub const ENVIRONMENT_NAMESPACE: &str = "environmentNamespace";
    /// UID of the environment.
    pub const ENVIRONMENT_UID: &str = "environmentUid";
    /// Name of the function.
    pub const FUNCTION_NAME: &str = "functionName";
    /// Namespace of the function.
    pub const FUNCTION_NAMESPACE: &str = "functionNamespace";
    /// UID of the function.
    pub const FUNCTION_UID: &str = "functionUid";
    /// Generation of the function that an instance was made from.
    pub const FUNCTION_GENERATION: &str = "fission.io/function-generation";
    /// Version of the function, when one was called.
    pub const FUNCTION_VERSION: &str = "fission.io/function-version";
    /// `poolmgr`, `newdeploy`, `container`.
    pub const EXECUTOR_TYPE: &str = "executorType";
    /// `true` while a Pod is in its pool, `false` once it is an instance.
    pub const MANAGED: &str = "managed";
    /// Tells apart the pools of an environment's templates; on Pods of a pool's Deployment.
    pub const POOL: &str = "farplane.io/pool";
    /// `true` once an instance has its code.
    pub const SERVED: &str = "fission.io/served";
    /// `true` for instances made before they are called.
    pub const PROVISIONED: &str = "fission.io/provisioned";
    /// Name of the trigger of an Ingress or HTTPRoute.
    pub const TRIGGER_NAME: &str = "triggerName";
    /// Its namespace.
    pub const TRIGGER_NAMESPACE: &str = "triggerNamespace";
    /// Its UID.
    pub const EXPOSES: &str = "farplane.io/exposes";
    /// `fission` on Services of functions.
    pub const MANAGED_BY: &str = "fission.io/managed-by";
}

/// Annotations.
pub mod annotation {
    /// Which executor made an object; changed when another adopts it.
    pub const EXECUTOR_INSTANCE: &str = "executorInstanceId";
    /// Hash of an environment's Pod template.
    pub const RUNTIME_HASH: &str = "fission.io/env-runtime-hash";
    /// What an instance's code is made of: digest over package, references and entry point.
    pub const CODE_HASH: &str = "farplane.io/code-hash";
    /// `UID` of a spec's deployment.
    pub const SPEC_UID: &str = "fission-uid";
    /// Name of a spec's deployment.
    pub const SPEC_NAME: &str = "fission-name";
}

/// Headers.
pub mod header {
    /// Part that an error is from.
    pub const COMPONENT: &str = "x-fission-component";
    /// Id of a request.
    pub const REQUEST_ID: &str = "x-fission-request-id";
    /// URL as the client wrote it.
    pub const FULL_URL: &str = "x-fission-full-url";
    /// Prefix of headers with variables of the path.
    pub const PARAMS: &str = "x-fission-params-";
    /// UID of the function.
    pub const FUNCTION_UID: &str = "x-fission-function-uid";
    /// Name of the function.
    pub const FUNCTION_NAME: &str = "x-fission-function-name";
    /// Namespace of the function.
    pub const FUNCTION_NAMESPACE: &str = "x-fission-function-namespace";
    /// Resource version of the function.
    pub const FUNCTION_RESOURCE_VERSION: &str = "x-fission-function-resourceversion";
    /// On an internal 404: there is no such function.
    pub const ROUTE_MISS: &str = "x-fission-route-miss";
    /// `async`: answered with 202 at once.
    pub const INVOKE_MODE: &str = "x-fission-invoke-mode";
    /// A second asynchronous call with the same value is the first one.
    pub const DEDUP_KEY: &str = "x-fission-dedup-key";
    /// Id of an asynchronous call.
    pub const INVOCATION_ID: &str = "x-fission-invocation-id";
    /// Name of the time trigger that calls.
    pub const TIMER_NAME: &str = "x-fission-timer-name";
    /// On requests between routers.
    pub const OWNER: &str = "x-farplane-owner";
}

/// Longest name of a Deployment or Service.
const NAME_LIMIT: usize = 63;

/// Joins parts to a name within the limit that no other parts give.
///
/// A digest over the parts, each with its length, ends every name: `a-b`/`c` and `a`/`b-c`
/// differ.
pub fn unique(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(u64::try_from(part.len()).unwrap_or(0).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let digest = hex::encode(hasher.finalize());
    let mut name = parts.join("-");
    name.truncate(NAME_LIMIT - 9);
    let name = name.trim_end_matches(['-', '.']).replace('.', "-");
    format!("{name}-{}", &digest[..8])
}

/// Deployment of an environment's pool.
pub fn pool(environment: &str, namespace: &str, hash: &str) -> String {
    unique(&["poolmgr", environment, namespace, hash])
}

/// Deployment, Service and HorizontalPodAutoscaler of a function.
pub fn deployment(executor: &str, function: &str, namespace: &str, uid: &str) -> String {
    unique(&[executor, function, namespace, uid])
}

/// Headless Service of a function's pool instances.
pub fn function_service(function: &str, uid: &str) -> String {
    let digest = hex::encode(Sha256::digest(uid.as_bytes()));
    let mut name = format!("fn-{function}");
    name.truncate(NAME_LIMIT - 9);
    format!("{}-{}", name.trim_end_matches('-'), &digest[..8])
}

/// Deployment and Service of an environment's builder.
pub fn builder(environment: &str, resource_version: &str) -> String {
    format!("{environment}-{resource_version}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_joined_never_meet() {
        assert_ne!(unique(&["a-b", "c"]), unique(&["a", "b-c"]));
        assert_ne!(pool("a", "b-c", "1"), pool("a-b", "c", "1"));
        let long = "x".repeat(80);
        let name = unique(&[&long, "y"]);
        assert!(name.len() <= NAME_LIMIT, "{name}");
        assert_ne!(name, unique(&[&long, "z"]));
        assert!(function_service(&long, "u").len() <= NAME_LIMIT);
    }
}
