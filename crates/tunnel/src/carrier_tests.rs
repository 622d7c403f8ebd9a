//! The carrier: slow readers, cuts, ends.

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

fn frame(kind: u8, flags: u16, stream: u32, length: u32) -> Vec<u8> {
    let mut bytes = vec![0, kind];
    bytes.extend(flags.to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    if kind == TYPE_DATA {
        bytes.extend(std::iter::repeat_n(7, length as usize));
    }
    bytes
}

proptest! {
    #[test]
    fn frames_are_followed_whatever_the_pieces(
        frames in proptest::collection::vec((0_u8..4, 0_u16..16, any::<u32>(), 0_u32..50), 1..8),
        pieces in proptest::collection::vec(1_usize..40, 1..20),
    ) {
        let bytes: Vec<u8> = frames
            .iter()
            .flat_map(|(kind, flags, stream, length)| frame(*kind, *flags, *stream, *length))
            .collect();
        let mut cursor = FrameCursor::default();
        let mut seen = Vec::new();
        let mut rest = &bytes[..];
        for size in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, tail) = rest.split_at(rest.len().min(*size));
            cursor.advance(piece, |header| {
                seen.push((header.kind, header.flags, header.stream));
            });
            rest = tail;
        }
        let wanted: Vec<_> = frames.iter().map(|f| (f.0, f.1, f.2)).collect();
        prop_assert_eq!(seen, wanted);
        prop_assert!(cursor.at_boundary());
    }

    #[test]
    fn any_bytes_are_followed(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        let wire = Wire::new(1000, Metrics::default());
        FrameCursor::default().advance(&bytes, |frame| wire.frame_arrived(frame));
    }
}

#[tokio::test]
async fn small_writes_leave_as_one() {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let mut carrier = Carrier::new(near, Wire::new(1 << 20, Metrics::default()));
    for stream in 0..10 {
        let bytes = frame(TYPE_DATA, 0, stream, 100);
        carrier.write_all(&bytes[..12]).await.unwrap();
        carrier.write_all(&bytes[12..]).await.unwrap();
        futures::AsyncWriteExt::flush(&mut carrier).await.unwrap();
    }
    assert!(
        futures::poll!(std::pin::pin!(far.read_u8())).is_pending(),
        "nothing leaves before the driver would sleep"
    );
    let mut byte = [0];
    assert!(futures::poll!(std::pin::pin!(carrier.read(&mut byte))).is_pending());
    let mut got = vec![0; 10 * 112];
    far.read_exact(&mut got).await.unwrap();
    assert_eq!(carrier.out.capacity(), 0, "an idle session holds no buffer");
}

#[tokio::test]
async fn a_reset_goes_between_frames_only() {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let wire = Wire::new(1 << 20, Metrics::default());
    let mut carrier = Carrier::new(near, wire.clone());
    let bytes = frame(TYPE_DATA, 0, 1, 100);
    carrier.write_all(&bytes[..12]).await.unwrap();
    wire.send_reset(9);
    carrier.write_all(&bytes[12..]).await.unwrap();
    futures::AsyncWriteExt::close(&mut carrier).await.unwrap();
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, [bytes, frame(TYPE_DATA, FLAG_RST, 9, 0)].concat());
}

#[tokio::test]
async fn a_full_carrier_takes_no_more() {
    let (near, _far) = tokio::io::duplex(1000);
    let mut carrier = Carrier::new(near, Wire::new(1 << 20, Metrics::default()));
    let bytes = frame(TYPE_DATA, 0, 1, 10_000);
    let mut taken = 0;
    while futures::poll!(std::pin::pin!(carrier.write_all(&bytes))).is_ready() {
        taken += bytes.len();
        assert!(taken <= OUT_BYTES + 2 * bytes.len(), "memory is bounded");
    }
}

#[tokio::test]
async fn the_end_of_the_carrier_ends_the_streams_first() {
    let (near, mut far) = tokio::io::duplex(1000);
    let wire = Wire::new(1000, Metrics::default());
    let mut carrier = Carrier::new(near, wire.clone());
    far.shutdown().await.unwrap();
    assert_eq!(carrier.read(&mut [0]).await.unwrap(), 0);
    assert!(wire.has_ended());
}
