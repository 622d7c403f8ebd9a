//! What a session promises: hello, deadlines, caps, drain, death.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

mod common;

use std::{io::ErrorKind, time::Duration};

use common::{Pair, eventually, header, hello, joined, pair, pair_over, pair_with, serve_echo};
use farplane_tunnel::{CloseReason, Config, OpenError, RefusalCode, Session, SessionError};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    time::{Instant, timeout},
};

#[tokio::test]
async fn hellos_are_exchanged() {
    let (left, right) = duplex(4096);
    let mut special = hello();
    special.agent_version = "9.9".to_owned();
    special.capabilities = vec!["future".to_owned()];
    let (agent, hub) = tokio::join!(
        Session::connect(left, special.clone(), Config::default()),
        Session::accept(right, hello(), Config::default()),
    );
    assert_eq!(*hub.unwrap().0.peer(), special);
    assert_eq!(*agent.unwrap().0.peer(), hello());
}

#[tokio::test]
async fn another_major_version_is_a_clear_error_on_both_sides() {
    let (left, right) = duplex(4096);
    let mut future = hello();
    future.version = 0x0203;
    let (agent, hub) = tokio::join!(
        Session::connect(left, future, Config::default()),
        Session::accept(right, hello(), Config::default()),
    );
    let text = agent.unwrap_err().to_string();
    assert_eq!(text, "peer speaks protocol version 1.0, this side 2.3");
    assert!(matches!(
        hub.unwrap_err(),
        SessionError::Version {
            ours: 0x0100,
            theirs: 0x0203
        }
    ));
}

