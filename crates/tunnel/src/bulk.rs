//! Where bulk sessions should run, and how urgent ones get ahead of them.
//!
//! Connections of their own keep bulk bytes out of the way of urgent ones on the network, but on
//! a runtime that both share, urgent tasks still queue behind the encryption of bulk data: on two
//! cores the p99 of an echo beside two copies was some 20 times the idle one. On threads of
//! their own with a lower priority the kernel gives urgent ones nearly all of the time they ask
//! for, yet a thread that runs keeps its core until its slice of some milliseconds is over,
//! whatever its priority: that was the p99. A waking thread with a shorter slice does not wait
//! for that ([`urgent_thread`]), as long as the kernel looks: it does when a thread wakes up, and
//! if that one may not run at that moment, next at the clock's tick, up to 4 ms later. So bulk
//! threads ask whether somebody waits, many times a millisecond ([`give_way`]). `SCHED_IDLE` was
//! tried and is worse: the kernel takes a core that runs such a thread for a free one.

use std::{
    cell::Cell,
    io,
    time::{Duration, Instant},
};

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
            // Who gives way forfeits the rest of a slice; of this one there is hardly any.
            take_short_slices();
            GAVE_WAY.set(Some(Instant::now()));
        })
        .build()
}

/// The least that the kernel takes.
const SHORTEST_SLICE: Duration = Duration::from_micros(100);
/// How long a bulk thread runs before it asks whether somebody waits. Asking takes less than a
/// microsecond.
const PATIENCE: Duration = Duration::from_micros(50);

thread_local! {
    /// When this thread last gave way; `None` on threads that need not.
    static GAVE_WAY: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// On a thread of a [`bulk_runtime`], lets others run that wait for its core, if it has not for
/// [`PATIENCE`]. Does nothing elsewhere. To be called between any two pieces of work in a loop.
pub fn give_way() {
    if GAVE_WAY
        .get()
        .is_some_and(|last| last.elapsed() >= PATIENCE)
    {
        std::thread::yield_now();
        GAVE_WAY.set(Some(Instant::now()));
    }
}

/// Lets the calling thread run at once when it wakes up, ahead of threads that are in the middle
/// of a longer slice; its share of the processor stays the same. For `on_thread_start` of the
/// runtime that urgent sessions run on. Child processes do not inherit it.
///
/// Linux since 6.12 (`sched_attr.sched_runtime` of normal threads); before that, nothing changes.
pub fn urgent_thread() {
    take_short_slices();
}

fn take_short_slices() {
    let attributes = SchedulerAttributes {
        size: u32::try_from(size_of::<SchedulerAttributes>()).unwrap_or(0),
        policy: 0,
        flags: RESET_ON_FORK,
        nice: rustix::process::getpriority_process(None).unwrap_or(0),
        priority: 0,
        runtime: u64::try_from(SHORTEST_SLICE.as_nanos()).unwrap_or(0),
        deadline: 0,
        period: 0,
    };
    // SAFETY: the kernel only reads `size` bytes of the structure, which is its first version,
    // and 0 is the calling thread.
    #[allow(unsafe_code)]
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "threads keep the usual slice");
    }
}

const RESET_ON_FORK: u64 = 1;

/// `struct sched_attr` of the kernel, first version.
#[repr(C)]
struct SchedulerAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice() -> i64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').nth(16).unwrap().parse().unwrap()
    }

    /// Slice of the calling thread in nanoseconds, where the kernel tells.
    fn slice() -> Option<u64> {
        let text = std::fs::read_to_string("/proc/thread-self/sched").ok()?;
        let line = text.lines().find(|line| line.starts_with("se.slice"))?;
        line.rsplit_once(':')?.1.trim().parse().ok()
    }

    #[test]
    fn an_urgent_thread_has_a_short_slice_and_its_priority() {
        std::thread::spawn(|| {
            let (before, usual) = (nice(), slice());
            urgent_thread();
            assert_eq!(nice(), before);
            if usual.is_some() {
                assert_eq!(slice(), Some(100_000));
            }
            let child = std::process::Command::new("cat")
                .arg("/proc/self/sched")
                .output();
            let text = String::from_utf8(child.unwrap().stdout).unwrap();
            if let Some(line) = text.lines().find(|line| line.starts_with("se.slice")) {
                assert!(!line.ends_with(" 100000"), "{line}");
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn its_threads_are_nicer_and_others_are_not() {
        let before = nice();
        let runtime = bulk_runtime(1, 7).unwrap();
        let inside = runtime.block_on(async { tokio::spawn(async { nice() }).await.unwrap() });
        assert_eq!(inside, (before + 7).min(19));
        assert_eq!(nice(), before);
    }

    #[test]
    fn its_threads_give_way_and_others_do_not() {
        give_way();
        assert_eq!(GAVE_WAY.get(), None);
        let runtime = bulk_runtime(1, 7).unwrap();
        let gave_way = async {
            let began = GAVE_WAY.get().expect("a bulk thread");
            while GAVE_WAY.get() == Some(began) {
                give_way();
            }
            GAVE_WAY.get().unwrap().duration_since(began)
        };
        let after = runtime.block_on(async { tokio::spawn(gave_way).await.unwrap() });
        assert!(after >= PATIENCE, "{after:?}");
    }
}
