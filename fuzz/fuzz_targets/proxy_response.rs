//! Any bytes are a response head, not enough of one, or refused.
#![no_main]

use farplane_tunnel::proxy::parse_response;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(Some((status, length))) = parse_response(data) {
        assert!((100..1000).contains(&status));
        assert!(length <= data.len());
    }
});
