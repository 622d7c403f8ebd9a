//! When a worker thread takes its core from others, and when it waits for its turn.
//!
//! A thread that wakes up takes the core from one that runs, as is best for a call that is alone.
//! On a full machine those others are the clients and the instances: each is sent away after
//! every message, and nobody ever has two of them to work on at once. With many calls at a time a
//! worker therefore waits until the others have done what they have (`SCHED_BATCH`). It costs
//! nothing where cores are free. Where they are not, 8 clients on two cores got half as much
//! again, with a lower p99; a single client beside programs that use all of every core got less,
//! hence the difference.
//!
//! States of a thread: prompt -> patient (a call begins while others are on their way) -> prompt
//! (none did for [`CALM`]). Long calls that wait count as well, since nobody can tell them apart
//! beforehand: they make a thread patient that need not be.
//!
//! Where the kernel does not allow it, threads stay prompt.

use std::cell::RefCell;
use std::io;
use std::time::{Duration, Instant};

/// Calls of one thread at a time that make it patient.
const CROWD: usize = 3;
/// How long there must be no crowd before the thread is prompt again. Changing takes a system
/// call, so not at every pause.
const CALM: Duration = Duration::from_millis(10);

thread_local! {
    static TURNS: RefCell<Option<Turns>> = const { RefCell::new(None) };
}

/// Counts calls on this thread from now on. Others are left as they are.
pub fn watch_this_thread() {
    TURNS.set(Some(Turns::default()));
}

/// A call of this thread, until it is dropped.
pub struct Call(());

impl Call {
    /// One begins.
    pub fn begin() -> Self {
        with_turns(|turns| turns.begin(Instant::now()));
        Self(())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        with_turns(|turns| turns.end(Instant::now()));
    }
}

fn with_turns(change: impl FnOnce(&mut Turns) -> Option<Manner>) {
    // Gone when the thread ends, with the calls that it still has.
    _ = TURNS.try_with(|turns| {
        let mut turns = turns.borrow_mut();
        if let Some(manner) = turns.as_mut().and_then(change)
            && let Err(error) = adopt(manner)
        {
            tracing::debug!(%error, "the kernel does not let threads be patient");
            *turns = None;
        }
    });
}

/// How a thread that wakes up comes to its core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// At once.
    Prompt,
    /// When the others pause.
    Patient,
}

/// Calls of a thread, and what follows for its manner.
#[derive(Debug, Default)]
struct Turns {
    calls: usize,
    /// When there last was a crowd; only while patient.
    crowded: Option<Instant>,
}

impl Turns {
    /// What to become, if anything else.
    fn begin(&mut self, now: Instant) -> Option<Manner> {
        self.calls += 1;
        if self.calls >= CROWD {
            return self
                .crowded
                .replace(now)
                .is_none()
                .then_some(Manner::Patient);
        }
        self.calm_down(now)
    }

    /// What to become, if anything else.
    fn end(&mut self, now: Instant) -> Option<Manner> {
        // A call may have begun before this thread was watched.
        self.calls = self.calls.saturating_sub(1);
        self.calm_down(now)
    }

    fn calm_down(&mut self, now: Instant) -> Option<Manner> {
        let crowded = self.crowded?;
        let calm = self.calls < CROWD && now.duration_since(crowded) >= CALM;
        if calm {
            self.crowded = None;
        }
        calm.then_some(Manner::Prompt)
    }
}

fn adopt(manner: Manner) -> io::Result<()> {
    let policy = match manner {
        Manner::Prompt => libc::SCHED_OTHER,
        Manner::Patient => libc::SCHED_BATCH,
    };
    let parameters: libc::c_int = 0;
    // By number: musl has the function and always fails in it.
    // SAFETY: 0 is the calling thread, and the kernel only reads the one integer that `struct
    // sched_param` consists of.
    #[allow(unsafe_code)]
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            policy,
            &raw const parameters,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_makes_patient_once_and_calm_makes_prompt_again() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut turns = Turns::default();
        assert_eq!(turns.begin(at(0)), None);
        assert_eq!(turns.begin(at(0)), None);
        assert_eq!(turns.begin(at(0)), Some(Manner::Patient));
        assert_eq!(turns.begin(at(1)), None);
        for _ in 0..4 {
            assert_eq!(turns.end(at(2)), None, "too early to be calm");
        }
        assert_eq!(turns.begin(at(3)), None);
        assert_eq!(turns.end(at(10)), None);
        assert_eq!(turns.begin(at(11)), Some(Manner::Prompt));
        assert_eq!(turns.end(at(50)), None);
    }

    #[test]
    fn calls_that_go_on_keep_a_crowd() {
        let start = Instant::now();
        let mut turns = Turns::default();
        for _ in 0..CROWD {
            turns.begin(start);
        }
        assert_eq!(turns.begin(start + CALM * 2), None);
        assert_eq!(turns.end(start + CALM * 4), None, "there are {CROWD} left");
        assert_eq!(turns.end(start + CALM * 4), Some(Manner::Prompt));
    }

    #[test]
    fn an_end_without_a_beginning_is_nothing() {
        let mut turns = Turns::default();
        assert_eq!(turns.end(Instant::now()), None);
        assert_eq!(turns.calls, 0);
    }

    #[test]
    fn the_kernel_is_told_of_watched_threads_only() {
        let policy = || {
            // SAFETY: reads the policy of the calling thread.
            #[allow(unsafe_code)]
            unsafe {
                libc::syscall(libc::SYS_sched_getscheduler, 0)
            }
        };
        let crowd = move || {
            let calls: Vec<Call> = (0..CROWD).map(|_| Call::begin()).collect();
            let crowded = policy();
            drop(calls);
            crowded
        };
        let unwatched = std::thread::spawn(crowd).join().unwrap();
        assert_eq!(unwatched, i64::from(libc::SCHED_OTHER));
        let watched = std::thread::spawn(move || {
            watch_this_thread();
            crowd()
        });
        assert_eq!(watched.join().unwrap(), i64::from(libc::SCHED_BATCH));
    }
}
