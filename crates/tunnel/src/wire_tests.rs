//! Headers and replies, whole, split and hostile.

use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,40}"
}

fn header() -> impl Strategy<Value = OpenHeader> {
    (
        prop_oneof![Just(Class::Interactive), Just(Class::Bulk)],
        text(),
        proptest::option::of(text()),
        proptest::option::of(text()),
        any::<u32>(),
        proptest::option::of(text()),
    )
        .prop_map(
            |(class, service, plane, target, deadline_ms, trace)| OpenHeader {
                class,
                service,
                plane,
                target,
                deadline_ms,
                moves: trace.clone(),
                trace,
            },
        )
}

fn reply() -> impl Strategy<Value = OpenReply> {
    prop_oneof![
        Just(OpenReply::Ok),
        (proptest::sample::select(&RefusalCode::ALL[..]), text())
            .prop_map(|(code, message)| OpenReply::Refused { code, message }),
    ]
}

/// Decodes with every way to cut `bytes` in two: nothing from the first part, the value and the
/// `rest` after the second.
fn split_everywhere<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    wanted: &T,
    decode: impl Fn(&mut BytesMut) -> Result<Option<T>, DecodeError>,
) {
    for cut in 0..bytes.len() {
        let mut buffer = BytesMut::from(&bytes[..cut]);
        assert_eq!(decode(&mut buffer).unwrap(), None);
        assert_eq!(&buffer[..], &bytes[..cut], "nothing is consumed too early");
        buffer.extend_from_slice(&bytes[cut..]);
        buffer.extend_from_slice(b"rest");
        assert_eq!(decode(&mut buffer).unwrap().as_ref(), Some(wanted));
        assert_eq!(&buffer[..], b"rest");
    }
}

proptest! {
    #[test]
    fn headers_survive_any_split(wanted in header()) {
        split_everywhere(&wanted.encode().unwrap(), &wanted, OpenHeader::decode);
    }

    #[test]
    fn replies_survive_any_split(wanted in reply()) {
        split_everywhere(&wanted.encode(), &wanted, OpenReply::decode);
    }

    #[test]
    fn reading_only_what_is_missing_ends_exactly_at_the_replys_end(wanted in reply()) {
        let bytes = wanted.encode();
        let mut buffer = BytesMut::new();
        let mut taken = 0;
        let got = loop {
            let more = OpenReply::missing(&buffer);
            prop_assert!(taken + more <= bytes.len());
            buffer.extend_from_slice(&bytes[taken..taken + more]);
            taken += more;
            if let Some(reply) = OpenReply::decode(&mut buffer).unwrap() {
                break reply;
            }
        };
        prop_assert_eq!(taken, bytes.len());
        prop_assert_eq!(got, wanted);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = OpenHeader::decode(&mut buffer) {}
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = OpenReply::decode(&mut buffer) {}
    }

    #[test]
    fn broken_json_is_refused(body in "[\\[{\"a-z:0-9]{0,60}") {
        let mut buffer = BytesMut::new();
        buffer.put_u16(u16::try_from(body.len()).unwrap());
        buffer.put_slice(body.as_bytes());
        prop_assert!(OpenHeader::decode(&mut buffer).is_err());
    }
}

#[test]
fn the_length_is_judged_before_the_body_arrives() {
    let mut buffer = BytesMut::from(&[0x10, 0x01][..]);
    assert!(matches!(
        OpenHeader::decode(&mut buffer).unwrap_err(),
        DecodeError::TooLong {
            length: 4097,
            max: MAX_HEADER_BYTES
        }
    ));
    let mut buffer = BytesMut::from(&[3, 0x04, 0x01][..]);
    assert!(matches!(
        OpenReply::decode(&mut buffer).unwrap_err(),
        DecodeError::TooLong { length: 1025, .. }
    ));
}

#[test]
fn a_header_that_is_too_long_is_not_sent() {
    let header = OpenHeader::new(Class::Bulk, "x".repeat(5000));
    assert!(matches!(
        header.encode().unwrap_err(),
        DecodeError::TooLong { .. }
    ));
}

#[test]
fn a_long_refusal_is_cut_between_characters() {
    let reply = OpenReply::Refused {
        code: RefusalCode::Forbidden,
        message: "é".repeat(600),
    };
    let got = OpenReply::decode(&mut reply.encode()).unwrap().unwrap();
    let OpenReply::Refused { message, .. } = got else {
        panic!("not refused");
    };
    assert_eq!(message, "é".repeat(512));
}

#[test]
fn an_unknown_status_is_named() {
    let mut buffer = BytesMut::from(&[77][..]);
    assert_eq!(
        OpenReply::decode(&mut buffer).unwrap_err().to_string(),
        "open reply has unknown status 77"
    );
}

#[test]
fn unknown_fields_and_missing_optional_ones_are_fine() {
    let body = br#"{"class":"bulk","service":"net","later":[1]}"#;
    let mut buffer = BytesMut::new();
    buffer.put_u16(u16::try_from(body.len()).unwrap());
    buffer.put_slice(body);
    let header = OpenHeader::decode(&mut buffer).unwrap().unwrap();
    assert_eq!(header, OpenHeader::new(Class::Bulk, "net"));
}
