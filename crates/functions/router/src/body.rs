//! Bodies of answers: a text of ours, or an instance's, passed on piece by piece.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::pool::{Link, Peer};
use crate::state::Place;

/// Why an answer breaks off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The instance or its connection failed.
    #[error("the function's answer broke off: {0}")]
    Instance(#[from] hyper::Error),
    /// It took too long.
    #[error("the function's answer took longer than it may")]
    Timeout,
}

/// A body of a request on its way to an instance.
pub enum Sent {
    /// A client's, passed on piece by piece.
    Client(Incoming),
    /// One that was read whole, since its signature had to be checked.
    Whole(Full<Bytes>),
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Client(body) => Pin::new(body).poll_frame(cx),
            Self::Whole(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(|never| match never {})))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(body) => body.is_end_stream(),
            Self::Whole(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(body) => body.size_hint(),
            Self::Whole(body) => body.size_hint(),
        }
    }
}

/// A body of an answer.
pub enum Body {
    /// Ours.
    Text(Option<Bytes>),
    /// An instance's.
    Instance(Box<Passed>),
}

impl Body {
    /// Ours.
    pub fn text(text: impl Into<Bytes>) -> Self {
        let text = text.into();
        Self::Text((!text.is_empty()).then_some(text))
    }
}

/// What a call holds until its answer has been passed on.
pub struct Call {
    /// Its place; none when another router counts it.
    pub place: Option<Place>,
    /// Its connection.
    pub link: Link,
    /// Where the connection goes afterwards.
    pub peer: Arc<Peer>,
}

/// When an answer is cut.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// At this moment, whatever comes.
    At(Instant),
    /// After this long without a byte, and at this moment in any case.
    Idle(Duration, Option<Instant>),
}

impl Limit {
    fn next(self) -> Instant {
        match self {
            Self::At(at) => at,
            Self::Idle(idle, last) => {
                let at = Instant::now() + idle;
                last.map_or(at, |last| at.min(last))
            }
        }
    }
}

/// An instance's body, which drives the connection that it comes by. Once it has ended, the call's
/// connection and place are free again; when it is dropped before, the connection is closed, so
/// that the instance notices.
pub struct Passed {
    inner: Incoming,
    call: Option<Call>,
    limit: Limit,
    /// Begun when there is something to wait for.
    clock: Option<Pin<Box<Sleep>>>,
}

impl Passed {
    /// Passes on what comes.
    pub fn on(inner: Incoming, call: Call, limit: Limit) -> Body {
        let mut passed = Self {
            inner,
            call: Some(call),
            limit,
            clock: None,
        };
        // Nobody asks for a body that is known to be empty.
        if passed.inner.is_end_stream() {
            passed.finish();
        }
        Body::Instance(Box::new(passed))
    }

    fn finish(&mut self) {
        if let Some(Call { place, link, peer }) = self.call.take() {
            peer.put(link);
            drop(place);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // Asking for more comes first: the connection reads no more than is asked for.
        let mut polled = Pin::new(&mut self.inner).poll_frame(cx);
        if polled.is_pending()
            && let Some(call) = &mut self.call
        {
            call.link.drive(cx);
            polled = Pin::new(&mut self.inner).poll_frame(cx);
        }
        let Poll::Ready(frame) = polled else {
            ready!(self.wait(cx));
            self.call = None;
            return Poll::Ready(Some(Err(BodyError::Timeout)));
        };
        if matches!(self.limit, Limit::Idle(..)) {
            self.clock = None;
        }
        if matches!(frame, Some(Err(_))) {
            self.call = None;
        } else if frame.is_none() || self.inner.is_end_stream() {
            self.finish();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }

    /// Ready when the answer has taken too long.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let clock = self
            .clock
            .get_or_insert_with(|| Box::pin(sleep_until(limit.next())));
        clock.as_mut().poll(cx)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Instance(passed) => passed.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Instance(passed) => passed.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(None) => SizeHint::with_exact(0),
            Self::Text(Some(text)) => SizeHint::with_exact(text.len() as u64),
            Self::Instance(passed) => passed.inner.size_hint(),
        }
    }
}
