//! `farplane-agent run`: wires the parts and ends them in order.
//!
//! Start: lock -> engine and listeners, from the plan on disk -> enrolment when there is no
//! identity -> sessions, plan stream, renewal. End at SIGTERM: sessions are drained, the engine
//! stops, what the plan runs goes on. End when removed: clean, then the identity is forgotten.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use farplane_tunnel::{Class, Moves};
use farplane_types::HostFacts;
use farplane_types::token::Token;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::artifacts::Repository;
use crate::causes;
use crate::config::{Config, ConfigError};
use crate::enrol::{self, EnrolError};
use crate::identity::{Identity, IdentityError};
use crate::listen::{self, Listeners};
use crate::renew::Renewal;
use crate::serve::World;
use crate::sessions::Tunnels;
use crate::state::{self, Epoch, Lock, StateError};
use crate::status::{Board, PlanStatus};
use crate::tunnel::{Common, Keeper};
use crate::units::{self, Engine, Outside, State};
use crate::{address, doctor, facts, leave, plan};

/// Between two looks at the configuration while waiting for a token.
const CONFIG_LOOK: Duration = Duration::from_secs(1);
/// Pause after a refusal; the token will not get better, the hub's mind may.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// Longest pause when the hub is away.
const AWAY_PAUSE: Duration = Duration::from_secs(10);
/// Between two looks at the machine.
const FACTS_LOOK: Duration = Duration::from_secs(60);
/// Longest look at the machine.
const EXAMINE_DEADLINE: Duration = Duration::from_secs(15);
/// Longest time for ending the sessions, and then the engine.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The units.
    #[error(transparent)]
    Units(#[from] units::Error),
    /// The identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Nothing to enrol with.
    #[error(
        "this machine is not enrolled and {path} has no token; get a command with \
         `farplane host join-command` and run it here"
    )]
    NoToken {
        /// The configuration.
        path: PathBuf,
    },
}

/// How the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// The host was removed at the hub; nothing of it is left.
    Removed,
}

/// Runs the agent until `shutdown` or the host's removal. Bulk sessions run on `bulk`.
///
/// # Errors
/// When it cannot start. The hub being away is none.
pub async fn run(
    config_path: &Path,
    bulk: Handle,
    shutdown: CancellationToken,
) -> Result<Ended, RunError> {
    let config = Config::load(config_path)?;
    let agent_dir = config.agent_dir();
    let _lock = Lock::take(&agent_dir)?;
    let board = Arc::new(Board::new(&config.hub.to_string()));
    board.change(|status| status.phase = "starting".to_owned());
    let tunnels = Arc::new(Tunnels::default());
    let repository = Repository::new(Arc::clone(&tunnels), bulk.clone());
    let outside = outside(&config);
    let engine = Engine::start_behind(outside, &config.state_dir, Arc::new(repository))?;
    let mut parts = JoinSet::new();
    let (writer, place) = (Arc::clone(&board), agent_dir.clone());
    parts.spawn(async move { writer.keep_written(&place).await });
    parts.spawn(show_state(engine.state(), Arc::clone(&board)));
    let listeners = Listeners {
        plan: engine.plan(),
        tunnels: Arc::clone(&tunnels),
        board: Arc::clone(&board),
        agent_dir: agent_dir.clone(),
        bulk: bulk.clone(),
    };
    parts.spawn(listeners.run());

    let agent = Agent {
        config_path,
        config,
        board,
        tunnels,
        bulk,
        shutdown,
    };
    let ended = agent.serve(&engine, &mut parts).await;
    parts.shutdown().await;
    // One that does not stop in time ends as by a kill, which loses nothing.
    if timeout(STOP_DEADLINE, engine.stop()).await.is_err() {
        tracing::warn!("work on the plan was cut off, the next agent goes on with it");
    }
    let ended = ended?;
    let phase = match ended {
        Ended::Stopped => "stopped",
        Ended::Removed => "removed",
    };
    agent.board.change(|status| {
        status.phase = phase.to_owned();
        status.tunnels.clear();
    });
    if ended == Ended::Stopped || !agent.forget().await? {
        agent.board.write(&agent_dir);
    }
    tracing::info!(phase, "agent ended");
    Ok(ended)
}

/// The way of the plan's processes to the outside.
fn outside(config: &Config) -> Option<Outside> {
    let (proxy, excluded) = address::environment();
    Some(Outside {
        proxy: config.proxy.clone().or(proxy)?,
        excluded: config.no_proxy.clone().or(excluded),
    })
}

