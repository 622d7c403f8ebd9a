//! What a stream promises: bytes, half-close, resets, credit.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

mod common;

use std::{io::ErrorKind, time::Duration};

use common::{Pair, eventually, header, joined, pair, pair_with, round_trip, serve_echo};
use farplane_tunnel::{Config, splice};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    time::timeout,
};

/// What a stream may have under way at the start, less the header's share.
const WINDOW: u64 = 255 * 1024;

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length)
        .map(|index| u8::try_from((index * 31 + seed + index / 251) % 256).unwrap())
        .collect()
}

#[tokio::test]
async fn both_sides_open_streams_and_get_their_bytes_back() {
    let pair = pair().await;
    serve_echo(pair.hub_incoming);
    serve_echo(pair.agent_incoming);
    for (index, session) in [&pair.agent, &pair.hub].into_iter().enumerate() {
        let mut stream = session.open(header("echo")).await.unwrap();
        let sent = pattern(200_000, index);
        assert_eq!(round_trip(&mut stream, &sent).await, sent);
    }
}

#[tokio::test]
async fn a_header_arrives_as_it_was_sent() {
    let mut pair = pair().await;
    let mut sent = header("net");
    sent.plane = Some("uid".to_owned());
    sent.target = Some("10.0.0.1:443".to_owned());
    sent.deadline_ms = 4000;
    sent.trace = Some("t".to_owned());
    let open = pair.agent.open(sent.clone());
    let (_, incoming) = tokio::join!(timeout(Duration::from_millis(200), open), async {
        pair.hub_incoming.next().await.unwrap()
    });
    assert_eq!(*incoming.header(), sent);
}

#[tokio::test]
async fn half_close_leaves_the_other_direction_open() {
    let mut pair = pair().await;
    let (mut near, mut far) = joined(&mut pair).await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"question");
    let answer = pattern(600_000, 3);
    let sent = answer.clone();
    let writer = tokio::spawn(async move {
        far.write_all(&sent).await.unwrap();
        far.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    near.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, answer);
    writer.await.unwrap();
}

