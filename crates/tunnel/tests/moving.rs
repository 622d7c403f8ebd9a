//! Streams that move to another session while bytes flow.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

mod common;

use std::time::Duration;

use common::{Pair, header, pair};
use farplane_tunnel::{MOVE, Moves, MovingStream, Session, splice_moving};
use proptest::prelude::*;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex,
};
use tokio::runtime::Handle;

const MIB: usize = 1024 * 1024;

/// Two sessions between the same two: streams open on the first and may move to the second.
struct Both {
    first: Pair,
    second: Option<Pair>,
    moves: Moves,
    key: String,
}

impl Both {
    async fn new() -> Self {
        Self {
            first: pair().await,
            second: Some(pair().await),
            moves: Moves::default(),
            key: MovingStream::key(),
        }
    }

    /// The hub hands over what arrives on the second session.
    fn hand_over(&mut self, owner: &'static str) -> Session {
        let second = self.second.take().unwrap();
        let (moves, mut incoming) = (self.moves.clone(), second.hub_incoming);
        let keep = (second.agent_incoming, second.hub);
        tokio::spawn(async move {
            let _keep = keep;
            while let Some(stream) = incoming.next().await {
                assert_eq!(stream.header().service, MOVE);
                moves.hand_over(owner, stream).await;
            }
        });
        second.agent
    }

    /// A stream that moves to `target`, from both sides.
    async fn open(&mut self, target: Option<Session>) -> (MovingStream, MovingStream) {
        let key = self.key.clone();
        let mut asked = header("test");
        asked.moves = Some(key.clone());
        let moves = self.moves.clone();
        let (opened, accepted) = tokio::join!(self.first.agent.open(asked), async {
            let stream = self.first.hub_incoming.next().await.unwrap();
            let key = stream.header().moves.clone();
            moves.accepted("agent", key.as_deref(), stream.accept().await.unwrap())
        });
        let opened = MovingStream::opened(opened.unwrap(), key, move || target);
        (opened, accepted)
    }
}

/// Bytes that show when one is lost, doubled or out of order.
fn pattern(count: usize, seed: u8) -> Vec<u8> {
    let byte = |at: usize| (at % 251) as u8 ^ (at / 65_521) as u8 ^ seed;
    (0..count).map(byte).collect()
}

/// Splices a stream with one end of a pipe; the other end is for the test.
fn spliced(stream: MovingStream) -> (DuplexStream, tokio::task::JoinHandle<bool>) {
    let (near, far) = duplex(64 * 1024);
    let task = tokio::spawn(async move {
        let bulk = Handle::current();
        splice_moving(far, stream, &bulk).await.is_ok()
    });
    (near, task)
}

async fn write(mut to: impl AsyncWrite + Unpin, bytes: &[u8], piece: usize) {
    for piece in bytes.chunks(piece) {
        to.write_all(piece).await.unwrap();
    }
    to.shutdown().await.unwrap();
}

async fn read(mut from: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).await.map(|_| all)
}

/// Both directions at once, each with its own end; answers what arrived here and there.
async fn exchange(
    (here, there): (DuplexStream, DuplexStream),
    (up, down): (&[u8], &[u8]),
    piece: usize,
) -> (Vec<u8>, Vec<u8>) {
    let (here_reader, here_writer) = tokio::io::split(here);
    let (there_reader, there_writer) = tokio::io::split(there);
    let ((), (), here, there) = tokio::join!(
        write(here_writer, up, piece),
        write(there_writer, down, piece),
        read(here_reader),
        read(there_reader),
    );
    (here.unwrap(), there.unwrap())
}

#[tokio::test]
async fn a_bulky_stream_moves_with_every_byte_in_order() {
    let mut both = Both::new().await;
    let target = both.hand_over("agent");
    let (opened, accepted) = both.open(Some(target.clone())).await;
    let ((here, near), (there, far)) = (spliced(opened), spliced(accepted));
    let (up, down) = (pattern(8 * MIB, 1), pattern(5 * MIB, 2));
    let (got_down, got_up) = exchange((here, there), (&up, &down), 10_000).await;
    assert!(got_up == up && got_down == down);
    assert!(near.await.unwrap() && far.await.unwrap());
    assert_eq!(both.first.agent.stats().open_streams, 0);
    assert_eq!(target.stats().open_streams, 0);
}

