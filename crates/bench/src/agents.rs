//! The other process of `gateway-1000`: many agents, as far as the gateway can tell.
//!
//! Talk with the parent by lines: an [`Order`] in, `prepared` out; `go` in, `ready <retries>`
//! out once every agent has both connections and its plan; then all are held until the input
//! ends. Each agent does what a real one does: a bulk connection, an interactive one, facts
//! up, plan down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use farplane_tunnel::dial::Dial;
use farplane_tunnel::{ALPN, Class, Config, Hello, Incoming, OpenHeader, Session, TunnelStream};
use farplane_types::HostFacts;
use farplane_types::wire::{AgentMessage, PlanMessage, service};
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::{Instant, sleep, timeout};

use crate::tls;

/// What the parent asks for.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Port of the gateway on loopback.
    pub port: u16,
    /// Name in its certificate.
    pub server_name: String,
    /// The hub's CA, PEM.
    pub hub_ca: String,
    /// Certificate and key of each agent, PEM.
    pub agents: Vec<(String, String)>,
}

const LIMIT: Duration = Duration::from_secs(120);

/// Runs the process.
///
/// # Errors
/// When the parent's words are not understood or an agent gets no plan.
pub async fn run() -> Result<()> {
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let line = input.next_line().await?.context("no order")?;
    let order: Order = serde_json::from_str(&line).context("read the order")?;
    let dials = order
        .agents
        .iter()
        .map(|(certificate, key)| dial(&order, certificate, key))
        .collect::<Result<Vec<_>>>()?;
    drop(order);
    // Counters of all agents in one place, as they are no part of what is measured.
    let config = Config::default();
    println!("prepared");
    ensure!(input.next_line().await?.as_deref() == Some("go"), "no go");
    let retries = Arc::new(AtomicU32::new(0));
    let mut starting = tokio::task::JoinSet::new();
    for (number, dial) in dials.into_iter().enumerate() {
        let (config, retries) = (config.clone(), Arc::clone(&retries));
        starting.spawn(async move { timeout(LIMIT, agent(number, dial, config, &retries)).await });
    }
    let mut held = Vec::new();
    while let Some(agent) = starting.join_next().await {
        held.push(agent?.context("an agent has no plan in time")??);
    }
    println!("ready {}", retries.load(Ordering::Relaxed));
    while input.next_line().await?.is_some() {}
    for agent in &held {
        ensure!(agent.is_whole(), "an agent lost a connection");
    }
    Ok(())
}

fn dial(order: &Order, certificate: &str, key: &str) -> Result<Dial> {
    Ok(Dial {
        host: "127.0.0.1".to_owned(),
        port: order.port,
        proxy: None,
        tls: tls::settings(order.hub_ca.as_bytes(), Some((certificate, key)), &[ALPN])?,
        server_name: ServerName::try_from(order.server_name.clone())
            .context("read the server name")?,
        deadline: Duration::from_secs(30),
    })
}

/// One agent that is connected.
struct Agent {
    interactive: (Session, Incoming),
    bulk: (Session, Incoming),
    _plan: TunnelStream,
}

impl Agent {
    fn is_whole(&self) -> bool {
        !self.interactive.0.is_closed() && !self.bulk.0.is_closed()
    }
}

/// Connects until it works, and gets its plan.
async fn agent(number: usize, dial: Dial, config: Config, retries: &AtomicU32) -> Result<Agent> {
    let pause = Duration::from_millis(200);
    let end = Instant::now() + LIMIT;
    loop {
        match once(number, &dial, &config).await {
            Ok(agent) => return Ok(agent),
            Err(error) if Instant::now() + pause > end => return Err(error),
            Err(_) => {
                retries.fetch_add(1, Ordering::Relaxed);
                sleep(pause).await;
            }
        }
    }
}

async fn once(number: usize, dial: &Dial, config: &Config) -> Result<Agent> {
    let (interactive, bulk) = tokio::try_join!(
        session(dial, config, Class::Interactive),
        session(dial, config, Class::Bulk)
    )?;
    let header = OpenHeader::new(Class::Interactive, service::PLAN);
    let mut plan = interactive
        .0
        .open(header)
        .await
        .context("open the plan stream")?;
    let facts = AgentMessage::Facts(HostFacts {
        agent_version: "bench".to_owned(),
        node_address: format!("10.0.{}.{}", number / 250, number % 250 + 1),
        ..HostFacts::default()
    });
    let mut line = serde_json::to_vec(&facts).context("encode facts")?;
    line.push(b'\n');
    plan.write_all(&line).await.context("send facts")?;
    plan.flush().await.context("send facts")?;
    let mut heard = String::new();
    BufReader::with_capacity(256, &mut plan)
        .read_line(&mut heard)
        .await
        .context("read the plan")?;
    let message: PlanMessage = serde_json::from_str(&heard).context("read the plan")?;
    if message != PlanMessage::Nothing {
        bail!("a host without a plan was told {message:?}");
    }
    Ok(Agent {
        interactive,
        bulk,
        _plan: plan,
    })
}

async fn session(dial: &Dial, config: &Config, class: Class) -> Result<(Session, Incoming)> {
    let io = dial.run().await.context("dial the gateway")?;
    let hello = Hello::new("bench", 1, class);
    Session::connect(io, hello, config.clone())
        .await
        .context("open a session")
}
