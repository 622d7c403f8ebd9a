//! How long until 1,000 agents are connected and have their plan, and what each costs.
//!
//! Gateway, API server and etcd are real processes; the agents live in another process
//! ([`crate::agents`]), both connections and a plan stream each. Timed: from `go` until the
//! last agent has its plan; certificates and objects are made before. Memory: the gateway's
//! private memory at rest, less what it took at rest before any host was known, by the number
//! of agents; so the objects it keeps of each host are in it. Trap: all agents dial at once,
//! as they do when a gateway was away, and share the machine's cores with the gateway.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use farplane_types::{Host, HostProvider, HostSpec};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout};

use crate::agents::Order;
use crate::catalogue::names::GATEWAY_1000;
use crate::loopback::{Loopback, create};
use crate::process::resting_kib;
use crate::report::Row;

const LIMIT: Duration = Duration::from_secs(180);

/// Runs it with this many agents.
///
/// # Errors
/// When a process fails or an agent gets no plan.
pub async fn run(dist: &Path, count: usize) -> Result<Vec<Row>> {
    let mut hub = Loopback::start(dist).await?;
    let pid = hub.gateway_process.pid();
    let before = resting_kib(&[pid]).await?;
    let agents = hosts(&hub, count).await?;
    let order = Order {
        port: hub.gateway.port(),
        server_name: hub.server_name(),
        hub_ca: hub.keys.hub_ca().to_owned(),
        agents,
    };
    let mut others = Others::start(&order).await?;
    let began = Instant::now();
    let retries = others
        .go()
        .await
        .with_context(|| hub.gateway_process.tail())?;
    let took = began.elapsed().as_secs_f64();
    eprintln!("bench: {GATEWAY_1000}: {count} agents have their plan after {took:.1} s");
    let after = resting_kib(&[pid]).await?;
    hub.check()?;
    others.end().await?;
    let (before, after) = (before[0] as f64, after[0] as f64);
    let each = (after - before) / count as f64;
    let details =
        json!({ "retries": retries, "gatewayBeforeKiB": before, "gatewayAfterKiB": after });
    Ok(vec![
        Row::told(
            GATEWAY_1000,
            format!("{count} agents connected, each with its plan"),
            took,
            "s",
        )
        .at_most(20.0)
        .with(details.clone()),
        Row::told(GATEWAY_1000, "an idle agent at the gateway", each, "KiB")
            .at_most(128.0)
            .with(details),
    ])
}

/// Makes the hosts; answers certificate and key of each.
async fn hosts(hub: &Loopback, count: usize) -> Result<Vec<(String, String)>> {
    let api = hub.org::<Host>();
    let one = |number: usize| {
        let api = api.clone();
        async move {
            let spec = HostSpec {
                endpoint: "site".to_owned(),
                provider: HostProvider::Own,
                unschedulable: false,
            };
            let name = format!("h{number}");
            let made = create(&api, &Host::new(&name, spec)).await?;
            let uid = made.metadata.uid.context("a host has no UID")?;
            let leaf = hub.keys.host_leaf(&name, &uid)?;
            Ok::<_, anyhow::Error>((leaf.certificate_pem, leaf.key_pem))
        }
    };
    futures::stream::iter(0..count)
        .map(one)
        .buffered(16)
        .try_collect()
        .await
}

/// The other process.
struct Others {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Others {
    async fn start(order: &Order) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe().context("find this program")?)
            .arg("agents")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start the agents")?;
        let input = child.stdin.take().context("the agents have no input")?;
        let output = child.stdout.take().context("the agents have no output")?;
        let mut others = Self {
            child,
            input,
            output: BufReader::new(output).lines(),
        };
        others
            .say(&serde_json::to_string(order).context("encode the order")?)
            .await?;
        let answer = others.hear().await?;
        ensure!(answer == "prepared", "the agents said {answer}");
        Ok(others)
    }

    async fn go(&mut self) -> Result<u32> {
        self.say("go").await?;
        let answer = self.hear().await?;
        let retries = answer
            .strip_prefix("ready ")
            .and_then(|number| number.parse().ok());
        retries.with_context(|| format!("the agents said {answer}"))
    }

    async fn end(mut self) -> Result<()> {
        drop(self.input);
        let ended = timeout(LIMIT, self.child.wait())
            .await
            .context("the agents do not end")?;
        let ended = ended.context("wait for the agents")?;
        ensure!(ended.success(), "the agents ended with {ended}");
        Ok(())
    }

    async fn say(&mut self, line: &str) -> Result<()> {
        self.input
            .write_all(line.as_bytes())
            .await
            .context("talk to the agents")?;
        self.input
            .write_all(b"\n")
            .await
            .context("talk to the agents")?;
        self.input.flush().await.context("talk to the agents")
    }

    async fn hear(&mut self) -> Result<String> {
        let line = timeout(LIMIT, self.output.next_line()).await;
        let line = line
            .context("the agents say nothing")?
            .context("listen to the agents")?;
        line.context("the agents ended")
    }
}
