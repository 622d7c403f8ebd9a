//! A bulky egress stream leaves the interactive tunnel to those who wait for it.

use farplane_tunnel::{Class, Incoming, MOVE, Moves};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::front_tests::furnish;
use crate::testing::{Keyring, TestGateway};

/// An agent's half: what arrives goes back, also over the session that it moves to.
fn echo(mut incoming: Incoming, moves: Moves) {
    tokio::spawn(async move {
        while let Some(stream) = incoming.next().await {
            if stream.header().service == MOVE {
                moves.hand_over("hub", stream).await;
                continue;
            }
            let moves = moves.clone();
            tokio::spawn(async move {
                let key = stream.header().moves.clone();
                let stream = moves.accepted("hub", key.as_deref(), stream.accept().await?);
                let (near, far) = tokio::io::duplex(64 * 1024);
                let bulk = tokio::runtime::Handle::current();
                let spliced = farplane_tunnel::splice_moving(far, stream, &bulk);
                let (mut reader, mut writer) = tokio::io::split(near);
                let echoed = async {
                    tokio::io::copy(&mut reader, &mut writer).await?;
                    writer.shutdown().await
                };
                _ = tokio::join!(spliced, echoed);
                std::io::Result::Ok(())
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulky_stream_goes_on_at_the_bulk_tunnel() {
    let keyring = Keyring::new();
    let gateway = TestGateway::start(&keyring, "g1");
    furnish(&gateway, &json!([]));
    let leaf = keyring.host("demo", "one", "h1");
    let moves = Moves::default();
    let (interactive, incoming) = gateway.tunnel(&keyring, &leaf, 1).await;
    echo(incoming, moves.clone());
    let (bulk, incoming) = gateway.tunnel_of(Class::Bulk, &keyring, &leaf, 2).await;
    echo(incoming, moves);
    while gateway.gateway.sessions.of("h1", Class::Bulk).is_none()
        || gateway
            .gateway
            .sessions
            .of("h1", Class::Interactive)
            .is_none()
    {
        tokio::task::yield_now().await;
    }
    let plane = keyring.plane("p1");
    let mut client = gateway.tls(&keyring, Some(&plane), b"").await.unwrap();
    let head = "CONNECT 10.96.0.10:443 HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(client.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"));

    let mut rounds = 0_u32;
    while interactive.stats().open_streams > 0 || bulk.stats().open_streams == 0 {
        let piece: Vec<u8> = (0..50_000_u32).map(|at| (at * 7 + rounds) as u8).collect();
        let mut back = vec![0; piece.len()];
        client.write_all(&piece).await.unwrap();
        client.read_exact(&mut back).await.unwrap();
        assert!(back == piece, "round {rounds}");
        rounds += 1;
        assert!(rounds < 2000, "it never moved");
    }
    client.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    while bulk.stats().open_streams > 0 {
        tokio::task::yield_now().await;
    }
}
