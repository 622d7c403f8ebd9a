//! The `plan` stream: a host's plan down, what its agent says up.
//!
//! Down: the state at once and on every change, [`PlanState`] by [`PlanState`]; the last one
//! is `Removed`. Up: facts and reports into the slot of [`crate::report`]; `Clean` releases
//! the plan that is being deleted. The two directions never wait for one another.
//!
//! After the `Clean` of a removed host the stream is ended, not dropped, and the agent has
//! [`FAREWELL`] to end its half: a reset could reach it before it knows that its word was sent,
//! and it would connect once more to say it again.
//!
//! `Clean` counts only while the last message sent was no plan: one that was under way when
//! a plan was sent speaks of the time before it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farplane_tunnel::TunnelStream;
use farplane_tunnel::lines::{self, LineError, LineReader, MAX_LINE_BYTES};
use farplane_types::wire::{AgentMessage, PlanMessage};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::gateway::Gateway;
use crate::report::{self, Pending, Report};
use crate::world::Key;
use crate::world::lookup::PlanState;

/// How long a removed host that is clean may take to end its half of the stream.
const FAREWELL: Duration = Duration::from_secs(2);

/// How a plan stream ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The agent ended it, or it broke.
    Stream,
    /// A removed host has said that nothing is left on it.
    Clean,
}

/// Serves one plan stream until it ends.
pub async fn serve(
    gateway: &Arc<Gateway>,
    uid: &str,
    key: &Key,
    stream: TunnelStream,
    states: watch::Receiver<PlanState>,
) -> End {
    let (slot, pending) = watch::channel(Pending::default());
    tokio::spawn(report::run(
        Arc::clone(gateway),
        uid.to_owned(),
        key.clone(),
        pending,
    ));
    // A plan that is being deleted while its host is removed: `Clean` releases it too,
    // unless a new host of that name has it by now.
    let orphan = || {
        gateway.world.read(|world| {
            let other = world.host_by_key(key).is_some_and(|host| host.uid != uid);
            let plan = world.plan(key).filter(|plan| plan.deleting && !other)?;
            Some(plan.uid.clone())
        })
    };
    match exchange(stream, states, &slot, orphan).await {
        Ok(end) => end,
        Err(error) => {
            let reason = std::error::Error::source(&error).map(ToString::to_string);
            tracing::info!(host = key.name, uid, %error, reason, "plan stream ended");
            End::Stream
        }
    }
}

/// What was last sent, and what the agent said to it.
struct Progress {
    sent: Option<PlanState>,
    /// UID of the last plan sent on this stream.
    plan: Option<String>,
    clean: bool,
}

async fn exchange<IO>(
    stream: IO,
    states: watch::Receiver<PlanState>,
    slot: &watch::Sender<Pending>,
    orphan: impl Fn() -> Option<String>,
) -> Result<End, LineError>
where
    IO: AsyncRead + AsyncWrite,
{
    let (mut input, mut output) = tokio::io::split(stream);
    let progress = Mutex::new(Progress {
        sent: None,
        plan: None,
        clean: false,
    });
    let end = tokio::select! {
        result = down(&mut output, states, &progress, slot) => result,
        result = up(&mut input, &progress, slot, orphan) => result,
    }?;
    if end == End::Clean {
        let farewell = async {
            // An agent that is gone by now has no word left to send.
            if output.shutdown().await.is_ok() {
                _ = input.read(&mut [0]).await;
            }
        };
        _ = timeout(FAREWELL, farewell).await;
    }
    Ok(end)
}

async fn down(
    mut output: impl AsyncWrite + Unpin,
    mut states: watch::Receiver<PlanState>,
    progress: &Mutex<Progress>,
    slot: &watch::Sender<Pending>,
) -> Result<End, LineError> {
    loop {
        let state = states.borrow_and_update().clone();
        if let Some(message) = advance(progress, &state, slot) {
            lines::send(&mut output, &message).await?;
        }
        // The sender lives as long as the gateway; without it nothing can change any more.
        if states.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Notes that `state` is being sent; answers its message if it is news.
fn advance(
    progress: &Mutex<Progress>,
    state: &PlanState,
    slot: &watch::Sender<Pending>,
) -> Option<PlanMessage> {
    let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    if progress.sent.as_ref() == Some(state) {
        return None;
    }
    progress.sent = Some(state.clone());
    match state {
        PlanState::Removed => Some(PlanMessage::Removed),
        PlanState::Nothing { releasing } => {
            // Clean since before the plan came and went unsent: there is nothing to undo.
            if progress.clean
                && let Some(plan) = releasing
            {
                slot.send_modify(|pending| pending.released = Some(plan.clone()));
            }
            Some(PlanMessage::Nothing)
        }
        PlanState::Plan {
            uid,
            generation,
            spec,
        } => {
            progress.clean = false;
            progress.plan = Some(uid.clone());
            Some(PlanMessage::Plan {
                generation: *generation,
                spec: Box::new(spec.as_ref().clone()),
            })
        }
    }
}

async fn up(
    input: impl AsyncRead + Unpin,
    progress: &Mutex<Progress>,
    slot: &watch::Sender<Pending>,
    orphan: impl Fn() -> Option<String>,
) -> Result<End, LineError> {
    let mut lines = LineReader::new(BufReader::new(input), MAX_LINE_BYTES);
    loop {
        let message = match lines.next::<AgentMessage>().await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(End::Stream),
            // A newer agent may say things that are not known here yet.
            Err(LineError::Malformed { source }) => {
                tracing::debug!(%source, "agent message skipped");
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            AgentMessage::Facts(facts) => {
                slot.send_modify(|pending| pending.facts = Some(facts));
            }
            AgentMessage::Report {
                generation,
                applied,
                units,
            } => {
                // A generation that was never sent is of another plan of this name.
                let newest = match &progress.sent {
                    Some(PlanState::Plan { generation, .. }) => *generation,
                    _ => i64::MAX,
                };
                if let Some(plan) = progress.plan.clone()
                    && generation <= newest
                {
                    let report = Report {
                        plan,
                        generation,
                        applied,
                        units,
                    };
                    slot.send_modify(|pending| pending.report = Some(report));
                }
            }
            AgentMessage::Clean => {
                let released = match &progress.sent {
                    None | Some(PlanState::Plan { .. }) => continue,
                    Some(PlanState::Nothing { releasing }) => releasing.clone(),
                    Some(PlanState::Removed) => orphan(),
                };
                progress.clean = true;
                if released.is_some() {
                    slot.send_modify(|pending| pending.released = released);
                }
                if progress.sent == Some(PlanState::Removed) {
                    return Ok(End::Clean);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
