//! Where bulk sessions should run.
//!
//! Connections of their own keep bulk bytes out of the way of urgent ones on the network, but on
//! a runtime that both share, urgent tasks still queue behind the encryption of bulk data: on two
//! cores the p99 of an echo beside two copies was some 20 times the idle one. On threads of
//! their own with a lower priority the kernel lets the urgent ones run first: the median is below
//! the idle one, the p99 one to two milliseconds at most (benchmark question 3). `SCHED_IDLE` was
//! tried and is worse: the kernel takes a core that runs such a thread for a free one.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// A runtime for bulk sessions: `threads` workers whose nice value is `nice` above the process's,
/// up to 19.
///
/// What shall run there has to be spawned there as a whole: dialling (the socket belongs
/// to the runtime that made it), the session, its streams and their splices. 19 keeps urgent
/// streams undisturbed on a machine that does little else, such as a gateway's; on a host with
/// busy workloads it may starve bulk copies, and 5 to 10 is better.
pub fn bulk_runtime(threads: usize, nice: i32) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .thread_name("tunnel-bulk")
        .enable_all()
        .on_thread_start(move || {
            // Applies to the calling thread only. Works without: only priority is lost.
            if let Err(error) = rustix::process::nice(nice.clamp(0, 19)) {
                tracing::debug!(%error, "bulk threads keep the normal priority");
            }
        })
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice() -> i64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').nth(16).unwrap().parse().unwrap()
    }

    #[test]
    fn its_threads_are_nicer_and_others_are_not() {
        let before = nice();
        let runtime = bulk_runtime(1, 7).unwrap();
        let inside = runtime.block_on(async { tokio::spawn(async { nice() }).await.unwrap() });
        assert_eq!(inside, (before + 7).min(19));
        assert_eq!(nice(), before);
    }
}
