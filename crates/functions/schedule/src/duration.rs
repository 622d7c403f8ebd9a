//! Durations as Fission's users write them: `1h30m`, `1.5h`, `300ms`.

use std::time::Duration;

/// Longest duration that is taken: about 292 years, as in Go.
const LONGEST_NANOS: u128 = i64::MAX as u128;

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It is not a sequence of number and unit.
    #[error("{0:?} is not a duration; write for example 30s, 5m or 1h30m")]
    Malformed(String),
    /// It does not fit.
    #[error("{0:?} is longer than 292 years")]
    TooLong(String),
}

/// Reads a duration of Go's notation. A sign is refused: nothing here goes back in time.
///
/// # Errors
/// When it is none.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let malformed = || DurationError::Malformed(text.to_owned());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(malformed());
    }
    let mut nanos: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (part, after) = part(rest).ok_or_else(malformed)?;
        nanos = nanos.saturating_add(part);
        if nanos > LONGEST_NANOS {
            return Err(DurationError::TooLong(text.to_owned()));
        }
        rest = after;
    }
    let nanos = u64::try_from(nanos).map_err(|_| DurationError::TooLong(text.to_owned()))?;
    Ok(Duration::from_nanos(nanos))
}

/// One number with its unit in nanoseconds, and what follows.
fn part(text: &str) -> Option<(u128, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = text.split_at(digits(text));
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let end = rest
        .find(|character: char| character.is_ascii_digit() || character == '.')
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    let unit: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    // Numbers that do not fit are too long in any unit.
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().unwrap_or(u128::MAX)
    };
    // A dozen digits are finer than a nanosecond of an hour.
    let digits = &fraction[..fraction.len().min(13)];
    let scale = 10_u128.pow(u32::try_from(digits.len()).ok()?);
    let fraction: u128 = if digits.is_empty() {
        0
    } else {
        digits.parse().ok()?
    };
    let nanos = whole
        .saturating_mul(unit)
        .saturating_add(fraction.saturating_mul(unit) / scale);
    Some((nanos, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn notations_of_go_are_understood() {
        let milliseconds = |text: &str| parse(text).unwrap().as_millis();
        assert_eq!(milliseconds("5m"), 300_000);
        assert_eq!(milliseconds("1h30m"), 5_400_000);
        assert_eq!(milliseconds("1.5h"), 5_400_000);
        assert_eq!(milliseconds(".5s"), 500);
        assert_eq!(milliseconds("1.s"), 1000);
        assert_eq!(milliseconds("250ms"), 250);
        assert_eq!(milliseconds("0"), 0);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "5", "m", "-5m", "5 m", "5x", "1h-2m", ".s", "1e3s"] {
            assert!(
                matches!(parse(text), Err(DurationError::Malformed(_))),
                "{text}"
            );
        }
        assert!(matches!(
            parse("9999999999999h"),
            Err(DurationError::TooLong(_))
        ));
        let long = format!("{}h", "9".repeat(60));
        assert!(matches!(parse(&long), Err(DurationError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(hours in 0_u64..1000, minutes in 0_u64..60, seconds in 0_u64..60) {
            let text = format!("{hours}h{minutes}m{seconds}s");
            let expected = Duration::from_secs(hours * 3600 + minutes * 60 + seconds);
            prop_assert_eq!(parse(&text).unwrap(), expected);
        }

        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,40}") {
            _ = parse(&text);
        }
    }
}
