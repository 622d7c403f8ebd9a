//! `host:port` of the hub, and the way to it: directly or through a proxy.

use std::fmt;
use std::str::FromStr;

use farplane_tunnel::proxy::{Proxy, ProxyError};

/// Where the hub's gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubAddress {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Text that is no address of a hub.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not the address of a hub: {reason}; write it as host:port, as in hub.example.com:8443"
)]
pub struct InvalidAddress {
    /// What was read.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl FromStr for HubAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |reason| InvalidAddress {
            text: text.to_owned(),
            reason,
        };
        if text.contains("://") {
            return Err(invalid("it has a scheme"));
        }
        let (host, port) = text.rsplit_once(':').ok_or(invalid("it has no port"))?;
        let port = port.parse().map_err(|_| invalid("the port is no number"))?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner
                .strip_suffix(']')
                .ok_or(invalid("a bracket is open"))?,
            None if host.contains(':') => return Err(invalid("IPv6 needs brackets")),
            None => host,
        };
        let odd = |c: char| !(c.is_ascii_alphanumeric() || "-._:".contains(c));
        match () {
            () if port == 0 => Err(invalid("the port is zero")),
            () if host.is_empty() => Err(invalid("it has no host")),
            () if host.contains(odd) => Err(invalid("the host is no name and no address")),
            () => Ok(Self {
                host: host.to_owned(),
                port,
            }),
        }
    }
}

impl fmt::Display for HubAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(formatter, "[{host}]:{port}")
        } else {
            write!(formatter, "{host}:{port}")
        }
    }
}

/// The proxy towards the hub: the configured one, else what the environment says.
///
/// # Errors
/// When the one that applies cannot be used.
pub fn proxy(hub: &HubAddress, configured: Option<&str>) -> Result<Option<Proxy>, ProxyError> {
    if let Some(text) = configured {
        return Proxy::parse(text).map(Some);
    }
    let (https, none) = environment();
    Proxy::choose(&hub.host, https.as_deref(), none.as_deref())
}

/// Address of the proxy towards the hub that the environment names.
///
/// # Errors
/// When the one that applies cannot be used.
pub fn proxy_of_environment(hub: &HubAddress) -> Result<Option<String>, ProxyError> {
    let (https, none) = environment();
    let applies = Proxy::choose(&hub.host, https.as_deref(), none.as_deref())?.is_some();
    Ok(https.filter(|_| applies))
}

/// Values of `HTTPS_PROXY` and `NO_PROXY`.
pub fn environment() -> (Option<String>, Option<String>) {
    let variable = |names: [&str; 2]| names.iter().find_map(|name| std::env::var(name).ok());
    (
        variable(["HTTPS_PROXY", "https_proxy"]),
        variable(["NO_PROXY", "no_proxy"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_their_text() {
        for text in ["hub.test:8443", "10.0.0.1:1", "[fd00::1]:443"] {
            let address: HubAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn other_texts_say_what_is_wrong() {
        for text in [
            "",
            "hub",
            "hub:",
            "hub:x",
            "hub:0",
            ":1",
            "https://hub:1",
            "fd00::1:443",
            "[fd00::1:443",
            "a b:1",
            "a/b:1",
            "user@hub:1",
        ] {
            let error = text.parse::<HubAddress>().unwrap_err();
            assert!(error.to_string().contains("host:port"), "{text}");
        }
    }

    #[test]
    fn a_configured_proxy_goes_before_the_environment() {
        let hub = "hub.test:8443".parse().unwrap();
        let found = proxy(&hub, Some("http://proxy.test:3128"))
            .unwrap()
            .unwrap();
        assert_eq!((found.host.as_str(), found.port), ("proxy.test", 3128));
        assert!(proxy(&hub, Some("socks5://proxy.test:1")).is_err());
    }
}
