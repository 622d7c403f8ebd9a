//! Which call goes to which instance of one function: a state machine without IO.
//!
//! A call takes a free place at once, or waits in line. Whoever frees a place gives it to the
//! first in line. More instances are asked for when there is none, and while calls wait for
//! longer than [`PATIENCE`] after the last one came.
//!
//! Promises: an instance never has more calls than it may; instances and those that are asked
//! for are never more than the function may have; the line is first come, first served.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How long a call may wait before another instance is asked for: most calls are shorter, and
/// a burst of short calls needs one instance, not many.
pub const PATIENCE: Duration = Duration::from_millis(5);
/// The same while the first instance is on its way, which takes longer than most calls.
pub const COLD_PATIENCE: Duration = Duration::from_millis(50);
/// Calls that wait for one function at most.
pub const MAX_WAITING: usize = 10_000;

/// A call that waits. `W` is how it is told.
struct Waiting<W> {
    id: u64,
    since: Instant,
    tell: W,
}

struct Place {
    calls: usize,
    /// When its last call ended, or it came.
    idle_since: Instant,
    /// Takes no new calls and goes with its last one.
    leaving: bool,
}

/// The state of one function.
pub struct Admission<W> {
    per_instance: usize,
    limit: usize,
    instances: HashMap<String, Place>,
    /// Addresses with a free place; the one used last is on top, so that others fall idle.
    free: Vec<String>,
    line: VecDeque<Waiting<W>>,
    asked: usize,
    next_id: u64,
    /// An instance is for one call.
    once: bool,
    /// An ask failed while there was no instance; others may still be answered.
    failing: bool,
    /// When the last instance came: it may work the line off first.
    came: Option<Instant>,
    /// Addresses that are not called again, though their Pods may still be there: nothing
    /// answered, or their one call is over. With the time since when.
    spent: HashMap<String, Instant>,
}

/// What became of an ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is an instance, and it has been added.
    Added,
    /// None could be made.
    Failed,
    /// The function has changed since: the answer says nothing.
    Outdated,
}

/// What becomes of a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<W> {
    /// It has a place at this address.
    Go(String),
    /// It waits; the number takes it out of the line again.
    Wait(u64),
    /// Too many wait.
    Refuse(W),
}

impl<W> Admission<W> {
    /// A function without instances.
    pub fn new(per_instance: usize, limit: usize) -> Self {
        Self {
            per_instance: per_instance.max(1),
            limit: limit.max(1),
            instances: HashMap::new(),
            free: Vec::new(),
            line: VecDeque::new(),
            asked: 0,
            next_id: 0,
            once: false,
            failing: false,
            came: None,
            spent: HashMap::new(),
        }
    }

    /// The function changed.
    pub fn configure(&mut self, per_instance: usize, limit: usize, once: bool) {
        self.per_instance = per_instance.max(1);
        self.limit = limit.max(1);
        self.once = once;
        let free = |place: &Place| !place.leaving && place.calls < self.per_instance;
        self.free = self
            .instances
            .iter()
            .filter(|(_, place)| free(place))
            .map(|(address, _)| address.clone())
            .collect();
    }

    /// A call comes. `tell` is used when it has to wait.
    pub fn enter(&mut self, tell: W, now: Instant) -> Entry<W> {
        if self.line.is_empty()
            && let Some(address) = self.occupy()
        {
            return Entry::Go(address);
        }
        if self.line.len() >= MAX_WAITING {
            return Entry::Refuse(tell);
        }
        let id = self.next_id;
        self.next_id += 1;
        self.line.push_back(Waiting {
            id,
            since: now,
            tell,
        });
        Entry::Wait(id)
    }

    fn occupy(&mut self) -> Option<String> {
        if self.per_instance == usize::MAX {
            return self.spread();
        }
        while let Some(address) = self.free.last() {
            let Some(place) = self.instances.get_mut(address) else {
                self.free.pop();
                continue;
            };
            if place.leaving || place.calls >= self.per_instance {
                self.free.pop();
                continue;
            }
            place.calls += 1;
            if place.calls >= self.per_instance {
                return self.free.pop();
            }
            return Some(address.clone());
        }
        None
    }

    /// Where others scale by load, the load has to reach all: the one with the fewest calls, and
    /// of these the one that is idle for longest.
    fn spread(&mut self) -> Option<String> {
        let stays = self
            .instances
            .iter_mut()
            .filter(|(_, place)| !place.leaving);
        let (address, place) = stays.min_by_key(|(_, place)| (place.calls, place.idle_since))?;
        place.calls += 1;
        Some(address.clone())
    }

    /// A call that waits does so no more.
    pub fn give_up(&mut self, id: u64) {
        self.line.retain(|waiting| waiting.id != id);
    }

    /// A call has ended. Gives the place to the first in line: who is to be told, and where.
    pub fn leave(&mut self, address: &str, now: Instant) -> Vec<(W, String)> {
        if let Some(place) = self.instances.get_mut(address) {
            let was_full = place.calls >= self.per_instance;
            place.calls = place.calls.saturating_sub(1);
            place.idle_since = now;
            if self.once {
                self.spend(address, now);
            } else if place.leaving {
                if place.calls == 0 {
                    self.instances.remove(address);
                }
            } else if was_full {
                self.free.push(address.to_owned());
            }
        }
        self.hand_out()
    }

