//! Matches paths against patterns, as shells and `.gitignore` files write them. Pure.
//!
//! `*` and `?` stay within a part of the path, `[a-z]` and `[!a-z]` stand for one letter, `**`
//! for any number of parts.

/// True when a path matches the whole pattern.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = parts(pattern);
    let path: Vec<&str> = parts(path);
    match_parts(&pattern, &path)
}

/// The parts of a pattern before the first that is none of a plain path: names in an archive
/// are told from there. The last part of a plain path is not among them.
pub(crate) fn stem(pattern: &str) -> String {
    let parts = parts(pattern);
    let plain = parts.iter().take_while(|part| !is_wild(part)).count();
    let count = plain.min(parts.len().saturating_sub(1));
    parts[..count].join("/")
}

/// True when a text is a pattern rather than a path.
pub(crate) fn is_wild(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn parts(text: &str) -> Vec<&str> {
    text.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect()
}

fn match_parts(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => {
            match_parts(rest, path) || (!path.is_empty() && match_parts(pattern, &path[1..]))
        }
        (Some((first, pattern)), Some((part, path))) => {
            let (first, part): (Vec<char>, Vec<char>) =
                (first.chars().collect(), part.chars().collect());
            match_part(&first, &part) && match_parts(pattern, path)
        }
        _ => false,
    }
}

fn match_part(pattern: &[char], text: &[char]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((&'*', rest)), _) => {
            match_part(rest, text) || (!text.is_empty() && match_part(pattern, &text[1..]))
        }
        (Some((&'[', rest)), Some((letter, text))) => match class(rest) {
            Some((class, rest)) => in_class(class, *letter) && match_part(rest, text),
            None => *letter == '[' && match_part(rest, text),
        },
        (Some((&'?', pattern)), Some((_, text))) => match_part(pattern, text),
        (Some((first, pattern)), Some((letter, text))) => {
            first == letter && match_part(pattern, text)
        }
        _ => false,
    }
}

/// The inner of `a-z]...`, and what comes after.
fn class(text: &[char]) -> Option<(&[char], &[char])> {
    let end = text.iter().position(|letter| *letter == ']')?;
    (end > 0).then(|| (&text[..end], &text[end + 1..]))
}

fn in_class(class: &[char], letter: char) -> bool {
    let (negated, mut class) = match class.split_first() {
        Some((&('!' | '^'), rest)) => (true, rest),
        _ => (false, class),
    };
    let mut found = false;
    while let Some((first, rest)) = class.split_first() {
        if let (Some('-'), Some(last)) = (rest.first(), rest.get(1)) {
            found |= (*first..=*last).contains(&letter);
            class = &rest[2..];
        } else {
            found |= *first == letter;
            class = rest;
        }
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_paths() {
        let yes = [
            ("a.py", "a.py"),
            ("./src//*", "src/a"),
            ("src/*.py", "src/a.py"),
            ("src/**", "src/a/b/c"),
            ("**/*.py", "a.py"),
            ("**/*.py", "x/y/a.py"),
            ("a?c", "abc"),
            ("[a-c]x", "bx"),
            ("[!a-c]x", "dx"),
            ("*a*b*", "xaybz"),
        ];
        for (pattern, path) in yes {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        let no = [
            ("src/*", "src/a/b"),
            ("*.py", "src/a.py"),
            ("a?c", "ac"),
            ("[a-c]x", "dx"),
            ("src", "src/a"),
            ("a", ""),
        ];
        for (pattern, path) in no {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn names_are_told_from_the_first_wild_part() {
        for (pattern, expected) in [
            ("hello.py", ""),
            ("src/hello.py", "src"),
            ("src/*", "src"),
            ("src/**/a.py", "src"),
            ("*.py", ""),
            ("src", ""),
        ] {
            assert_eq!(stem(pattern), expected, "{pattern}");
        }
    }
}
