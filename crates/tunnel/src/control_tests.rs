//! Frames of the control stream, whole and split.

use proptest::prelude::*;

use super::*;
use crate::wire::Class;

fn frame() -> impl Strategy<Value = Frame> {
    let hello = (
        any::<u16>(),
        "\\PC{0,40}",
        any::<u64>(),
        prop_oneof![Just(Class::Interactive), Just(Class::Bulk)],
        proptest::collection::vec("[a-z]{0,8}", 0..4),
    )
        .prop_map(
            |(version, agent_version, epoch, class, capabilities)| Hello {
                version,
                agent_version,
                epoch,
                class,
                capabilities,
            },
        );
    prop_oneof![
        hello.prop_map(Frame::Hello),
        any::<u64>().prop_map(Frame::Echo),
        any::<u64>().prop_map(Frame::EchoReply),
        Just(Frame::Drain),
        "\\PC{0,40}".prop_map(Frame::Close),
        (6_u8..).prop_map(|kind| Frame::Unknown { kind }),
    ]
}

proptest! {
    #[test]
    fn frames_survive_any_split(frames in proptest::collection::vec(frame(), 1..4)) {
        let mut bytes = BytesMut::new();
        for frame in &frames {
            frame.encode(&mut bytes).unwrap();
        }
        for cut in 0..=bytes.len() {
            let mut buffer = BytesMut::from(&bytes[..cut]);
            let mut got = Vec::new();
            while let Some(frame) = Frame::decode(&mut buffer).unwrap() {
                got.push(frame);
            }
            buffer.extend_from_slice(&bytes[cut..]);
            while let Some(frame) = Frame::decode(&mut buffer).unwrap() {
                got.push(frame);
            }
            prop_assert_eq!(&got, &frames);
            prop_assert!(buffer.is_empty());
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = Frame::decode(&mut buffer) {}
    }
}

#[test]
fn bytes_after_the_known_fields_are_ignored() {
    let mut buffer = BytesMut::from(&[0, 11, ECHO, 0, 0, 0, 0, 0, 0, 0, 7, 99, 99][..]);
    assert_eq!(Frame::decode(&mut buffer).unwrap(), Some(Frame::Echo(7)));
}

#[test]
fn broken_frames_are_refused_with_a_reason() {
    for (bytes, text) in [
        (&[0, 0][..], "block is empty"),
        (
            &[0x10, 0x01],
            "block of 4097 bytes is longer than the bound of 4096",
        ),
        (&[0, 2, ECHO, 1], "control frame of kind 2 is too short"),
        (&[0, 2, CLOSE, 0xff], "text is not UTF-8"),
        (&[0, 2, HELLO, b'{'], "body is not the expected JSON"),
    ] {
        let error = Frame::decode(&mut BytesMut::from(bytes)).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn a_long_reason_is_cut() {
    let mut bytes = BytesMut::new();
    Frame::Close("x".repeat(9000)).encode(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 2 + MAX_CONTROL_BYTES);
    assert!(Frame::decode(&mut bytes).unwrap().is_some());
}
