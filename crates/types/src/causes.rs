//! Errors in words.

/// An error and its causes on one line; a cause whose words are there already is left out.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{words}")]
    struct Failed {
        words: &'static str,
        source: Option<Box<Failed>>,
    }

    #[test]
    fn a_cause_is_told_once() {
        let failed = |words, source| Failed { words, source };
        let last = failed("refused", None);
        let middle = failed("cannot dial: refused", Some(Box::new(last)));
        let first = failed("no answer", Some(Box::new(middle)));
        assert_eq!(causes(&first), "no answer: cannot dial: refused");
    }
}
