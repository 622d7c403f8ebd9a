//! The task that owns the control stream: hello, echo, drain, close.
//!
//! An echo goes out `echo_interval` after the last reply (or after the session began). The peer
//! is dead when neither the reply nor any other byte has arrived for `echo_timeout`: a slow link
//! full of bulk data delays the reply of a living peer. Such patience ends [`PATIENCE`] times
//! the timeout after the echo, since only a reply shows that the peer's own loop works.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    control::Frame,
    error::{CloseReason, SessionError},
    shared::{Say, Shared},
    stream::RawStream,
    wire::Hello,
};

/// Replies that wait to be written; a peer that asks more and reads nothing is cut off.
const MAX_UNSENT_BYTES: usize = 256 * 1024;
/// How many echo timeouts a peer may take when other bytes arrive.
const PATIENCE: u32 = 4;
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Sends this side's hello and reads the peer's. Leftover bytes stay in `inbox`.
pub(crate) async fn exchange_hello(
    control: &mut RawStream,
    inbox: &mut BytesMut,
    hello: &Hello,
) -> Result<Hello, SessionError> {
    let mut out = BytesMut::new();
    Frame::Hello(hello.clone())
        .encode(&mut out)
        .map_err(|source| SessionError::EncodeHello { source })?;
    control
        .write_all(&out)
        .await
        .map_err(|source| SessionError::SendHello { source })?;
    let theirs = receive_hello(control, inbox).await?;
    if hello.compatible_with(&theirs) {
        Ok(theirs)
    } else {
        Err(SessionError::Version {
            ours: hello.version,
            theirs: theirs.version,
        })
    }
}

async fn receive_hello(
    control: &mut (impl AsyncRead + Unpin),
    inbox: &mut BytesMut,
) -> Result<Hello, SessionError> {
    loop {
        let frame = Frame::decode(inbox).map_err(|source| SessionError::DecodeHello { source })?;
        match frame {
            Some(Frame::Hello(hello)) => return Ok(hello),
            Some(_) => return Err(SessionError::NoHello),
            None => {}
        }
        let count = control
            .read_buf(inbox)
            .await
            .map_err(|source| SessionError::ReceiveHello { source })?;
        if count == 0 {
            return Err(SessionError::ReceiveHello {
                source: io::ErrorKind::UnexpectedEof.into(),
            });
        }
    }
}

/// The control stream after the hello.
pub(crate) struct Liveness {
    shared: Arc<Shared>,
    control: RawStream,
    inbox: BytesMut,
    out: BytesMut,
    number: u64,
    waiting: Option<Waiting>,
    next: Instant,
}

/// An echo without its reply yet.
struct Waiting {
    since: Instant,
}

impl Liveness {
    pub(crate) fn new(shared: Arc<Shared>, control: RawStream, inbox: BytesMut) -> Self {
        let next = Instant::now() + shared.config.echo_interval;
        Self {
            shared,
            control,
            inbox,
            out: BytesMut::new(),
            number: 0,
            waiting: None,
            next,
        }
    }

    /// Runs until the session ends and ends it when the peer is gone.
    pub(crate) async fn run(mut self, mut say: mpsc::Receiver<Say>) {
        let mut closed = self.shared.watch_closed();
        let ended = tokio::select! {
            biased;
            _ = closed.wait_for(Option::is_some) => None,
            reason = self.talk(&mut say) => reason,
        };
        match ended {
            Some(reason) => self.shared.finish(reason),
            None => self.say_close().await,
        }
    }

    /// `None` when the stream ended without a word: the driver knows more.
    async fn talk(&mut self, say: &mut mpsc::Receiver<Say>) -> Option<CloseReason> {
        loop {
            match self.handle_inbox() {
                Ok(None) => {}
                Ok(Some(reason)) | Err(reason) => return Some(reason),
            }
            let (mut reader, mut writer) = tokio::io::split(&mut self.control);
            tokio::select! {
                read = reader.read_buf(&mut self.inbox) => match read {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                },
                written = writer.write_buf(&mut self.out), if !self.out.is_empty() => {
                    if written.is_err() {
                        return None;
                    }
                }
                Some(Say::Drain(done)) = say.recv() => {
                    self.push(&Frame::Drain);
                    _ = done.send(());
                }
                () = sleep_until(self.next) => {
                    if let Some(reason) = self.on_time() {
                        return Some(reason);
                    }
                }
            }
        }
    }

    /// Deals with every complete frame.
    fn handle_inbox(&mut self) -> Result<Option<CloseReason>, CloseReason> {
        loop {
            let frame = Frame::decode(&mut self.inbox)
                .map_err(|error| CloseReason::Protocol(error.to_string()))?;
            match frame {
                None => return Ok(None),
                Some(Frame::Echo(number)) => self.push(&Frame::EchoReply(number)),
                Some(Frame::EchoReply(number)) if number == self.number => self.on_reply(),
                Some(Frame::Drain) => {
                    self.shared.peer_draining.send_replace(true);
                }
                Some(Frame::Close(text)) => return Ok(Some(CloseReason::Peer(text))),
                // Late replies, a second hello, and what only a newer version knows.
                Some(Frame::EchoReply(_) | Frame::Hello(_) | Frame::Unknown { .. }) => {}
            }
            if self.out.len() > MAX_UNSENT_BYTES {
                return Err(CloseReason::Protocol(
                    "peer does not read the control stream".to_owned(),
                ));
            }
        }
    }

    fn on_reply(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.shared.set_rtt(waiting.since.elapsed());
            self.next = Instant::now() + self.shared.config.echo_interval;
        }
    }

    /// Sends the next echo, or judges the one that waits.
    fn on_time(&mut self) -> Option<CloseReason> {
        let now = Instant::now();
        let limit = self.shared.config.echo_timeout;
        let Some(waiting) = &self.waiting else {
            self.number += 1;
            self.waiting = Some(Waiting { since: now });
            self.push(&Frame::Echo(self.number));
            self.next = now + limit;
            return None;
        };
        let heard = self.shared.wire.last_received().max(waiting.since);
        let deadline = (heard + limit).min(waiting.since + limit * PATIENCE);
        if now >= deadline {
            return Some(CloseReason::EchoTimeout(limit));
        }
        self.next = deadline;
        None
    }

    /// Tells the peer why, as far as it can be told in a moment.
    async fn say_close(&mut self) {
        if let Some(CloseReason::Local(reason)) = self.shared.close_reason() {
            self.push(&Frame::Close(reason));
            let mut out = std::mem::take(&mut self.out);
            _ = timeout(LAST_WORDS, self.control.write_all_buf(&mut out)).await;
        }
    }

    fn push(&mut self, frame: &Frame) {
        // Only a hello can be too long, and none is sent here.
        _ = frame.encode(&mut self.out);
    }
}