struct Agent<'a> {
    config_path: &'a Path,
    config: Config,
    board: Arc<Board>,
    tunnels: Arc<Tunnels>,
    bulk: Handle,
    shutdown: CancellationToken,
}

impl Agent<'_> {
    async fn serve(&self, engine: &Engine, parts: &mut JoinSet<()>) -> Result<Ended, RunError> {
        let agent_dir = self.config.agent_dir();
        let missing = examine(&self.board).await;
        let look = Look {
            configured: self.config.node_address,
            hub: self.config.hub.clone(),
            missing,
        };
        let (facts_sender, facts) = watch::channel(look.facts().await);
        let (node_sender, node) = watch::channel(None);
        parts.spawn(keep_facts(
            look,
            facts_sender,
            node_sender,
            Arc::clone(&self.board),
        ));

        let identity = match Identity::load(&agent_dir)? {
            Some(identity) => identity,
            None => match self.enrol(&facts).await? {
                Some(identity) => identity,
                None => return Ok(Ended::Stopped),
            },
        };
        let until = identity.times().map(|times| times.not_after).ok();
        self.board.change(|status| {
            status.phase = "running".to_owned();
            status.identity = Some(identity.identity.clone());
            status.certificate_not_after = until;
        });
        tracing::info!(identity = identity.identity, until = ?until, "running");
        let (identity_sender, identity) = watch::channel(Arc::new(identity));
        let stop = self.shutdown.child_token();
        let common = Common {
            hub: self.config.hub.clone(),
            proxy: self.config.proxy.clone(),
            identity,
            epoch: Arc::new(Epoch::load(&agent_dir)),
            world: World {
                plan: engine.plan(),
                node,
                moves: Moves::default(),
                bulk: self.bulk.clone(),
            },
            board: Arc::clone(&self.board),
            tunnels: Arc::clone(&self.tunnels),
            turn: Arc::default(),
            shutdown: stop.clone(),
        };
        let mut keepers = JoinSet::new();
        keepers.spawn(Keeper::new(Class::Interactive, common.clone()).run());
        keepers.spawn_on(Keeper::new(Class::Bulk, common).run(), &self.bulk);
        let renewal = Renewal {
            tunnels: Arc::clone(&self.tunnels),
            agent_dir,
            identity: identity_sender,
            board: Arc::clone(&self.board),
        };
        parts.spawn(renewal.run());
        let ended = tokio::select! {
            () = plan::follow(&self.tunnels, engine, &facts, &self.board) => Ended::Removed,
            () = self.shutdown.cancelled() => Ended::Stopped,
        };
        stop.cancel();
        let all = async { while keepers.join_next().await.is_some() {} };
        // What does not end in time ends with the process.
        _ = timeout(STOP_DEADLINE, all).await;
        Ok(ended)
    }

    /// Tries until the hub gives an identity; `None` at shutdown.
    async fn enrol(
        &self,
        facts: &watch::Receiver<HostFacts>,
    ) -> Result<Option<Identity>, RunError> {
        self.board
            .change(|status| status.phase = "enrolling".to_owned());
        let agent_dir = self.config.agent_dir();
        let mut pause = CONFIG_LOOK;
        loop {
            let text = std::fs::read_to_string(self.config_path).unwrap_or_default();
            let wait = match self.token(&text, &agent_dir)? {
                Err(reason) => {
                    self.board.problem("enrolment", Some(reason));
                    Duration::MAX
                }
                Ok((config, token)) => {
                    let now = facts.borrow().clone();
                    let tried = tokio::select! {
                        tried = enrol::enrol(&config, &token, now) => tried,
                        () = self.shutdown.cancelled() => return Ok(None),
                    };
                    match tried {
                        Ok(identity) => {
                            self.board.problem("enrolment", None);
                            return Ok(Some(identity));
                        }
                        Err(error) => self.failed(&error, &mut pause),
                    }
                }
            };
            tokio::select! {
                () = changed(self.config_path, &text, wait) => {}
                () = self.shutdown.cancelled() => return Ok(None),
            }
        }
    }

    /// Configuration and token as they are now, or why to wait for other ones.
    fn token(
        &self,
        text: &str,
        agent_dir: &Path,
    ) -> Result<Result<(Config, Token), String>, RunError> {
        let config = match Config::parse(text, self.config_path) {
            Ok(config) => config,
            // It was good at the start, so somebody is at work on it.
            Err(error) => return Ok(Err(error.to_string())),
        };
        let Some(token) = config.token.clone() else {
            return Err(RunError::NoToken {
                path: self.config_path.to_owned(),
            });
        };
        if state::was_removed(agent_dir, &token) {
            let reason = "this host was removed at the hub; join again with a new command from \
                          `farplane host join-command`";
            tracing::warn!("{reason}");
            return Ok(Err(reason.to_owned()));
        }
        Ok(Ok((config, token)))
    }

    fn failed(&self, error: &EnrolError, pause: &mut Duration) -> Duration {
        let reason = causes(error);
        tracing::warn!(reason, "not enrolled yet, trying again");
        self.board.problem("enrolment", Some(reason));
        if !error.is_retryable() {
            return REFUSED_PAUSE;
        }
        let wait = pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        *pause = (*pause * 2).min(AWAY_PAUSE);
        wait
    }

    /// Nothing of the host is left at the hub, so nothing shall be left here. Answers whether
    /// that is so: a service manager that `join` knows nothing of will start this again, which
    /// then has to know that its token is spent.
    async fn forget(&self) -> Result<bool, RunError> {
        let agent_dir = self.config.agent_dir();
        let noted = state::note_removed(&agent_dir, self.config.token.as_ref());
        if let Err(error) = noted {
            tracing::warn!(%error, "removal not noted");
        }
        Identity::forget(&agent_dir)?;
        if let Err(error) = listen::remove_addresses(&agent_dir, &Default::default()).await {
            tracing::warn!(%error, "address stays on lo");
        }
        let (config, path) = (self.config.clone(), self.config_path.to_owned());
        let erased = tokio::task::spawn_blocking(move || leave::erase_service(&config, &path));
        let erased = match erased.await {
            Ok(Ok(erased)) => erased,
            Ok(Err(error)) => {
                tracing::warn!(error = causes(&error), "service stays");
                false
            }
            Err(_) => false,
        };
        self.board.change(|status| {
            status.identity = None;
            status.certificate_not_after = None;
            status.problems.clear();
        });
        Ok(erased)
    }
}

