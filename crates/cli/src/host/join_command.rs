//! `farplane host join-command`
//!
//! The secret is made here and only its hash goes to the hub.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use farplane_types::token::Token;
use farplane_types::{JoinToken, JoinTokenSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::api::{Patch, PatchParams};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::App;
use crate::arguments::{Format, InOrganization, name};
use crate::failure::Failure;
use crate::hub::{self, Source};
use crate::objects::{self, FIELD_MANAGER, Kind as _};
use crate::{endpoint, engine, time};

/// Longest validity that gateways accept.
const MAX_TTL: Duration = Duration::from_secs(3600);
/// A clock that differs by more is corrected for.
const CLOCK_TOLERANCE_SECONDS: i64 = 2;

/// What the host will be.
#[derive(Args, Debug)]
pub(crate) struct JoinCommandArgs {
    #[command(flatten)]
    of: InOrganization,
    /// Endpoint of the host; made if it does not exist
    #[arg(long, value_parser = name)]
    endpoint: String,
    /// The only host name that may use the command; any free name when left out
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// How long the command may be used, at most an hour
    #[arg(long, default_value = "1h", value_parser = ttl, value_name = "DURATION")]
    ttl: Duration,
    /// Address of the gateway, as the host reaches it, when it is another than the hub says
    #[arg(long, value_name = "HOST:PORT")]
    hub_address: Option<String>,
}

fn ttl(text: &str) -> Result<Duration, String> {
    match time::parse(text)? {
        ttl if ttl <= MAX_TTL => Ok(ttl),
        _ => Err("a join command is valid for an hour at most".to_owned()),
    }
}

/// Makes a token and prints the command.
pub(crate) async fn run(app: &App, args: JoinCommandArgs) -> Result<()> {
    let client = hub::connect(app).await?;
    let org = args.of.org.as_str();
    let ca_sha256 = hub_ca(&client).await?;
    let address = match args.hub_address {
        Some(address) => address,
        None => public_address(app, &client).await?,
    };
    endpoint::ensure(app, &client, org, &args.endpoint).await?;
    let token = Token {
        ca_sha256,
        organization: org.to_owned(),
        id: format!("j{}", hex::encode(rand::random::<[u8; 8]>())),
        secret: hex::encode(rand::random::<[u8; 32]>()),
    };
    let spec = JoinTokenSpec {
        endpoint: args.endpoint.clone(),
        host: args.name.clone(),
        secret_sha256: token.secret_sha256(),
        expires_at: after(&Time(Timestamp::now()), args.ttl)?,
    };
    let expires_at = register(&client, org, &token.id, spec, args.ttl).await?;
    let command = command(&address, &token, args.name.as_deref());
    match app.out.format {
        Format::Table => app.out.data(&format!("{command}\n"))?,
        Format::Name => app.out.data(&format!("{}\n", token.id))?,
        Format::Json | Format::Yaml => app.out.value(
            &json!({
                "command": command,
                "hub": address,
                "token": token.to_string(),
                "id": token.id,
                "organization": org,
                "endpoint": args.endpoint,
                "expiresAt": expires_at,
            }),
            |_| String::new(),
        )?,
    }
    app.out.say(format_args!(
        "Run it as root on the machine. It works once, within {}.",
        time::human(args.ttl)
    ));
    Ok(())
}

/// The line for the machine.
fn command(address: &str, token: &Token, host: Option<&str>) -> String {
    let name = host.map(|host| format!(" --name {host}"));
    format!(
        "farplane-agent join --hub {address} --token {token}{}",
        name.unwrap_or_default()
    )
}

/// Creates the `JoinToken`. Its end is set by the hub's clock, which may differ from
/// this machine's: gateways refuse a token that lasts too long.
async fn register(
    client: &Client,
    org: &str,
    id: &str,
    spec: JoinTokenSpec,
    ttl: Duration,
) -> Result<Time> {
    let made = objects::create(client, Some(org), &JoinToken::new(id, spec)).await?;
    let created = made.metadata.creation_timestamp.as_ref();
    let Some(created) = created else {
        return Ok(made.spec.expires_at);
    };
    let right = after(created, ttl)?;
    let difference = made.spec.expires_at.0.as_second() - right.0.as_second();
    if difference.abs() <= CLOCK_TOLERANCE_SECONDS && difference <= 0 {
        return Ok(made.spec.expires_at);
    }
    let patch = json!({ "spec": { "expiresAt": right } });
    JoinToken::api(client.clone(), Some(org))
        .patch(id, &PatchParams::apply(FIELD_MANAGER), &Patch::Merge(patch))
        .await
        .map_err(|error| objects::about::<JoinToken>("change", Some(org), id).explain(error))?;
    Ok(right)
}

fn after(start: &Time, ttl: Duration) -> Result<Time> {
    let ttl = SignedDuration::try_from(ttl).context("compute the end of validity")?;
    let end = start
        .0
        .checked_add(ttl)
        .context("compute the end of validity")?;
    Ok(Time(end))
}

/// SHA-256 of the hub's CA certificate, hex.
async fn hub_ca(client: &Client) -> Result<String> {
    let map = hub::published(client, "hub-ca").await?;
    let pem = map.and_then(|map| entry(&map, "ca.crt")).ok_or_else(|| {
        Failure::NotReady(
            "the hub has not published its CA certificate yet: do its controllers run? `farplane status` tells".to_owned(),
        )
    })?;
    fingerprint(&pem)
}

fn fingerprint(pem: &str) -> Result<String> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
        .context("read the hub's CA certificate (ConfigMap hub-ca, key ca.crt)")?;
    Ok(hex::encode(Sha256::digest(&certificate)))
}

/// Address of the gateway for agents.
async fn public_address(app: &App, client: &Client) -> Result<String> {
    let map = hub::published(client, "farplane-hub").await;
    if let Ok(Some(address)) = map.as_ref().map(|map| {
        map.as_ref()
            .and_then(|map| entry(map, "publicAddress"))
            .filter(|address| !address.is_empty())
    }) {
        return Ok(address);
    }
    if let Source::Embedded(name) = hub::source_of(app)
        && let Some(address) = engine::status(&name).await?.gateway_address
    {
        return Ok(address.to_string());
    }
    map?;
    Err(Failure::NotReady(
        "the hub does not say at which address hosts reach it: set publicAddress in the chart's values, or give --hub-address HOST:PORT".to_owned(),
    )
    .into())
}

fn entry(map: &ConfigMap, key: &str) -> Option<String> {
    map.data.as_ref()?.get(key).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_the_host_only_when_it_is_bound_to_one() {
        let token = Token {
            ca_sha256: "ab".repeat(32),
            organization: "demo".into(),
            id: "j1".into(),
            secret: "cd".repeat(32),
        };
        let line = command("hub.test:8443", &token, None);
        assert_eq!(
            line,
            format!("farplane-agent join --hub hub.test:8443 --token {token}")
        );
        assert!(command("h:1", &token, Some("one")).ends_with(" --name one"));
    }

    #[test]
    fn the_pin_is_of_the_certificate_and_not_of_its_text() {
        let pem = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";
        assert_eq!(
            fingerprint(pem).unwrap(),
            hex::encode(Sha256::digest([1, 2, 3]))
        );
        assert!(fingerprint("nothing").is_err());
    }

    #[test]
    fn validity_has_an_end() {
        assert!(ttl("61m").is_err());
        assert_eq!(ttl("60m"), Ok(MAX_TTL));
    }
}
