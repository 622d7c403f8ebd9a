//! The master secret of the platform: made by whoever comes first, never by a template.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use farplane_functions_types::names::AUTH_SECRET;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use rand::RngCore as _;

const KEY: &str = "secret";
const BYTES: usize = 32;
/// Between two tries to reach the API server.
const RETRY: Duration = Duration::from_secs(1);

/// The master secret, made when there is none. Waits for the API server.
///
/// # Errors
/// When the API server refuses, or the Secret has no key `secret`.
pub async fn master(client: &kube::Client, namespace: &str) -> Result<Vec<u8>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    loop {
        match get_or_make(&api).await {
            Ok(secret) => return read(&secret),
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 409 => {
                return Err(kube::Error::Api(status))
                    .with_context(|| format!("read Secret {namespace}/{AUTH_SECRET}"));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read Secret {AUTH_SECRET}; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn get_or_make(api: &Api<Secret>) -> kube::Result<Secret> {
    if let Some(secret) = api.get_opt(AUTH_SECRET).await? {
        return Ok(secret);
    }
    let mut bytes = [0; BYTES];
    rand::rng().fill_bytes(&mut bytes);
    let text = ByteString(hex::encode(bytes).into_bytes());
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(AUTH_SECRET.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(KEY.to_owned(), text)])),
        ..Secret::default()
    };
    // Of two that come first at once, one is refused, and reads what the other made.
    api.create(&PostParams::default(), &secret).await
}

fn read(secret: &Secret) -> Result<Vec<u8>> {
    let value = secret.data.as_ref().and_then(|data| data.get(KEY));
    match value {
        Some(ByteString(bytes)) if !bytes.is_empty() => Ok(bytes.clone()),
        _ => bail!("Secret {AUTH_SECRET} has no key {KEY}; delete it to have it made again"),
    }
}
