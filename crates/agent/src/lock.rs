//! A lock that goes with its process.
//!
//! A program that was killed while it started another is gone before that one has closed what it
//! inherited, the lock among it: for a moment nobody seems to hold a lock that cannot be taken.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

/// How long a lock is waited for; who holds it for longer runs.
const PATIENCE: Duration = Duration::from_secs(2);
/// Nothing tells when it is free.
const PAUSE: Duration = Duration::from_millis(10);

/// Takes the lock of a file for this process alone.
///
/// # Errors
/// When another process has it and keeps it.
#[expect(clippy::disallowed_methods, reason = "nothing tells when it is free")]
pub fn take(mut file: File) -> io::Result<Flock<File>> {
    let end = Instant::now() + PATIENCE;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, error)) if Instant::now() >= end => return Err(error.into()),
            Err((file, _)) => file,
        };
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_given_back_soon_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let open = || File::create(folder.path().join("lock")).unwrap();
        let first = take(open()).unwrap();
        let second = std::thread::spawn({
            let file = open();
            move || take(file).map(drop)
        });
        drop(first);
        second.join().unwrap().unwrap();
    }
}
