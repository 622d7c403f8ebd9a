//! When a Pod that is to end may be stopped: its containers' `preStop` asks, and is answered
//! when nobody is connected to the runtime any more.
//!
//! Whoever calls an instance (a router, a Service) sees that it ends, sends it nothing new and
//! closes what is open; a connection that stays is a call that runs. So a Pod goes within
//! seconds, and a long call still has the whole grace period, after which the kubelet waits for
//! no answer.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Callers have so long to see that the Pod ends: without connections for so long, it is quiet.
const SETTLE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(200);
/// Where the kernel tells the sockets of this network namespace.
const TABLES: [&str; 2] = ["net/tcp", "net/tcp6"];

/// Waits until nobody has been connected to `port` for two seconds. `proc` is `/proc/self`.
pub async fn quiet(proc: &Path, port: u16) {
    let mut since = Instant::now();
    while since.elapsed() < SETTLE {
        sleep(PAUSE).await;
        match connections(proc, port) {
            Ok(0) => {}
            Ok(_) => since = Instant::now(),
            // Nothing is known: calls keep their time.
            Err(error) => {
                tracing::warn!(%error, "the kernel's table of connections cannot be read");
                std::future::pending().await
            }
        }
    }
}

fn connections(proc: &Path, port: u16) -> io::Result<usize> {
    let mut count = 0;
    for table in TABLES {
        match std::fs::read_to_string(proc.join(table)) {
            Ok(text) => count += established(&text, port),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table == TABLES[1] => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Open connections of a server at `port`, in the format of proc(5), `net/tcp`: local and
/// remote address and state are the second to fourth column, in hexadecimal; 01 is established.
fn established(table: &str, port: u16) -> usize {
    let is_one = |line: &&str| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let local = columns.next().and_then(|local| local.rsplit_once(':'));
        let local = local.and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        local == Some(port) && columns.nth(1) == Some("01")
    };
    table.lines().skip(1).filter(is_one).count()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const OWN: &str = "/proc/self";

    #[test]
    fn only_open_connections_of_the_server_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n   \
            0: 00000000:22B8 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n   \
            1: 0100007F:22B8 0100007F:D2F0 01 00000000:00000000 00:00000000 00000000\n   \
            2: 0100007F:D2F0 0100007F:22B8 01 00000000:00000000 00:00000000 00000000\n   \
            3: 0100007F:22B8 0100007F:D2F2 06 00000000:00000000 00:00000000 00000000\n\n garbage";
        assert_eq!(established(table, 8888), 1);
        assert_eq!(established(table, 80), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_quiet_when_the_last_caller_is_gone() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let caller = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (called, _) = server.accept().unwrap();
        let waiting = tokio::spawn(async move { quiet(Path::new(OWN), port).await });
        sleep(SETTLE * 10).await;
        assert!(!waiting.is_finished());
        drop((caller, called));
        waiting.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_kernels_table_nobody_is_hurried() {
        let folder = tempfile::tempdir().unwrap();
        let waiting = tokio::time::timeout(SETTLE * 10, quiet(folder.path(), 8888)).await;
        assert!(waiting.is_err());
    }
}
