//! Whatever bytes are unpacked: nothing panics, and nothing is written outside or beyond bounds.
#![no_main]

use std::io::Cursor;

use farplane_functions_sidecar::archive::{Limits, unpack};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let directory = tempfile::tempdir().expect("directory");
    let limits = Limits {
        bytes: 64 * 1024,
        entries: 64,
    };
    let destination = directory.path().join("in");
    let unpacked = unpack(Cursor::new(data), &destination, &limits, None);
    if let Ok(unpacked) = unpacked {
        assert!(unpacked.bytes <= limits.bytes && unpacked.entries <= limits.entries);
    }
    let outside = directory.path().read_dir().expect("directory").count();
    assert!(outside <= 1, "something was made beside the destination");
});
