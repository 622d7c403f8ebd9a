//! A peer that sends any bytes ends the session at most; nothing panics.
#![no_main]

use farplane_tunnel::{Class, CloseReason, Config, Frame, Hello, Session};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, sink, split};

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("runtime");
    runtime.block_on(run(data));
});

async fn run(data: &[u8]) {
    let (near, far) = duplex(1 << 16);
    let (mut reader, mut writer) = split(far);
    let hello = Hello::new("fuzz", 1, Class::Bulk);
    let mut body = bytes::BytesMut::new();
    Frame::Hello(hello.clone()).encode(&mut body).expect("fits");
    let mut bytes = vec![0, 0, 0, 1, 0, 0, 0, 1];
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(data);
    let swallow = tokio::spawn(async move {
        _ = tokio::io::copy(&mut reader, &mut sink()).await;
    });
    let feed = tokio::spawn(async move {
        _ = writer.write_all(&bytes).await;
        _ = writer.shutdown().await;
    });
    if let Ok((session, mut incoming)) = Session::accept(near, hello, Config::default()).await {
        while let Some(stream) = incoming.next().await {
            if let Ok(mut stream) = stream.accept().await {
                _ = stream.read(&mut [0; 64]).await;
            }
        }
        let reason = session.closed().await;
        assert_ne!(reason, CloseReason::Carrier("driver stopped".to_owned()));
    }
    _ = feed.await;
    swallow.abort();
}
