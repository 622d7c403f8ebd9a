//! Whatever a request says of its signature: nothing panics, and only the one that the key makes
//! is accepted, at its time.
#![no_main]

use farplane_functions_types::auth::{
    Key, SIGNATURE_HEADER, SKEW_SECONDS, Service, TIMESTAMP_HEADER,
};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

const NOW: u64 = 1_800_000_030;

fuzz_target!(|data: &[u8]| {
    // The first byte says how much of the right signature is put before what follows.
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    let key = Key::derived(b"master", Service::Executor, None);
    let (method, target, body) = ("POST", "/v2/getServiceForFunction", &b"{}"[..]);
    let mut parts = rest.splitn(2, |byte| *byte == b'\n');
    let timestamp = parts.next().unwrap_or_default();
    let right = key.sign(method, target, body, NOW).expect("a signature");
    let mut signature = right.signature.into_bytes();
    signature.truncate(usize::from(first));
    signature.extend_from_slice(parts.next().unwrap_or_default());
    let mut headers = HeaderMap::new();
    for (name, value) in [(TIMESTAMP_HEADER, timestamp), (SIGNATURE_HEADER, &signature)] {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(name, value);
        }
    }
    if key.verify(method, target, body, &headers, NOW).is_err() {
        return;
    }
    let said: u64 = std::str::from_utf8(timestamp)
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("a time that was accepted is a number");
    assert!(said.abs_diff(NOW) <= SKEW_SECONDS);
    let right = key.sign(method, target, body, said).expect("a signature");
    assert!(signature.eq_ignore_ascii_case(right.signature.as_bytes()));
});
