//! HTTP proxies: which one applies, and the CONNECT exchange with it. Parsers are pure.

use std::{fmt, net::IpAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Longest answer of a proxy to CONNECT, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 8192;

/// An HTTP proxy that tunnels by CONNECT.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Value of `Proxy-Authorization`, if any.
    pub authorization: Option<String>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Proxy")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("authorization", &self.authorization.as_ref().map(|_| "…"))
            .finish()
    }
}

/// Why a proxy's address cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Another scheme than `http`.
    #[error("proxy scheme {scheme:?} is not supported, only http")]
    Scheme {
        /// The scheme found.
        scheme: String,
    },
    /// No host, or a port that is not one.
    #[error("proxy address is not http://[user:password@]host[:port]")]
    Address,
}

impl Proxy {
    /// Reads `http://[user:password@]host[:port][/]`; the scheme may be missing and the port is
    /// 80 when not given. User and password may be percent-encoded.
    pub fn parse(text: &str) -> Result<Self, ProxyError> {
        let rest = match text.split_once("://") {
            None => text,
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) => {
                return Err(ProxyError::Scheme {
                    scheme: scheme.to_owned(),
                });
            }
        };
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, address) = match rest.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, rest),
        };
        let (host, port) = split_address(address).ok_or(ProxyError::Address)?;
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(ProxyError::Address);
        }
        Ok(Self {
            host: host.to_owned(),
            port: port.unwrap_or(80),
            authorization: user
                .map(|user| format!("Basic {}", STANDARD.encode(percent_decode(user)))),
        })
    }

    /// The proxy for `target`, from the values of `HTTPS_PROXY` and `NO_PROXY`; `None` to
    /// dial directly. `NO_PROXY` is a list with commas of `*`, names (which match the
    /// domains below them too), addresses and CIDR ranges.
    pub fn choose(
        target: &str,
        https_proxy: Option<&str>,
        no_proxy: Option<&str>,
    ) -> Result<Option<Self>, ProxyError> {
        let excluded = no_proxy.is_some_and(|list| {
            list.split(',')
                .map(str::trim)
                .any(|entry| excludes(entry, target))
        });
        match https_proxy.map(str::trim) {
            None | Some("") => Ok(None),
            Some(_) if excluded => Ok(None),
            Some(text) => Self::parse(text).map(Some),
        }
    }

    /// The request that asks this proxy for `host:port`.
    pub(crate) fn request(&self, host: &str, port: u16) -> String {
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let authorization = match &self.authorization {
            Some(value) => format!("Proxy-Authorization: {value}\r\n"),
            None => String::new(),
        };
        format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{authorization}\r\n")
    }
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`.
fn split_address(address: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port.parse().ok()?))),
            None if rest.is_empty() => Some((host, None)),
            None => None,
        };
    }
    match address.split_once(':') {
        Some((host, port)) => Some((host, Some(port.parse().ok()?))),
        None => Some((address, None)),
    }
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let decoded = match rest {
            [b'%', high, low, ..] => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match decoded {
            Some((high, low)) => {
                out.push(high * 16 + low);
                rest = &rest[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

fn excludes(entry: &str, target: &str) -> bool {
    if entry.is_empty() {
        return false;
    }
    if entry == "*" {
        return true;
    }
    if let Ok(address) = target.parse::<IpAddr>() {
        return match entry.split_once('/') {
            Some((network, bits)) => in_range(address, network, bits),
            None => entry.parse() == Ok(address),
        };
    }
    let entry = entry.trim_start_matches("*.").trim_start_matches('.');
    let target = target.trim_end_matches('.');
    match target.len().checked_sub(entry.len()) {
        Some(0) => target.eq_ignore_ascii_case(entry),
        Some(cut) => target.get(cut..).is_some_and(|tail| {
            tail.eq_ignore_ascii_case(entry) && target.as_bytes()[cut - 1] == b'.'
        }),
        None => false,
    }
}

fn in_range(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) if bits <= 32 => {
            let shift = 32 - bits;
            u64::from(address.to_bits()) >> shift == u64::from(network.to_bits()) >> shift
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

/// Status of a complete response head at the front of `bytes`, with the head's length; `None`
/// when more bytes are needed. The error says what is wrong.
pub fn parse_response(bytes: &[u8]) -> Result<Option<(u16, usize)>, &'static str> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() >= MAX_RESPONSE_BYTES {
            Err("response head is too long")
        } else {
            Ok(None)
        };
    };
    let line = bytes[..end]
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| "status line is not text")?;
    let mut words = line.split(' ');
    let version = words.next().unwrap_or_default();
    if !version.starts_with("HTTP/1.") {
        return Err("answer is not HTTP/1");
    }
    let status = words.next().unwrap_or_default();
    if status.len() != 3 {
        return Err("status is not three digits");
    }
    match status.parse::<u16>() {
        Ok(status) if status >= 100 => Ok(Some((status, end + 4))),
        _ => Err("status is not three digits"),
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