#[tokio::test]
async fn writing_after_the_end_is_a_broken_pipe() {
    let mut pair = pair().await;
    let (mut near, _far) = joined(&mut pair).await;
    near.shutdown().await.unwrap();
    let error = near.write_all(b"x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_dropped_stream_is_a_reset_not_an_end() {
    let mut pair = pair().await;
    let (near, mut far) = joined(&mut pair).await;
    drop(near);
    let error = far.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_stream_dropped_after_the_peers_end_is_still_a_reset() {
    let mut pair = pair().await;
    let (mut near, mut far) = joined(&mut pair).await;
    near.shutdown().await.unwrap();
    assert_eq!(far.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    far.write_all(b"half of the ans").await.unwrap();
    drop(far);
    let error = near.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_writer_without_credit_is_freed_when_the_reader_goes() {
    let mut pair = pair().await;
    let (mut near, mut far) = joined(&mut pair).await;
    let writer = tokio::spawn(async move { far.write_all(&pattern(4_000_000, 1)).await });
    // Ends its own direction first: the multiplexer alone would tell the peer nothing more.
    near.shutdown().await.unwrap();
    eventually("data arrives", || pair.agent.stats().buffered >= WINDOW).await;
    drop(near);
    let error = timeout(Duration::from_secs(10), writer)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_the_peer_finished_is_read_even_when_it_then_goes() {
    let mut pair = pair().await;
    let (mut near, mut far) = joined(&mut pair).await;
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    eventually("data arrives", || pair.agent.stats().buffered == 6).await;
    drop(far);
    pair.hub.close("done");
    pair.agent.closed().await;
    let mut got = Vec::new();
    near.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"answer");
}

#[tokio::test]
async fn a_stalled_stream_does_not_block_others() {
    let Pair {
        agent,
        mut hub_incoming,
        hub: _hub,
        agent_incoming: _incoming,
    } = pair().await;
    let (stalled, far) = tokio::join!(agent.open(header("stalled")), async {
        hub_incoming.next().await.unwrap().accept().await.unwrap()
    });
    let mut stalled = stalled.unwrap();
    let writer = tokio::spawn(async move {
        stalled.write_all(&pattern(8_000_000, 2)).await.unwrap();
        stalled.shutdown().await.unwrap();
        stalled
    });
    eventually("credit is used up", || _hub.stats().buffered >= WINDOW).await;
    serve_echo(hub_incoming);
    for seed in 0..20 {
        let mut stream = agent.open(header("echo")).await.unwrap();
        let sent = pattern(100_000, seed);
        let back = timeout(Duration::from_secs(10), round_trip(&mut stream, &sent));
        assert_eq!(back.await.unwrap(), sent);
    }
    assert!(!writer.is_finished(), "the peer read nothing so far");
    // Bounded: one window, not the eight megabytes that the writer has.
    assert!(_hub.stats().buffered <= 1024 * 1024);
    let mut got = Vec::new();
    let mut far = far;
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, pattern(8_000_000, 2));
    writer.await.unwrap();
}

#[tokio::test]
async fn beyond_the_memory_bound_the_largest_stream_is_reset() {
    let small = Config {
        max_buffered: 300 * 1024,
        ..Config::default()
    };
    let mut pair = pair_with(Config::default(), small).await;
    let (mut large, mut large_far) = joined(&mut pair).await;
    let (mut little, mut little_far) = joined(&mut pair).await;
    let flood = tokio::spawn(async move { large.write_all(&pattern(1_000_000, 0)).await });
    eventually("one window", || pair.hub.stats().buffered >= WINDOW).await;
    // Nobody reads this one either, until the bound is met.
    little.write_all(&pattern(100_000, 5)).await.unwrap();
    little.shutdown().await.unwrap();
    let error = flood.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(large_far.read_u8().await.is_err());
    let mut got = Vec::new();
    little_far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, pattern(100_000, 5));
}

#[tokio::test]
async fn a_thousand_streams_leave_nothing_behind() {
    let pair = pair().await;
    serve_echo(pair.hub_incoming);
    for _ in 0..5 {
        let mut streams = Vec::new();
        for _ in 0..200 {
            streams.push(pair.agent.open(header("echo")).await.unwrap());
        }
        assert_eq!(pair.agent.stats().open_streams, 200);
        for (index, stream) in streams.iter_mut().enumerate() {
            let sent = pattern(64, index);
            assert_eq!(round_trip(stream, &sent).await, sent);
        }
        drop(streams);
    }
    for session in [&pair.agent, &pair.hub] {
        eventually("all counts at zero", || {
            let stats = session.stats();
            (
                stats.open_streams,
                stats.pending_in,
                stats.pending_out,
                stats.buffered,
            ) == (0, 0, 0, 0)
        })
        .await;
    }
}

#[tokio::test]
async fn splice_copies_both_ways_and_passes_ends_on() {
    let mut pair = pair().await;
    let (mut near, far) = joined(&mut pair).await;
    let (service, mut local) = duplex(1000);
    let splicing = tokio::spawn(splice(far, service, Some(Duration::from_secs(30))));
    let sent = pattern(300_000, 9);
    let wanted = sent.clone();
    let service = tokio::spawn(async move {
        let mut got = Vec::new();
        local.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, wanted);
        local.write_all(b"thanks").await.unwrap();
    });
    assert_eq!(round_trip(&mut near, &sent).await, b"thanks");
    service.await.unwrap();
    assert_eq!(splicing.await.unwrap().unwrap(), (300_000, 6));
}

#[tokio::test(start_paused = true)]
async fn splice_gives_up_after_the_idle_time_only() {
    let (mut a, left) = duplex(100);
    let (right, mut b) = duplex(100);
    let began = tokio::time::Instant::now();
    let splicing = tokio::spawn(splice(left, right, Some(Duration::from_secs(10))));
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(8)).await;
        a.write_all(b"x").await.unwrap();
        assert_eq!(b.read_u8().await.unwrap(), b'x');
    }
    let error = splicing.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let lasted = began.elapsed();
    assert!(lasted >= Duration::from_secs(50) && lasted < Duration::from_secs(51));
}

#[tokio::test]
async fn splice_fails_when_the_session_dies() {
    let mut pair = pair().await;
    let (_near, far) = joined(&mut pair).await;
    let (service, _local) = duplex(1000);
    let splicing = tokio::spawn(splice(far, service, None));
    pair.hub.close("test");
    let error = splicing.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}