#[tokio::test]
async fn it_leaves_the_session_that_it_came_from() {
    let mut both = Both::new().await;
    let target = both.hand_over("agent");
    let (opened, accepted) = both.open(Some(target.clone())).await;
    let ((mut here, _near), (mut there, _far)) = (spliced(opened), spliced(accepted));
    let mut sunk = vec![0; 64 * 1024];
    let moved = || both.first.agent.stats().open_streams == 0 && target.stats().open_streams == 1;
    for _ in 0..1000 {
        if moved() {
            break;
        }
        here.write_all(&[7; 64 * 1024]).await.unwrap();
        there.read_exact(&mut sunk).await.unwrap();
        // The direction that carries nothing moves as well.
        there.write_all(b"!").await.unwrap();
        assert_eq!(here.read_u8().await.unwrap(), b'!');
    }
    assert!(moved(), "{:?}", both.first.agent.stats());
}

#[tokio::test]
async fn a_quiet_stream_stays() {
    let mut both = Both::new().await;
    let target = both.hand_over("agent");
    let (opened, accepted) = both.open(Some(target.clone())).await;
    let ((mut here, _near), (mut there, _far)) = (spliced(opened), spliced(accepted));
    here.write_all(&[1; 1000]).await.unwrap();
    there.read_exact(&mut [0; 1000]).await.unwrap();
    assert_eq!(target.stats().open_streams, 0);
    assert_eq!(both.first.agent.stats().open_streams, 1);
}

#[tokio::test]
async fn without_a_target_or_when_refused_it_stays_and_is_complete() {
    // No target; a peer that knows of no moves; a peer that calls us by another name.
    for case in 0..3 {
        let mut both = Both::new().await;
        let target = match case {
            0 => None,
            1 => {
                let mut second = both.second.take().unwrap();
                let agent = second.agent.clone();
                tokio::spawn(async move {
                    while let Some(stream) = second.hub_incoming.next().await {
                        let code = farplane_tunnel::RefusalCode::UnknownService;
                        stream.refuse(code, "what is that?").await;
                    }
                });
                Some(agent)
            }
            _ => Some(both.hand_over("somebody else")),
        };
        let (opened, accepted) = both.open(target).await;
        let ((here, near), (there, far)) = (spliced(opened), spliced(accepted));
        let (up, down) = (pattern(4 * MIB, 3), pattern(100, 4));
        let (got_down, got_up) = exchange((here, there), (&up, &down), 65_536).await;
        assert!(got_up == up && got_down == down, "case {case}");
        assert!(near.await.unwrap() && far.await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_without_an_answer_breaks_the_stream_and_never_ends_it() {
    let mut both = Both::new().await;
    let second = both.second.take().unwrap();
    // Nobody takes what arrives: neither yes nor no is said.
    let (opened, accepted) = both.open(Some(second.agent.clone())).await;
    let ((mut here, near), (there, far)) = (spliced(opened), spliced(accepted));
    let sinking = tokio::spawn(async move { read(there).await });
    let bytes = pattern(4 * MIB, 5);
    // The pipe breaks once the stream is lost.
    _ = here.write_all(&bytes).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!near.await.unwrap() && !far.await.unwrap());
    _ = sinking.await;
    drop(second);
}

#[tokio::test]
async fn when_the_new_session_dies_the_stream_is_reset() {
    let mut both = Both::new().await;
    let target = both.hand_over("agent");
    let (opened, accepted) = both.open(Some(target.clone())).await;
    let ((mut here, near), (mut there, far)) = (spliced(opened), spliced(accepted));
    let mut sunk = vec![0; 64 * 1024];
    while target.stats().open_streams == 0 {
        here.write_all(&[7; 64 * 1024]).await.unwrap();
        there.read_exact(&mut sunk).await.unwrap();
    }
    target.close("test");
    assert!(!near.await.unwrap() && !far.await.unwrap());
}

#[tokio::test]
async fn what_ends_gives_its_place_up() {
    let mut both = Both::new().await;
    let target = both.hand_over("agent");
    drop(both.open(None).await);
    let mut asked = header(MOVE);
    asked.target = Some(both.key.clone());
    assert!(target.open(asked).await.is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the sizes, pieces and order of ends, both sides get exactly what was sent.
    #[test]
    fn bytes_survive_whenever_it_moves(
        up in 0..3 * MIB,
        down in 0..3 * MIB,
        piece in 1000..200_000_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut both = Both::new().await;
            let target = both.hand_over("agent");
            let (opened, accepted) = both.open(Some(target)).await;
            let ((here, near), (there, far)) = (spliced(opened), spliced(accepted));
            let (up, down) = (pattern(up, 6), pattern(down, 7));
            let (got_down, got_up) = exchange((here, there), (&up, &down), piece).await;
            assert!(got_up == up && got_down == down);
            assert!(near.await.unwrap() && far.await.unwrap());
        });
    }
}