#[tokio::test]
async fn another_minor_version_is_fine() {
    let (left, right) = duplex(4096);
    let mut newer = hello();
    newer.version = 0x0107;
    let (agent, hub) = tokio::join!(
        Session::connect(left, newer, Config::default()),
        Session::accept(right, hello(), Config::default()),
    );
    assert!(agent.is_ok() && hub.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_hello_is_given_up() {
    let (left, _right) = duplex(4096);
    let error = Session::connect(left, hello(), Config::default())
        .await
        .unwrap_err();
    assert!(matches!(error, SessionError::HelloTimeout { .. }));
}

#[tokio::test]
async fn garbage_instead_of_a_session_is_an_error() {
    let (left, mut right) = duplex(4096);
    right.write_all(&[0xff; 4096]).await.unwrap();
    let result = timeout(
        Duration::from_secs(10),
        Session::accept(left, hello(), Config::default()),
    );
    assert!(matches!(
        result.await.unwrap().unwrap_err(),
        SessionError::OpenControl {
            reason: CloseReason::Protocol(_)
        }
    ));
}

#[tokio::test]
async fn each_refusal_arrives_with_code_and_text() {
    let mut pair = pair().await;
    for code in RefusalCode::ALL {
        let (opened, ()) = tokio::join!(pair.agent.open(header("x")), async {
            let stream = pair.hub_incoming.next().await.unwrap();
            stream.refuse(code, "because").await;
        });
        match opened.unwrap_err() {
            OpenError::Refused { code: got, message } => {
                assert_eq!((got, message.as_str()), (code, "because"));
            }
            other => panic!("{other}"),
        }
    }
    for session in [&pair.agent, &pair.hub] {
        eventually("nothing pending", || {
            let stats = session.stats();
            (stats.open_streams, stats.pending_in, stats.pending_out) == (0, 0, 0)
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_ends_at_its_deadline_and_frees_the_peer() {
    let mut pair = pair().await;
    let began = Instant::now();
    let mut slow = header("slow");
    slow.deadline_ms = 1500;
    let error = pair.agent.open(slow).await.unwrap_err();
    assert!(matches!(error, OpenError::Timeout { .. }), "{error}");
    assert_eq!(began.elapsed().as_millis(), 1500);
    let stream = pair.hub_incoming.next().await.unwrap();
    assert_eq!(
        stream.accept().await.unwrap_err().kind(),
        ErrorKind::TimedOut
    );
    assert_eq!(pair.agent.stats().pending_out, 0);
    assert_eq!(pair.hub.stats().pending_in, 0);
}

#[tokio::test(start_paused = true)]
async fn an_open_never_waits_longer_than_the_session_allows() {
    let pair = pair().await;
    let began = Instant::now();
    let mut slow = header("slow");
    slow.deadline_ms = 3_600_000;
    assert!(pair.agent.open(slow).await.is_err());
    assert_eq!(began.elapsed(), Config::default().open_timeout);
}

#[tokio::test]
async fn a_cancelled_open_is_taken_back_at_the_peer() {
    let mut pair = pair().await;
    let agent = pair.agent.clone();
    let opening = tokio::spawn(async move { agent.open(header("x")).await.map(drop) });
    let stream = pair.hub_incoming.next().await.unwrap();
    opening.abort();
    _ = opening.await;
    eventually("the place is free", || pair.agent.stats().pending_out == 0).await;
    let accepted = stream.accept().await;
    if let Ok(mut stream) = accepted {
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    // The session is as good as before.
    serve_echo(pair.hub_incoming);
    pair.agent.open(header("echo")).await.unwrap();
}

#[tokio::test]
async fn opens_cancelled_at_any_moment_leave_nothing() {
    let pair = pair().await;
    serve_echo(pair.hub_incoming);
    for polls in 0..40_u32 {
        let mut opening = Box::pin(pair.agent.open(header("echo")));
        for _ in 0..polls {
            if futures::poll!(&mut opening).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    pair.agent.open(header("echo")).await.unwrap();
    for session in [&pair.agent, &pair.hub] {
        eventually("all counts at zero", || {
            let stats = session.stats();
            (stats.open_streams, stats.pending_in, stats.pending_out) == (0, 0, 0)
        })
        .await;
    }
}

#[tokio::test]
async fn pending_opens_beyond_the_cap_are_busy_here() {
    let few = Config {
        max_pending_opens: 3,
        ..Config::default()
    };
    let pair = pair_with(few, Config::default()).await;
    let opening: Vec<_> = (0..3)
        .map(|_| {
            let agent = pair.agent.clone();
            tokio::spawn(async move { agent.open(header("x")).await.map(drop) })
        })
        .collect();
    eventually("three pending", || pair.agent.stats().pending_out == 3).await;
    let error = pair.agent.open(header("x")).await.unwrap_err();
    assert!(matches!(error, OpenError::Busy));
    for task in opening {
        task.abort();
    }
    eventually("none pending", || pair.agent.stats().pending_out == 0).await;
}

#[tokio::test]
async fn pending_opens_beyond_the_cap_are_refused_there() {
    let few = Config {
        max_pending_opens: 3,
        ..Config::default()
    };
    let pair = pair_with(Config::default(), few).await;
    let opening: Vec<_> = (0..3)
        .map(|_| {
            let agent = pair.agent.clone();
            tokio::spawn(async move { agent.open(header("x")).await.map(drop) })
        })
        .collect();
    eventually("three pending", || pair.hub.stats().pending_in == 3).await;
    match pair.agent.open(header("x")).await.unwrap_err() {
        OpenError::Refused { code, .. } => assert_eq!(code, RefusalCode::Busy),
        other => panic!("{other}"),
    }
    drop(opening);
}

#[tokio::test]
async fn open_streams_beyond_the_cap_are_refused() {
    let few = Config {
        max_streams: 2,
        ..Config::default()
    };
    let pair = pair_with(Config::default(), few).await;
    serve_echo(pair.hub_incoming);
    let first = pair.agent.open(header("echo")).await.unwrap();
    let _second = pair.agent.open(header("echo")).await.unwrap();
    let error = pair.agent.open(header("echo")).await.unwrap_err();
    assert!(matches!(
        error,
        OpenError::Refused {
            code: RefusalCode::Busy,
            ..
        }
    ));
    drop(first);
    eventually("a place is free", || pair.hub.stats().open_streams == 1).await;
    pair.agent.open(header("echo")).await.unwrap();
}

#[tokio::test]
async fn draining_refuses_new_streams_and_keeps_old_ones() {
    let mut pair = pair().await;
    let (mut near, mut far) = joined(&mut pair).await;
    let mut told = pair.agent.draining();
    assert!(!*told.borrow());
    pair.hub.drain().await;
    told.wait_for(|draining| *draining).await.unwrap();
    let error = pair.agent.open(header("x")).await.unwrap_err();
    assert!(matches!(error, OpenError::Draining));
    near.write_all(b"still").await.unwrap();
    let mut got = [0; 5];
    far.read_exact(&mut got).await.unwrap();
    // The draining side itself may still open.
    serve_echo(pair.agent_incoming);
    pair.hub.open(header("echo")).await.unwrap();
}

#[tokio::test]
async fn the_reason_for_closing_arrives() {
    let pair = pair().await;
    pair.hub.close("upgrade");
    assert!(pair.hub.is_closed());
    assert_eq!(
        pair.agent.closed().await,
        CloseReason::Peer("upgrade".to_owned())
    );
    assert_eq!(
        pair.hub.closed().await,
        CloseReason::Local("upgrade".to_owned())
    );
    let error = pair.agent.open(header("x")).await.unwrap_err();
    assert!(matches!(error, OpenError::Closed { .. }));
}

#[tokio::test]
async fn incoming_ends_with_the_session() {
    let Pair {
        agent,
        mut hub_incoming,
        ..
    } = pair().await;
    agent.close("bye");
    let next = timeout(Duration::from_secs(10), hub_incoming.next());
    assert!(next.await.unwrap().is_none());
}

#[tokio::test]
async fn a_session_ends_when_nobody_holds_it_and_not_before() {
    let mut pair = pair().await;
    let (mut near, mut far) = joined(&mut pair).await;
    drop((pair.agent, pair.agent_incoming));
    near.write_all(b"alive").await.unwrap();
    let mut got = [0; 5];
    far.read_exact(&mut got).await.unwrap();
    assert!(!pair.hub.is_closed());
    drop(near);
    let ended = timeout(Duration::from_secs(10), pair.hub.closed()).await;
    assert!(matches!(ended.unwrap(), CloseReason::Peer(_)));
}

#[tokio::test]
async fn a_cut_carrier_resets_streams_at_once() {
    let (left, middle_left) = duplex(1 << 16);
    let (middle_right, right) = duplex(1 << 16);
    let relay = tokio::spawn(farplane_tunnel::splice(middle_left, middle_right, None));
    let mut pair = pair_over(left, right, Config::default(), Config::default())
        .await
        .unwrap();
    let (mut near, mut far) = joined(&mut pair).await;
    near.shutdown().await.unwrap();
    relay.abort();
    // Its own direction ended already, so the multiplexer sees nothing but an end.
    let error = near.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // The end arrived or it did not; what must not be is a wait.
    _ = timeout(Duration::from_secs(10), far.read_u8())
        .await
        .unwrap();
    pair.agent.closed().await;
    pair.hub.closed().await;
}

/// A carrier that swallows everything from some moment on, without an error.
async fn black_hole() -> (Pair, tokio::task::JoinHandle<()>) {
    let (left, mut middle_left) = duplex(1 << 16);
    let (mut middle_right, right) = duplex(1 << 16);
    let relay = tokio::spawn(async move {
        _ = tokio::io::copy_bidirectional(&mut middle_left, &mut middle_right).await;
    });
    let pair = pair_over(left, right, Config::default(), Config::default())
        .await
        .unwrap();
    (pair, relay)
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_found_within_25_seconds() {
    // Nobody reads or writes the far end, and it stays open.
    let (left, right) = duplex(1 << 20);
    let (agent, hub) = tokio::join!(
        Session::connect(left, hello(), Config::default()),
        common::hello_then_silence(right),
    );
    let (agent, _incoming) = agent.unwrap();
    let began = Instant::now();
    assert!(matches!(agent.closed().await, CloseReason::EchoTimeout(_)));
    assert!(
        began.elapsed() <= Duration::from_secs(25),
        "{:?}",
        began.elapsed()
    );
    drop(hub);
}

#[tokio::test(start_paused = true)]
async fn a_living_idle_session_lasts_and_measures() {
    let (pair, _relay) = black_hole().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!pair.agent.is_closed() && !pair.hub.is_closed());
    assert!(pair.agent.stats().echo_rtt.is_some());
    assert!(pair.hub.stats().echo_rtt.is_some());
}
