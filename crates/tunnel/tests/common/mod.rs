//! Sessions over an in-memory pipe.
#![allow(dead_code)]

use std::time::Duration;

use farplane_tunnel::{
    Class, Config, Hello, Incoming, OpenHeader, Session, SessionError, TunnelStream,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

pub const PIPE_BYTES: usize = 256 * 1024;

pub fn hello() -> Hello {
    Hello::new("test", 1, Class::Interactive)
}

pub fn header(service: &str) -> OpenHeader {
    OpenHeader::new(Class::Interactive, service)
}

pub struct Pair {
    pub agent: Session,
    pub agent_incoming: Incoming,
    pub hub: Session,
    pub hub_incoming: Incoming,
}

pub async fn pair() -> Pair {
    pair_with(Config::default(), Config::default()).await
}

pub async fn pair_with(agent: Config, hub: Config) -> Pair {
    let (left, right) = duplex(PIPE_BYTES);
    pair_over(left, right, agent, hub).await.unwrap()
}

pub async fn pair_over(
    left: DuplexStream,
    right: DuplexStream,
    agent: Config,
    hub: Config,
) -> Result<Pair, SessionError> {
    let (agent, hub) = tokio::join!(
        Session::connect(left, hello(), agent),
        Session::accept(right, hello(), hub),
    );
    let ((agent, agent_incoming), (hub, hub_incoming)) = (agent?, hub?);
    Ok(Pair {
        agent,
        agent_incoming,
        hub,
        hub_incoming,
    })
}

/// Accepts every stream and sends back what comes.
pub fn serve_echo(mut incoming: Incoming) {
    tokio::spawn(async move {
        while let Some(stream) = incoming.next().await {
            tokio::spawn(async move {
                let Ok(stream) = stream.accept().await else {
                    return;
                };
                let (mut reader, mut writer) = tokio::io::split(stream);
                if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
                    _ = writer.shutdown().await;
                }
            });
        }
    });
}

/// Opens from the agent and accepts at the hub.
pub async fn joined(pair: &mut Pair) -> (TunnelStream, TunnelStream) {
    let (opened, accepted) = tokio::join!(pair.agent.open(header("test")), async {
        pair.hub_incoming.next().await.unwrap().accept().await
    });
    (opened.unwrap(), accepted.unwrap())
}

/// Writes, ends, reads to the end.
pub async fn round_trip(stream: &mut TunnelStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    back
}

/// Waits until `check` holds, letting other tasks run; panics with `what` after 10 s.
pub async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while !check() {
        assert!(std::time::Instant::now() < end, "never: {what}");
        tokio::task::yield_now().await;
    }
}

/// The accepting half that says hello and then neither reads nor writes, without closing.
pub async fn hello_then_silence(io: DuplexStream) -> DuplexStream {
    use bytes::BytesMut;
    use farplane_tunnel::Frame;
    let mut io = io;
    // The dialler's first frame: a 12-byte header of a new stream 1 and its hello.
    let mut head = [0; 12];
    loop {
        io.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes(head[8..12].try_into().unwrap());
        if head[1] == 0 && length > 0 {
            let mut body = vec![0; length as usize];
            io.read_exact(&mut body).await.unwrap();
            break;
        }
    }
    let mut body = BytesMut::new();
    Frame::Hello(hello()).encode(&mut body).unwrap();
    let mut frame = vec![0, 0, 0, 2, 0, 0, 0, 1];
    frame.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&body);
    io.write_all(&frame).await.unwrap();
    io
}
