//! A peer that sends anything ends the session at most: no panic, no wait, no leak.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

mod common;

use common::{hello, hello_then_silence};
use farplane_tunnel::{CloseReason, Config, Session, SessionError};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, sink, split};

fn frame() -> impl Strategy<Value = Vec<u8>> {
    (
        0_u8..5,
        0_u16..16,
        prop_oneof![0_u32..10, any::<u32>()],
        prop_oneof![4 => 0_u32..100, 1 => any::<u32>()],
        proptest::collection::vec(any::<u8>(), 0..100),
    )
        .prop_map(|(kind, flags, stream, length, body)| {
            let mut bytes = vec![0, kind];
            bytes.extend(flags.to_be_bytes());
            bytes.extend(stream.to_be_bytes());
            if kind == 0 && length < 100 {
                bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
                bytes.extend(body);
            } else {
                bytes.extend(length.to_be_bytes());
            }
            bytes
        })
}

async fn attack(bytes: Vec<u8>) -> CloseReason {
    let (near, far) = duplex(1 << 16);
    let (session, far) = tokio::join!(
        Session::connect(near, hello(), Config::default()),
        hello_then_silence(far),
    );
    let (session, mut incoming): (Session, _) =
        session.unwrap_or_else(|error: SessionError| panic!("{error}"));
    let (mut reader, mut writer) = split(far);
    let swallow = tokio::spawn(async move { tokio::io::copy(&mut reader, &mut sink()).await });
    tokio::spawn(async move {
        // The session may be gone before everything is sent.
        _ = writer.write_all(&bytes).await;
        _ = writer.shutdown().await;
    });
    while let Some(stream) = incoming.next().await {
        if let Ok(mut stream) = stream.accept().await {
            _ = stream.read(&mut [0; 64]).await;
        }
    }
    let reason = session.closed().await;
    swallow.abort();
    assert_eq!(session.stats().open_streams, 0);
    reason
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_frames_end_the_session_at_most(frames in proptest::collection::vec(frame(), 0..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let reason = runtime.block_on(attack(frames.concat()));
        prop_assert_ne!(reason, CloseReason::Carrier("driver stopped".to_owned()));
    }
}
