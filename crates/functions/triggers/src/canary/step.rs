//! Whether a canary goes on. Pure.

use crate::canary::metrics::Window;

/// When a canary moves by nothing, it would never end.
const SMALLEST_STEP: i64 = 1;

/// What is done at the end of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nobody called: nothing is known.
    Wait,
    /// The new function gets this share.
    Step(i64),
    RollBack,
    Succeed,
}

/// Decides from the share that the new function has, and from what was counted meanwhile.
/// Only calls of a window allow a step beyond the first one, and only at 100 % success.
pub(crate) fn decide(weight: i64, increment: i64, threshold: i64, window: Window) -> Decision {
    let increment = increment.clamp(SMALLEST_STEP, 100);
    if weight <= 0 {
        return Decision::Step(increment);
    }
    if window.calls == 0 {
        return Decision::Wait;
    }
    let threshold = u128::try_from(threshold).unwrap_or(0);
    if u128::from(window.errors) * 100 > threshold * u128::from(window.calls) {
        return Decision::RollBack;
    }
    if weight >= 100 {
        return Decision::Succeed;
    }
    Decision::Step((weight + increment).min(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(calls: u64, errors: u64) -> Window {
        Window { calls, errors }
    }

    #[test]
    fn every_weight_step_threshold_and_share_of_errors() {
        for weight in 0..=100 {
            for increment in [0, 1, 10, 33, 100] {
                for threshold in [0, 10, 100] {
                    for errors in 0..=100 {
                        let decision = decide(weight, increment, threshold, window(100, errors));
                        let step = Decision::Step((weight + increment.max(1)).min(100));
                        let expected = if weight == 0 {
                            step
                        } else if i64::try_from(errors).unwrap() > threshold {
                            Decision::RollBack
                        } else if weight == 100 {
                            Decision::Succeed
                        } else {
                            step
                        };
                        assert_eq!(
                            decision, expected,
                            "{weight} {increment} {threshold} {errors}"
                        );
                    }
                    // Without calls nothing moves, and nothing succeeds.
                    if weight > 0 {
                        let decision = decide(weight, increment, threshold, window(0, 0));
                        assert_eq!(decision, Decision::Wait);
                    }
                }
            }
        }
    }

    #[test]
    fn less_than_a_percent_counts_and_large_numbers_do_not_wrap() {
        assert_eq!(decide(50, 10, 0, window(1_000_000, 1)), Decision::RollBack);
        assert_eq!(
            decide(50, 10, 1, window(1_000_000, 9_999)),
            Decision::Step(60)
        );
        let most = window(u64::MAX, u64::MAX);
        assert_eq!(decide(50, 10, 99, most), Decision::RollBack);
        assert_eq!(decide(50, 10, 100, most), Decision::Step(60));
    }

    /// A canary whose function never fails ends after as many windows as it has steps.
    #[test]
    fn a_good_one_ends_and_needs_a_window_at_every_step() {
        let (mut weight, mut windows) = (0, 0);
        loop {
            match decide(weight, 30, 10, window(if weight > 0 { 5 } else { 0 }, 0)) {
                Decision::Step(to) => {
                    assert!(to > weight);
                    weight = to;
                }
                Decision::Succeed => break,
                other => panic!("{other:?}"),
            }
            windows += 1;
        }
        assert_eq!((weight, windows), (100, 4));
    }
}
