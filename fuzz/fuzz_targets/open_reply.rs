//! Any bytes are an open reply, not enough of one, or refused.
#![no_main]

use bytes::BytesMut;
use farplane_tunnel::OpenReply;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(reply)) = OpenReply::decode(&mut buffer) {
        let again = OpenReply::decode(&mut reply.encode()).expect("decodes what it encoded");
        assert_eq!(again.as_ref(), Some(&reply));
    }
});
