//! What a process said of its end that people can mend: an address that another has.
//!
//! Programs say it in their own logs, which are on the host; who waits for the host reads
//! the hub. So the address is found in the log's end and told with the state.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Of a log this much of the end is looked at: more than a program says between a start
/// that fails and the next one.
const END: u64 = 64 << 10;
/// As the C library words it, and every program with it.
const TAKEN: &str = "address already in use";
/// Between the address and the words above, in programs written in Go.
const CALL: &str = ": bind: ";

/// What the end of a log says, in words; `None` when it tells of nothing that is known.
pub fn of(log: &Path) -> Option<String> {
    let end = end_of(log).ok()?;
    let address = taken(&end)?;
    Some(format!(
        "{address} is in use by another program, end that one; `ss -ltnp` there shows it"
    ))
}

fn end_of(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
    let mut bytes = Vec::new();
    file.take(END).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The address in the last line that tells of a taken one.
fn taken(text: &str) -> Option<&str> {
    let before = text
        .lines()
        .rev()
        .find_map(|line| line.split_once(TAKEN))?
        .0;
    let before = before.strip_suffix(CALL)?;
    let address = before.rsplit([' ', '"']).next().unwrap_or_default();
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| {
        !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
    });
    has_port.then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_as_programs_say_it() {
        for (line, expected) in [
            (
                r#"E1125 15:01:30.1 1 server.go:236] "Failed to listen and serve" err="listen tcp 0.0.0.0:10250: bind: address already in use""#,
                Some("0.0.0.0:10250"),
            ),
            (
                "listen tcp [::1]:53: bind: address already in use",
                Some("[::1]:53"),
            ),
            ("listen udp :53: bind: address already in use", Some(":53")),
            ("bind: address already in use", None),
            ("listen unix /run/a: bind: address already in use", None),
            ("nothing of this kind", None),
            ("", None),
        ] {
            assert_eq!(taken(line), expected, "{line}");
        }
        let both = "listen tcp :1: bind: address already in use\nlisten tcp :2: bind: address already in use\nends";
        assert_eq!(taken(both), Some(":2"));
    }

    #[test]
    fn only_the_end_of_a_log_counts() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        let said = "listen tcp 192.0.2.1:80: bind: address already in use\n";
        std::fs::write(&log, said).unwrap();
        let words = of(&log).unwrap();
        assert!(words.starts_with("192.0.2.1:80 is in use"), "{words}");
        let much = "x".repeat(usize::try_from(END).unwrap());
        std::fs::write(&log, format!("{said}{much}")).unwrap();
        assert_eq!(of(&log), None);
        assert_eq!(of(&folder.path().join("none")), None);
    }
}
