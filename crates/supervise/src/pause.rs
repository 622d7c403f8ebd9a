//! How long to wait: pure decisions.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// A run of this length counts as stable.
const STABLE: Duration = Duration::from_secs(30);

/// Between two questions, to a process that never answered and to one that does.
const ASK_FIRST: Duration = Duration::from_millis(50);
const ASK_LAST: Duration = Duration::from_secs(1);
const ASK_READY: Duration = Duration::from_secs(5);

/// Pauses between the end of a run and the next start.
#[derive(Debug)]
pub(crate) struct Pauses {
    next: Duration,
}

impl Pauses {
    pub fn new() -> Self {
        Self { next: FIRST }
    }

    /// The pause after a run of this length. `chance` is in 0..1 and moves the pause by
    /// up to a quarter, so that programs that ended together do not start together.
    pub fn after(&mut self, ran: Duration, chance: f64) -> Duration {
        if ran >= STABLE {
            self.next = FIRST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        pause.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0)
    }
}

/// The pause before the next question. One that takes long to become ready is asked less
/// often, since asking has a price.
pub(crate) fn before_asking(ready: bool, unready_for: Duration) -> Duration {
    if ready {
        ASK_READY
    } else {
        (unready_for / 20).clamp(ASK_FIRST, ASK_LAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_cap_and_start_over_after_a_stable_run() {
        let mut pauses = Pauses::new();
        let mut seen = Vec::new();
        for _ in 0..8 {
            seen.push(pauses.after(Duration::ZERO, 0.5).as_millis());
        }
        assert_eq!(seen, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pauses.after(STABLE, 0.5), FIRST);
        assert_eq!(pauses.after(Duration::ZERO, 0.5), FIRST * 2);
        let almost = STABLE - Duration::from_millis(1);
        assert_eq!(pauses.after(almost, 0.5), FIRST * 4);
    }

    #[test]
    fn chance_moves_a_pause_by_a_quarter_either_way() {
        let pause = |chance| Pauses::new().after(Duration::ZERO, chance).as_millis();
        assert_eq!([pause(0.0), pause(0.5), pause(1.0)], [75, 100, 125]);
        assert_eq!([pause(-9.0), pause(9.0)], [75, 125]);
    }

    #[test]
    fn a_slow_starter_is_asked_less_often() {
        let pause = |seconds| before_asking(false, Duration::from_secs(seconds));
        assert_eq!(pause(0), ASK_FIRST);
        assert_eq!(pause(10), Duration::from_millis(500));
        assert_eq!(pause(3600), ASK_LAST);
        assert_eq!(before_asking(true, Duration::from_secs(3600)), ASK_READY);
    }
}
