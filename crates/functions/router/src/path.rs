//! Paths of requests: what they mean, and what is left of them.

use std::borrow::Cow;

/// Beginning of the paths of functions by their names.
pub(crate) const FUNCTIONS: &str = "/fission-function/";

/// What is left of a path as it was sent, below a prefix of the decoded one.
pub(crate) fn below<'a>(sent: &'a str, prefix: &str) -> &'a str {
    // Slashes are never decoded, so both have the same.
    let depth = prefix.matches('/').count();
    sent.match_indices('/')
        .nth(depth)
        .map_or("/", |(at, _)| &sent[at..])
}

/// Takes `%xx` out of a path, but for `%2F`: a slash that is a part of a segment stays one.
pub(crate) fn decode(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = (bytes[at] == b'%')
            .then(|| path.get(at + 1..at + 3))
            .flatten();
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if byte != b'/' => {
                decoded.push(byte);
                at += 3;
            }
            _ => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    // Bytes that are no text fit no route by another spelling.
    String::from_utf8(decoded).map_or(Cow::Borrowed(path), Cow::Owned)
}

/// A function by its internal path: namespace, name with alias or version, rest of the path.
pub fn internal(
    path: &str,
    known: impl Fn(&str, &str) -> bool,
) -> Option<(String, String, String, String)> {
    let rest = path.strip_prefix(FUNCTIONS)?;
    let (first, tail) = rest.split_once('/').unwrap_or((rest, ""));
    let split = |word: &str| match word.split_once(':') {
        Some((name, label)) => (name.to_owned(), label.to_owned()),
        None => (word.to_owned(), String::new()),
    };
    // `<ns>/<name>` and `<name>/<rest>` look alike; what exists decides, the former first.
    if !first.contains(':') && !tail.is_empty() {
        let (second, after) = tail.split_once('/').unwrap_or((tail, ""));
        let (name, label) = split(second);
        if known(first, &name) {
            return Some((first.to_owned(), name, label, format!("/{after}")));
        }
    }
    let (name, label) = split(first);
    known("default", &name).then(|| ("default".to_owned(), name, label, format!("/{tail}")))
}
