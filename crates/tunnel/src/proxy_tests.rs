//! Choice of a proxy, and its answers.

use proptest::prelude::*;

use super::*;

#[test]
fn addresses_are_read() {
    let proxy = Proxy::parse("http://us%65r:p%40ss@proxy.example:3128/").unwrap();
    assert_eq!(proxy.host, "proxy.example");
    assert_eq!(proxy.port, 3128);
    assert_eq!(
        proxy.authorization.as_deref(),
        Some(format!("Basic {}", STANDARD.encode("user:p@ss")).as_str())
    );
    let proxy = Proxy::parse("[::1]:8080").unwrap();
    assert_eq!((proxy.host.as_str(), proxy.port), ("::1", 8080));
    assert_eq!(Proxy::parse("proxy").unwrap().port, 80);
}

#[test]
fn wrong_addresses_are_refused() {
    for text in ["", "http://", "http://a:b", "http://a:99999", "[::1", "a b"] {
        assert_eq!(Proxy::parse(text), Err(ProxyError::Address), "{text}");
    }
    assert!(matches!(
        Proxy::parse("socks5://a"),
        Err(ProxyError::Scheme { .. })
    ));
}

#[test]
fn the_password_is_not_printed() {
    let proxy = Proxy::parse("http://user:secret@proxy").unwrap();
    let printed = format!("{proxy:?}");
    assert!(!printed.contains("secret") && !printed.contains(&STANDARD.encode("user:secret")));
}

#[test]
fn exclusions_follow_the_usual_rules() {
    let excluded = |target, list| {
        Proxy::choose(target, Some("http://proxy"), Some(list))
            .unwrap()
            .is_none()
    };
    assert!(excluded("hub.example", "other,hub.example"));
    assert!(excluded("a.hub.example", ".hub.example"));
    assert!(excluded("a.hub.example", "*.HUB.example"));
    assert!(!excluded("ahub.example", "hub.example"));
    assert!(excluded("10.1.2.3", "10.1.0.0/16"));
    assert!(!excluded("10.2.2.3", "10.1.0.0/16"));
    assert!(excluded("10.2.2.3", "0.0.0.0/0"));
    assert!(excluded("fd00::1", "fd00::/8"));
    assert!(excluded("::1", "::/0"));
    assert!(!excluded("10.1.2.3", "10.1.0.0/99"));
    assert!(excluded("anything", "*"));
    assert!(!excluded("hub.example", ""));
    assert_eq!(Proxy::choose("a", None, None), Ok(None));
    assert_eq!(Proxy::choose("a", Some(""), None), Ok(None));
}

#[test]
fn requests_name_the_target() {
    let proxy = Proxy::parse("http://proxy").unwrap();
    assert_eq!(
        proxy.request("fd00::1", 8443),
        "CONNECT [fd00::1]:8443 HTTP/1.1\r\nHost: [fd00::1]:8443\r\n\r\n"
    );
}

#[test]
fn responses_are_read_at_any_split() {
    let head = b"HTTP/1.1 407 Proxy Authentication Required\r\nA: b\r\n\r\n";
    for cut in 0..head.len() {
        assert_eq!(parse_response(&head[..cut]), Ok(None));
    }
    let more = [&head[..], b"rest"].concat();
    assert_eq!(parse_response(&more), Ok(Some((407, head.len()))));
}

#[test]
fn wrong_responses_are_refused() {
    for text in [
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 20\r\n\r\n",
        "HTTP/1.1 099 x\r\n\r\n",
        "HTTP/1.1 +20 x\r\n\r\n",
    ] {
        assert!(parse_response(text.as_bytes()).is_err(), "{text}");
    }
    assert!(parse_response(&vec![b'a'; MAX_RESPONSE_BYTES]).is_err());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(
        text in "\\PC{0,60}", target in "\\PC{0,30}", bytes in proptest::collection::vec(any::<u8>(), 0..200)
    ) {
        _ = Proxy::parse(&text);
        _ = Proxy::choose(&target, Some("p"), Some(&text));
        _ = parse_response(&bytes);
    }
}
