//! Any bytes are an open header, not enough of one, or refused.
#![no_main]

use bytes::BytesMut;
use farplane_tunnel::OpenHeader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(header)) = OpenHeader::decode(&mut buffer) {
        // Escapes may make the text longer than what arrived.
        if let Ok(mut block) = header.encode() {
            let again = OpenHeader::decode(&mut block).expect("decodes what it encoded");
            assert_eq!(again.as_ref(), Some(&header));
        }
    }
});
