//! Threads that serve connections, each with a runtime of its own.
//!
//! A connection stays with one thread, and so do the connections to instances that its calls use:
//! a warm call wakes no other thread. A runtime of several threads wakes another one for most
//! events, in case there is more to do; where calls take microseconds that is most of the work.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::turns;

/// Most threads; as many have connections of their own to an instance.
pub const MOST: usize = 8;

thread_local! {
    static LANE: Cell<usize> = const { Cell::new(0) };
}

/// The number of this thread, below [`MOST`]; 0 of one that is no worker.
pub fn lane() -> usize {
    LANE.get()
}

/// The threads. They end when this is dropped, with whatever they still serve.
pub struct Workers {
    handles: Vec<Handle>,
    next: AtomicUsize,
    stop: CancellationToken,
}

impl Workers {
    /// One for each core that this process may use.
    ///
    /// # Errors
    /// When a thread or a runtime cannot be made.
    pub fn start() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let stop = CancellationToken::new();
        let mut handles = Vec::new();
        for lane in 0..cores.min(MOST) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            handles.push(runtime.handle().clone());
            let stop = stop.clone();
            let thread = std::thread::Builder::new().name(format!("calls-{lane}"));
            thread.spawn(move || {
                LANE.set(lane);
                turns::watch_this_thread();
                runtime.block_on(stop.cancelled());
            })?;
        }
        Ok(Self {
            handles,
            next: AtomicUsize::new(0),
            stop,
        })
    }

    /// The runtime of the caller, for all.
    #[cfg(test)]
    pub fn here() -> Self {
        Self {
            handles: vec![Handle::current()],
            next: AtomicUsize::new(0),
            stop: CancellationToken::new(),
        }
    }

    /// Whose turn it is to serve a connection.
    pub fn next(&self) -> &Handle {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        &self.handles[next % self.handles.len()]
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_gets_its_turn_and_stays_on_its_thread() {
        let workers = Workers::start().unwrap();
        let count = workers.handles.len();
        let mut seen = Vec::new();
        for _ in 0..count * 2 {
            let task = workers.next().spawn(async {
                let before = (lane(), std::thread::current().id());
                tokio::task::yield_now().await;
                assert_eq!(before, (lane(), std::thread::current().id()));
                before.0
            });
            seen.push(task.await.unwrap());
        }
        let expected: Vec<usize> = (0..count).chain(0..count).collect();
        assert_eq!(seen, expected);
    }
}
