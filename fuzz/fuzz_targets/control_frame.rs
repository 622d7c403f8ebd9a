//! Any bytes are control frames, not enough of one, or refused.
#![no_main]

use bytes::BytesMut;
use farplane_tunnel::Frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(frame)) = Frame::decode(&mut buffer) {
        let mut bytes = BytesMut::new();
        // Escapes may make the text longer than what arrived.
        if frame.encode(&mut bytes).is_ok() {
            let again = Frame::decode(&mut bytes).expect("decodes what it encoded");
            assert_eq!(again.as_ref(), Some(&frame));
        }
    }
});
