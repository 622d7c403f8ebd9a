//! The `plan` stream: what the hub wants goes to the engine, what the engine says to the hub.
//!
//! On every interactive session anew: facts first, then whatever changes. What the engine says is
//! told once the hub has spoken on this stream, as it means nothing to the hub before. `Clean` is
//! told only after the hub said that there is no plan.

use std::sync::Arc;
use std::time::Duration;

use farplane_tunnel::lines::{self, LineError, LineReader, MAX_LINE_BYTES};
use farplane_tunnel::{Class, OpenHeader, TunnelStream};
use farplane_types::wire::{AgentMessage, PlanMessage, service};
use farplane_types::{HostFacts, UnitStatus};
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::listen;
use crate::sessions::Tunnels;
use crate::status::{Board, Status};
use crate::units::{Engine, State, Wanted};

/// Shortest time between two reports: units change in bursts.
const REPORT_GAP: Duration = Duration::from_millis(100);
/// Pause before a stream is opened again on the same session.
const RETRY: Duration = Duration::from_secs(1);
/// How long the hub may take to hear that a removed host is clean.
const GOODBYE: Duration = Duration::from_secs(10);

/// What the engine offers, so that tests can play its part.
pub trait Host: Send + Sync {
    /// Says what the hub wants.
    fn want(&self, wanted: Wanted);
    /// How far it is.
    fn state(&self) -> watch::Receiver<State>;
}

impl Host for Engine {
    fn want(&self, wanted: Wanted) {
        Self::want(self, wanted);
    }

    fn state(&self) -> watch::Receiver<State> {
        Self::state(self)
    }
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It broke, or its session was replaced.
    Stream,
    /// The host was removed and is clean, and the hub knows.
    Removed,
}

/// What the hub said last on this stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Said {
    #[default]
    NotYet,
    Plan,
    Nothing,
    Removed,
}

/// Follows the plan until the host is removed and clean.
///
/// Listeners of the plan are no units, as they follow the tunnel and not the engine; one that is
/// not there (`board`) is told as a unit that failed, so that the hub says why.
pub async fn follow(
    tunnels: &Tunnels,
    host: &impl Host,
    facts: &watch::Receiver<HostFacts>,
    board: &Board,
) {
    loop {
        let (number, session) = tunnels.session(Class::Interactive).await;
        let header = OpenHeader::new(Class::Interactive, service::PLAN);
        let opened = session.open(header).await;
        // Streams keep their session alive; this handle must not.
        drop(session);
        let stream = match opened {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "no plan stream");
                tokio::select! {
                    () = sleep(RETRY) => {}
                    () = tunnels.replaced(Class::Interactive, number) => {}
                }
                continue;
            }
        };
        let ended = tokio::select! {
            ended = exchange(stream, host, facts.clone(), board.subscribe()) => ended,
            () = tunnels.replaced(Class::Interactive, number) => Ok(End::Stream),
        };
        match ended {
            Ok(End::Removed) => return,
            Ok(End::Stream) => {}
            Err(error) => tracing::info!(%error, "plan stream ended"),
        }
        tokio::select! {
            () = sleep(RETRY) => {}
            () = tunnels.replaced(Class::Interactive, number) => {}
        }
    }
}

async fn exchange(
    stream: TunnelStream,
    host: &impl Host,
    facts: watch::Receiver<HostFacts>,
    board: watch::Receiver<Status>,
) -> Result<End, LineError> {
    let (input, output) = tokio::io::split(stream);
    let (sender, said) = watch::channel(Said::NotYet);
    let down = down(input, host, &sender);
    let up = up(output, host.state(), facts, said, board);
    tokio::pin!(down);
    tokio::select! {
        ended = &mut down => ended.map(|()| End::Stream),
        ended = up => {
            ended?;
            // The hub ends the stream when it has heard the last word.
            _ = timeout(GOODBYE, down).await;
            Ok(End::Removed)
        }
    }
}

async fn down(
    input: impl AsyncRead + Unpin,
    host: &impl Host,
    said: &watch::Sender<Said>,
) -> Result<(), LineError> {
    let mut lines = LineReader::new(BufReader::new(input), MAX_LINE_BYTES);
    loop {
        let message = match lines.next::<PlanMessage>().await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(()),
            // A newer hub may say things that are not known here yet.
            Err(error @ LineError::Malformed { .. }) => {
                tracing::warn!(%error, "message of the hub skipped");
                continue;
            }
            Err(error) => return Err(error),
        };
        let (wanted, word) = match message {
            PlanMessage::Plan { generation, spec } => {
                tracing::info!(generation, plane = spec.plane.name, "plan received");
                let spec = Arc::new(*spec);
                (Wanted::Plan { generation, spec }, Said::Plan)
            }
            PlanMessage::Nothing => (Wanted::Nothing, Said::Nothing),
            PlanMessage::Removed => {
                tracing::warn!("this host was removed at the hub, cleaning up");
                (Wanted::Removed, Said::Removed)
            }
        };
        host.want(wanted);
        said.send_replace(word);
    }
}

/// Tells facts and states; ends when a removed host has told that it is clean.
async fn up(
    mut output: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
    mut facts: watch::Receiver<HostFacts>,
    mut said: watch::Receiver<Said>,
    mut board: watch::Receiver<Status>,
) -> Result<(), LineError> {
    let now = facts.borrow_and_update().clone();
    lines::send(&mut output, &AgentMessage::Facts(now)).await?;
    let mut told = None;
    loop {
        let word = *said.borrow_and_update();
        let absent = listen::absent(&board.borrow_and_update().problems);
        let message = message(word, &state.borrow_and_update(), absent);
        if let Some(message) = message.filter(|it| told.as_ref() != Some(&(word, it.clone()))) {
            lines::send(&mut output, &message).await?;
            if word == Said::Removed && message == AgentMessage::Clean {
                return Ok(());
            }
            told = Some((word, message));
            sleep(REPORT_GAP).await;
        }
        // Their senders live as long as the agent; without them nothing changes any more.
        tokio::select! {
            Ok(()) = state.changed() => {}
            Ok(()) = said.changed() => {}
            Ok(()) = board.changed() => {}
            Ok(()) = facts.changed() => {
                let now = facts.borrow_and_update().clone();
                lines::send(&mut output, &AgentMessage::Facts(now)).await?;
            }
            else => std::future::pending().await,
        }
    }
}

/// What to tell, if anything.
fn message(said: Said, state: &State, absent: Vec<UnitStatus>) -> Option<AgentMessage> {
    match (said, state) {
        (Said::NotYet, _) | (_, State::Unknown) | (Said::Plan, State::Clean) => None,
        (Said::Nothing | Said::Removed, State::Clean) => Some(AgentMessage::Clean),
        (_, State::Report(report)) => Some(AgentMessage::Report {
            generation: report.generation,
            applied: report.applied,
            units: report.units.iter().cloned().chain(absent).collect(),
        }),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
