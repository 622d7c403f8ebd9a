//! A new certificate at half life of the old one, with a new key.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farplane_tunnel::lines::{LineError, LineReader, MAX_LINE_BYTES};
use farplane_tunnel::{Class, OpenHeader};
use farplane_types::wire::{IssuedCertificate, RenewRequest, WireError, service};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::enrol;
use crate::identity::{self, Identity, IdentityError};
use crate::sessions::{NoStream, Tunnels};
use crate::status::Board;

/// Longest step of the clock that is waited for at once: it may be set meanwhile.
const LOOK: Duration = Duration::from_secs(30);
/// Longest time for the hub's answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Pause after a failure; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// A clock that is far off would make every certificate look old.
const SHORTEST_LIFE: Duration = Duration::from_secs(600);

/// Why there is no new certificate yet.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// No way to the hub.
    #[error("failed to ask for a new certificate: {0}")]
    Stream(#[from] NoStream),
    /// The exchange broke.
    #[error("the hub broke off: {0}")]
    Line(#[from] LineError),
    /// The hub ended the stream.
    #[error("the hub gave no answer")]
    NoAnswer,
    /// The hub said no.
    #[error("the hub refused: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// It is for somebody else.
    #[error("the hub sent the certificate of {identity}, which is not this host")]
    OtherIdentity {
        /// For whom it is.
        identity: String,
    },
    /// Key or files.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Issued(Box<IssuedCertificate>),
    Refused(WireError),
}

/// What renewing needs.
pub struct Renewal {
    /// The sessions.
    pub tunnels: Arc<Tunnels>,
    /// Where the identity is kept.
    pub agent_dir: PathBuf,
    /// Who follows it.
    pub identity: watch::Sender<Arc<Identity>>,
    /// Where to say how it goes.
    pub board: Arc<Board>,
}

impl Renewal {
    /// Renews for ever.
    pub async fn run(self) {
        let mut made = None;
        loop {
            let now = self.identity.borrow().clone();
            self.until_due(&now, made).await;
            let mut pause = FIRST_PAUSE;
            loop {
                match self.once().await {
                    Ok(()) => break,
                    Err(error) => {
                        let reason = crate::causes(&error);
                        tracing::warn!(reason, "certificate not renewed, trying again");
                        self.board.problem("renewal", Some(reason));
                        sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                        pause = (pause * 2).min(MAX_PAUSE);
                    }
                }
            }
            made = Some(Instant::now());
            self.board.problem("renewal", None);
        }
    }

    async fn until_due(&self, identity: &Identity, made: Option<Instant>) {
        // One that cannot be read is of no use; a new one is due.
        let due = identity.times().map(|times| times.due(rand::random()));
        let due = due.unwrap_or(Timestamp::MIN);
        let rest = || {
            made.map_or(Duration::ZERO, |made| {
                SHORTEST_LIFE.saturating_sub(made.elapsed())
            })
        };
        while Timestamp::now() < due || !rest().is_zero() {
            let left = due.as_second().saturating_sub(Timestamp::now().as_second());
            let left = Duration::from_secs(u64::try_from(left).unwrap_or(0));
            sleep(left.max(rest()).min(LOOK)).await;
        }
    }

    async fn once(&self) -> Result<(), RenewError> {
        let key = identity::new_key()?;
        let csr = identity::request(&key)?;
        let issued = timeout(ANSWER_DEADLINE, self.ask(csr)).await;
        let issued = issued.map_err(|_| RenewError::NoAnswer)??;
        let old = self.identity.borrow().clone();
        if issued.identity != old.identity {
            return Err(RenewError::OtherIdentity {
                identity: issued.identity,
            });
        }
        let new = enrol::accept(issued, &key)?;
        new.store(&self.agent_dir)?;
        let times = new.times()?;
        tracing::info!(until = %times.not_after, "certificate renewed");
        self.board
            .change(|status| status.certificate_not_after = Some(times.not_after));
        self.identity.send_replace(Arc::new(new));
        Ok(())
    }

    async fn ask(&self, csr: String) -> Result<IssuedCertificate, RenewError> {
        let header = OpenHeader::new(Class::Interactive, service::RENEW);
        let stream = self.tunnels.open(header, ANSWER_DEADLINE).await?;
        let (input, mut output) = tokio::io::split(stream);
        // The end of the stream ends the line. A hub that has read it does not reset the stream
        // behind its answer, which might be lost with that.
        let line = serde_json::to_vec(&RenewRequest { csr });
        let line = line.map_err(|source| LineError::Malformed { source })?;
        let broken = |source| LineError::Stream { source };
        output.write_all(&line).await.map_err(broken)?;
        output.shutdown().await.map_err(broken)?;
        let mut lines = LineReader::new(BufReader::new(input), MAX_LINE_BYTES);
        match lines.next::<Answer>().await? {
            None => Err(RenewError::NoAnswer),
            Some(Answer::Issued(issued)) => Ok(*issued),
            Some(Answer::Refused(error)) => Err(RenewError::Refused {
                reason: error.error,
            }),
        }
    }
}