    /// The executor names an instance.
    pub fn add(&mut self, address: &str, now: Instant) -> Vec<(W, String)> {
        self.spent.remove(address);
        self.failing = false;
        let place = self.instances.entry(address.to_owned());
        let place = place.or_insert(Place {
            calls: 0,
            idle_since: now,
            leaving: true,
        });
        if std::mem::replace(&mut place.leaving, false) {
            self.came = Some(now);
            if place.calls < self.per_instance {
                // Below those in use: what has calls keeps them.
                self.free.insert(0, address.to_owned());
            }
        }
        self.hand_out()
    }

    /// An instance was seen that is not named to anybody, or was named before.
    pub fn seen(&mut self, address: &str, now: Instant) -> Vec<(W, String)> {
        if self.once || self.spent.contains_key(address) {
            return Vec::new();
        }
        self.add(address, now)
    }

    /// An instance is not to be called again, though its Pod is there. True when it was known.
    pub fn spend(&mut self, address: &str, now: Instant) -> bool {
        let known = self.remove(address);
        self.spent.insert(address.to_owned(), now);
        known
    }

    /// An instance is gone for good. True when it was known.
    pub fn gone(&mut self, address: &str) -> bool {
        self.spent.remove(address);
        self.remove(address)
    }

    /// An instance is gone, or takes no more calls. True when it was known.
    pub fn remove(&mut self, address: &str) -> bool {
        let Some(place) = self.instances.get_mut(address) else {
            return false;
        };
        place.leaving = true;
        if place.calls == 0 {
            self.instances.remove(address);
        }
        self.free.retain(|other| other != address);
        true
    }

    fn hand_out(&mut self) -> Vec<(W, String)> {
        let mut out = Vec::new();
        while !self.line.is_empty() {
            let Some(address) = self.occupy() else { break };
            if let Some(waiting) = self.line.pop_front() {
                out.push((waiting.tell, address));
            }
        }
        out
    }

    /// How many instances to ask for now; each is ended by [`Admission::answered`].
    pub fn ask(&mut self, now: Instant) -> usize {
        // Those that wait are told why, instead of causing one failure after the other.
        if self.failing {
            return 0;
        }
        let room = self.limit.saturating_sub(self.living() + self.asked);
        let late = self
            .line
            .iter()
            .take_while(|waiting| self.late_at(waiting) <= now)
            .count();
        let first = usize::from(self.living() == 0 && self.asked == 0 && !self.line.is_empty());
        let wanted = late.saturating_sub(self.asked).max(first).min(room);
        self.asked += wanted;
        wanted
    }

    fn living(&self) -> usize {
        let stays = |place: &&Place| !place.leaving;
        self.instances.values().filter(stays).count()
    }

    /// An ask was answered. Returns the calls that nothing can serve: the ask failed, there is no
    /// instance, and no other ask may bring one.
    pub fn answered(&mut self, answer: Answer) -> Vec<W> {
        self.asked = self.asked.saturating_sub(1);
        if answer == Answer::Failed {
            self.failing = true;
        }
        if self.living() > 0 {
            self.failing = false;
        }
        if !self.failing || self.asked > 0 {
            return Vec::new();
        }
        self.failing = false;
        self.close()
    }

    /// True when there is an instance that takes calls.
    pub fn serves(&self) -> bool {
        self.living() > 0
    }

    /// When calls that wait now become late, if any wait.
    pub fn due(&self) -> Option<Instant> {
        let at = self.asked.min(self.line.len().saturating_sub(1));
        self.line.get(at).map(|waiting| self.late_at(waiting))
    }

    fn late_at(&self, waiting: &Waiting<W>) -> Instant {
        if self.once {
            return waiting.since + PATIENCE;
        }
        match self.came {
            Some(came) if self.living() > 0 => waiting.since.max(came) + PATIENCE,
            _ => waiting.since + COLD_PATIENCE,
        }
    }

    /// Addresses that are known, the spent ones too.
    pub fn known(&self) -> Vec<String> {
        self.instances
            .keys()
            .chain(self.spent.keys())
            .cloned()
            .collect()
    }

    /// How many calls wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.line.len()
    }

    /// Takes everybody out of the line: the function is gone.
    pub fn close(&mut self) -> Vec<W> {
        self.line.drain(..).map(|waiting| waiting.tell).collect()
    }

    /// Address, calls and idle time of every instance.
    pub fn usage(&self, now: Instant) -> impl Iterator<Item = (&str, usize, Duration)> {
        let idle = move |place: &Place| match place.calls {
            0 => now.duration_since(place.idle_since),
            _ => Duration::ZERO,
        };
        let spent = self.spent.iter();
        let spent = spent.map(move |(address, since)| (address.as_str(), 0, now - *since));
        let kept = self.instances.iter();
        kept.map(move |(address, place)| (address.as_str(), place.calls, idle(place)))
            .chain(spent)
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
