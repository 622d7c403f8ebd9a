//! Any text is a proxy's address or refused, and any list of exclusions can be asked.
#![no_main]

use farplane_tunnel::proxy::Proxy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (&str, &str, &str)| {
    let (target, address, list) = data;
    _ = Proxy::choose(target, Some(address), Some(list));
    _ = Proxy::parse(address);
});