/// Waits until the file has another text, at most `wait`.
async fn changed(path: &Path, text: &str, wait: Duration) {
    let end = Instant::now().checked_add(wait);
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let left = left.unwrap_or(CONFIG_LOOK).min(CONFIG_LOOK);
        sleep(left).await;
        let now = std::fs::read_to_string(path).unwrap_or_default();
        if now != text || end.is_some_and(|end| Instant::now() >= end) {
            return;
        }
    }
}

/// What the machine lacks, in words for the hub.
async fn examine(board: &Board) -> Vec<String> {
    let examined = timeout(
        EXAMINE_DEADLINE,
        tokio::task::spawn_blocking(doctor::examine),
    );
    // Not known is not missing; what needs it will say so.
    let findings = examined.await.ok().and_then(Result::ok).unwrap_or_default();
    for finding in &findings {
        tracing::warn!(
            what = finding.what,
            todo = finding.todo,
            "the machine lacks something"
        );
        let text = format!("missing; {}", finding.todo);
        board.problem(&finding.what, Some(text));
    }
    doctor::missing(&findings)
}

struct Look {
    configured: Option<IpAddr>,
    hub: crate::address::HubAddress,
    missing: Vec<String>,
}

impl Look {
    async fn facts(&self) -> HostFacts {
        let address = facts::find_node_address(self.configured, &self.hub).await;
        facts::collect(address, self.missing.clone())
    }
}

async fn keep_facts(
    look: Look,
    facts: watch::Sender<HostFacts>,
    node: watch::Sender<Option<IpAddr>>,
    board: Arc<Board>,
) {
    loop {
        let now = look.facts().await;
        let address = now.node_address.parse().ok();
        board.change(|status| status.node_address = address.map(|it: IpAddr| it.to_string()));
        node.send_if_modified(|old| std::mem::replace(old, address) != address);
        facts.send_if_modified(|old| {
            let changed = *old != now;
            old.clone_from(&now);
            changed
        });
        sleep(FACTS_LOOK).await;
    }
}

async fn show_state(mut states: watch::Receiver<State>, board: Arc<Board>) {
    loop {
        let plan = match &*states.borrow_and_update() {
            State::Unknown | State::Clean => None,
            State::Report(report) => Some(PlanStatus {
                generation: report.generation,
                applied: report.applied,
                units: report.units.clone(),
            }),
        };
        board.change(|status| status.plan = plan);
        if states.changed().await.is_err() {
            return;
        }
    }
}
