//! Headers that go on from one message to the next.

use farplane_functions_types::names::header;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Say something about one connection or one signature, never about the message.
const NOT_FOR_OTHERS: &[&str] = &[
    "authorization",
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// True for a header that may go on. Ours are set anew at each step: nobody outside decides
/// whether a call is asynchronous, how deep it is or who signed it.
pub(crate) fn goes_on(name: &HeaderName) -> bool {
    let name = name.as_str();
    !NOT_FOR_OTHERS.contains(&name)
        && !name.starts_with("x-fission-")
        && !name.starts_with("x-farplane-")
        && !name.starts_with("nats-")
}

/// The headers among `pairs` that are valid and may go on.
pub(crate) fn going_on<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_bytes(value);
        if let (Ok(name), Ok(value)) = (name, value)
            && goes_on(&name)
        {
            headers.append(name, value);
        }
    }
    headers
}

/// Headers of a call that a router handed over: those that may go on, and those by which the
/// router says what the client asked for.
pub(crate) fn of_call(pairs: &[(String, String)]) -> HeaderMap {
    let mut headers = going_on(
        pairs
            .iter()
            .map(|(name, value)| (&**name, value.as_bytes())),
    );
    for (name, value) in pairs {
        let kept = [header::FULL_URL, header::REQUEST_ID].contains(&name.as_str())
            || name.starts_with(header::PARAMS);
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (true, Ok(name), Ok(value)) = (kept, name, HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// A text as a header's value: what cannot be in one becomes a space.
pub(crate) fn value(text: &str) -> HeaderValue {
    let clean = text.chars().map(|character| {
        let fits = character.is_ascii_graphic() || character == ' ';
        if fits { character } else { ' ' }
    });
    let clean: String = clean.take(1000).collect();
    HeaderValue::try_from(clean).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_about_the_message_goes_on() {
        let pairs = [
            ("X-App", "1"),
            ("Content-Type", "text/plain"),
            ("Host", "other"),
            ("Transfer-Encoding", "chunked"),
            ("X-Fission-Invoke-Mode", "async"),
            ("X-Fission-Auth-Signature", "00"),
            ("X-Farplane-Owner", "me"),
            ("bad name", "1"),
            ("X-Bad", "a\nb"),
        ];
        let headers = going_on(pairs.map(|(name, value)| (name, value.as_bytes())));
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "x-app"]);
    }

    #[test]
    fn any_text_is_made_a_value() {
        assert_eq!(value("a\nb\u{e4}"), "a b ");
        assert_eq!(value(&"x".repeat(5000)).len(), 1000);
    }
}
