//! Any bytes are lines of messages, lines that are refused, or an end; no line is read twice.
#![no_main]

use farplane_tunnel::lines::{LineError, LineReader};
use libfuzzer_sys::fuzz_target;
use tokio::io::BufReader;

const MAX: usize = 64;

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("runtime");
    let read = runtime.block_on(async {
        let mut lines = LineReader::new(BufReader::with_capacity(7, data), MAX);
        let mut read = 0_usize;
        loop {
            match lines.next::<serde_json::Value>().await {
                Ok(Some(_)) | Err(LineError::Malformed { .. }) => read += 1,
                Ok(None) => return Some(read),
                Err(_) => return None,
            }
        }
    });
    let longest = data.split(|byte| *byte == b'\n').map(<[u8]>::len).max();
    match read {
        None => assert!(longest.is_some_and(|length| length > MAX)),
        Some(read) => {
            let ends = data.iter().filter(|byte| **byte == b'\n').count();
            let open = data.last().is_some_and(|byte| *byte != b'\n');
            assert_eq!(read, ends + usize::from(open));
        }
    }
});
