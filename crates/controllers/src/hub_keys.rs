//! The hub's own keys: made when absent, renewed in time, never replaced otherwise.
//!
//! CAs are created, never applied: of two processes that find one missing, the first one's
//! stays. The gateway's certificate is issued anew at half of its life, when the hub's
//! domain changed, or when it does not chain to the CA; the gateway reloads it.

mod issue;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ObjectMeta, PostParams};

use crate::context::Context;
use crate::error::{Class, Error, is_code};
use crate::object;
use issue::Pair;

const HUB_CA: &str = "hub-ca";
const HOST_CA: &str = "host-ca";
const PLANE_CA: &str = "plane-ca";
const GATEWAY: &str = "gateway-tls";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// How often the keys are looked at.
const INTERVAL: Duration = Duration::from_secs(600);
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the keys, for ever.
pub(crate) async fn run(context: Arc<Context>) -> Error {
    loop {
        let pause = match ensure(&context).await {
            Ok(()) => INTERVAL,
            Err(error) => {
                let class = error.class();
                context.metrics.failed("HubKeys", class);
                tracing::warn!(kind = "HubKeys", ?class, error = error.chain(), "failed");
                if class == Class::Fatal {
                    return error;
                }
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn ensure(context: &Context) -> Result<(), Error> {
    let hub = authority(context, HUB_CA).await?;
    publish(context, &hub).await?;
    for name in [HOST_CA, PLANE_CA] {
        authority(context, name).await?;
    }
    let domain = &context.settings.hub_domain;
    let current = read(context, GATEWAY).await?;
    let now = time::OffsetDateTime::now_utc();
    let Some(reason) = issue::why_renew(current.as_ref(), &hub, domain, now) else {
        return Ok(());
    };
    tracing::info!(
        secret = GATEWAY,
        reason,
        "issuing the gateway's certificate"
    );
    let issued = issue::gateway(&hub, domain, now).map_err(failed(GATEWAY))?;
    object::apply(&secrets(context), &secret(GATEWAY, &issued)).await?;
    Ok(())
}

/// The CA that signs the egress certificates of planes.
pub(crate) async fn plane_ca(context: &Context) -> Result<(String, String), Error> {
    let pair = require(context, PLANE_CA).await?;
    Ok((pair.certificate, pair.key))
}

/// The certificate of the hub's CA in PEM.
pub(crate) async fn hub_ca(context: &Context) -> Result<String, Error> {
    Ok(require(context, HUB_CA).await?.certificate)
}

/// SHA-256 of the certificate of the hub's CA, which join tokens carry.
pub(crate) async fn ca_sha256(context: &Context) -> Result<String, Error> {
    let certificate = hub_ca(context).await?;
    issue::sha256(&certificate).ok_or_else(|| damaged(HUB_CA))
}

async fn require(context: &Context, name: &'static str) -> Result<Pair, Error> {
    match read(context, name).await? {
        Some(pair) => Ok(pair),
        // At the first start others may be quicker than the keys.
        None => authority(context, name).await,
    }
}

fn secrets(context: &Context) -> Api<Secret> {
    Api::namespaced(context.client.clone(), &context.settings.namespace)
}

fn damaged(name: &str) -> Error {
    Error::DamagedSecret {
        name: name.to_owned(),
        key: CERTIFICATE.to_owned(),
    }
}

fn failed(of: &str) -> impl FnOnce(rcgen::Error) -> Error {
    let of = of.to_owned();
    move |source| Error::Keys {
        of,
        source: Box::new(source),
    }
}

async fn read(context: &Context, name: &str) -> Result<Option<Pair>, Error> {
    let secret = secrets(context)
        .get_opt(name)
        .await
        .map_err(Error::hub(format!("read Secret {name}")))?;
    let Some(secret) = secret else {
        return Ok(None);
    };
    let data = secret.data.unwrap_or_default();
    let text = |key: &str| {
        let bytes = data
            .get(key)
            .map(|bytes| bytes.0.clone())
            .unwrap_or_default();
        String::from_utf8(bytes)
            .ok()
            .filter(|text| !text.is_empty())
    };
    let (Some(certificate), Some(key)) = (text(CERTIFICATE), text(KEY)) else {
        return Err(damaged(name));
    };
    Ok(Some(Pair { certificate, key }))
}

fn secret(name: &str, pair: &Pair) -> Secret {
    let data = [(CERTIFICATE, &pair.certificate), (KEY, &pair.key)];
    let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes())));
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(BTreeMap::from(data)),
        ..Secret::default()
    }
}

/// The CA as it is; a new one when there is none.
async fn authority(context: &Context, name: &'static str) -> Result<Pair, Error> {
    if let Some(pair) = read(context, name).await? {
        return Ok(pair);
    }
    let pair = issue::authority(name, time::OffsetDateTime::now_utc()).map_err(failed(name))?;
    let created = secrets(context)
        .create(&PostParams::default(), &secret(name, &pair))
        .await;
    match created {
        Ok(_) => {
            tracing::info!(secret = name, "made a certificate authority");
            Ok(pair)
        }
        Err(error) if is_code(&error, 409) => {
            read(context, name).await?.ok_or_else(|| damaged(name))
        }
        Err(error) => Err(Error::hub(format!("create Secret {name}"))(error)),
    }
}

/// The CA's certificate where everybody who is signed in can read it.
async fn publish(context: &Context, hub: &Pair) -> Result<(), Error> {
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(HUB_CA.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(
            "ca.crt".to_owned(),
            hub.certificate.clone(),
        )])),
        ..ConfigMap::default()
    };
    let api = Api::namespaced(context.client.clone(), &context.settings.namespace);
    object::apply(&api, &map).await.map(|_| ())
}
