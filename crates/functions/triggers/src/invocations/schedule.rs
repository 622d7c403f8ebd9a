//! Which call is next: each function in its own lane, so that none takes all. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// Calls of one function at the same time.
const PER_LANE: usize = 16;
/// Calls at the same time.
const IN_ALL: usize = 256;

/// Namespace and function or topic.
pub(crate) type Name = (String, String);

#[derive(Default)]
struct Lane {
    due: BTreeSet<(u64, String)>,
    running: usize,
}

/// Calls that wait, and how many run.
#[derive(Default)]
pub(crate) struct Schedule {
    lanes: BTreeMap<Name, Lane>,
    running: usize,
}

impl Schedule {
    pub fn add(&mut self, name: Name, id: String, due_ms: u64) {
        self.lanes.entry(name).or_default().due.insert((due_ms, id));
    }

    /// Calls that may begin now; they count as running from here on.
    pub fn take(&mut self, now_ms: u64) -> Vec<(Name, String)> {
        let mut taken = Vec::new();
        // One of each lane in turn.
        loop {
            let before = taken.len();
            for (name, lane) in &mut self.lanes {
                if self.running >= IN_ALL {
                    return taken;
                }
                let is_due = lane.due.first().is_some_and(|(due, _)| *due <= now_ms);
                if is_due
                    && lane.running < PER_LANE
                    && let Some((_, id)) = lane.due.pop_first()
                {
                    lane.running += 1;
                    self.running += 1;
                    taken.push((name.clone(), id));
                }
            }
            if taken.len() == before {
                return taken;
            }
        }
    }

    /// A call ended.
    pub fn ended(&mut self, name: &Name) {
        self.running = self.running.saturating_sub(1);
        if let Some(lane) = self.lanes.get_mut(name) {
            lane.running = lane.running.saturating_sub(1);
            if lane.running == 0 && lane.due.is_empty() {
                self.lanes.remove(name);
            }
        }
    }

    /// When the next call may begin by itself; none while only an end makes room.
    pub fn next(&self) -> Option<u64> {
        if self.running >= IN_ALL {
            return None;
        }
        let open = self.lanes.values().filter(|lane| lane.running < PER_LANE);
        open.filter_map(|lane| lane.due.first())
            .map(|(due, _)| *due)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(function: &str) -> Name {
        ("ns".into(), function.into())
    }

    #[test]
    fn calls_begin_when_they_are_due_in_their_order() {
        let mut schedule = Schedule::default();
        for (id, due) in [("c", 30), ("a", 10), ("b", 20)] {
            schedule.add(name("f"), id.into(), due);
        }
        assert_eq!(schedule.next(), Some(10));
        assert!(schedule.take(9).is_empty());
        let ids: Vec<_> = schedule.take(25).into_iter().map(|(_, id)| id).collect();
        assert_eq!(ids, ["a", "b"]);
        assert_eq!(schedule.next(), Some(30));
    }

    #[test]
    fn a_function_with_many_calls_leaves_room_for_others() {
        let mut schedule = Schedule::default();
        for number in 0..1000 {
            schedule.add(name("busy"), format!("{number:04}"), 0);
        }
        assert_eq!(schedule.take(0).len(), PER_LANE);
        assert!(schedule.take(0).is_empty());
        assert_eq!(schedule.next(), None);
        schedule.add(name("other"), "x".into(), 5);
        assert_eq!(schedule.next(), Some(5));
        assert_eq!(schedule.take(5), [(name("other"), "x".into())]);
        schedule.ended(&name("busy"));
        assert_eq!(schedule.take(5), [(name("busy"), "0016".into())]);
    }

    #[test]
    fn no_more_run_than_allowed() {
        let mut schedule = Schedule::default();
        for number in 0..1000 {
            schedule.add(name(&format!("f{number}")), "x".into(), 0);
        }
        let taken = schedule.take(0);
        assert_eq!(taken.len(), IN_ALL);
        assert_eq!(schedule.next(), None);
        for (name, _) in &taken {
            schedule.ended(name);
        }
        assert_eq!(schedule.take(0).len(), IN_ALL);
    }
}
