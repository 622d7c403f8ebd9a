//! TLS for a cluster's API server, passed on unopened.

use std::sync::Arc;

use farplane_tunnel::splice;
use rand::seq::SliceRandom as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::dial;
use crate::gateway::Gateway;
use crate::hello::{ALERT_INTERNAL_ERROR, ALERT_UNRECOGNIZED_NAME};

/// Connects `client` with a ready API server of the cluster with this server name; `seen`
/// are the bytes read from the client so far.
pub async fn serve(
    gateway: Arc<Gateway>,
    mut client: TcpStream,
    server_name: String,
    seen: Vec<u8>,
) {
    let found = gateway.world.read(|world| {
        let cluster = world.cluster_by_server_name(&server_name)?;
        let servers = world.api_servers(&cluster.uid);
        Some((cluster.organization.clone(), servers))
    });
    let Some((organization, mut servers)) = found else {
        gateway.metrics.count("passthrough", "unknown");
        tracing::info!(server_name, "no cluster has this server name");
        return say(client, &ALERT_UNRECOGNIZED_NAME).await;
    };
    let _share = match gateway.limits.stream(&organization) {
        Ok(share) => share,
        Err(error) => {
            gateway.metrics.count("passthrough", "busy");
            tracing::warn!(organization, server_name, %error, "connection refused");
            return say(client, &ALERT_INTERNAL_ERROR).await;
        }
    };
    servers.shuffle(&mut rand::rng());
    let mut server = match dial::first(&servers).await {
        Ok(server) => server,
        Err(error) => {
            gateway.metrics.count("passthrough", "unreachable");
            tracing::info!(organization, server_name, %error, "no API server answers");
            return say(client, &ALERT_INTERNAL_ERROR).await;
        }
    };
    gateway.metrics.count("passthrough", "ok");
    if server.write_all(&seen).await.is_err() {
        return;
    }
    drop(seen);
    if splice(&mut client, &mut server, None).await.is_err() {
        // A cut must not look like an end to either side.
        _ = client.set_zero_linger();
        _ = server.set_zero_linger();
    }
}

async fn say(mut client: TcpStream, alert: &[u8]) {
    // The client may be gone; the alert is for its error message only.
    _ = client.write_all(alert).await;
    _ = client.shutdown().await;
}
