//! `/etc/farplane/agent.yaml`: where the hub is and who this machine shall be there.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use farplane_types::names;
use farplane_types::token::{InvalidToken, Token};
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};

use crate::address::{self, HubAddress, InvalidAddress};
use crate::files;

/// Where the file is when nothing else is said.
pub const DEFAULT_PATH: &str = "/etc/farplane/agent.yaml";
/// State of the agent and of what it runs when nothing else is said.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/farplane";

/// The file's text, field by field. JSON is YAML too.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Text {
    hub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state_dir: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proxy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    no_proxy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node_address: Option<IpAddr>,
}

/// A checked configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// The hub's gateway.
    pub hub: HubAddress,
    /// Join token, until the machine is enrolled.
    pub token: Option<Token>,
    /// Wanted name of the host; the machine's own when left out.
    pub name: Option<String>,
    /// Name that the gateway's certificate must have.
    pub server_name: Option<String>,
    /// State directory.
    pub state_dir: PathBuf,
    /// HTTP proxy towards the hub and to images, `http://[user:password@]host:port`.
    pub proxy: Option<String>,
    /// Where images come from without the proxy: names, addresses and ranges with commas.
    pub no_proxy: Option<String>,
    /// Address by which the other hosts reach this one, when the agent would choose another.
    pub node_address: Option<IpAddr>,
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A proxy's address may hold a password.
        formatter
            .debug_struct("Config")
            .field("hub", &self.hub)
            .field("token", &self.token)
            .field("name", &self.name)
            .field("state_dir", &self.state_dir)
            .finish_non_exhaustive()
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error(
        "failed to read {path}; `farplane-agent join` writes it, or name another with --config"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("failed to write {path}; run this as root, or name another file with --config")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not the fields that belong there.
    #[error("{path} is not a configuration of the agent: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's words, with the field's name.
        source: serde_yaml_ng::Error,
    },
    /// The hub's address.
    #[error("field hub: {0}")]
    Hub(#[from] InvalidAddress),
    /// The token.
    #[error("field token: {0}")]
    Token(#[from] InvalidToken),
    /// Any other field.
    #[error("field {field}: {value:?} {reason}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What it says.
        value: String,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Config {
    /// A configuration with defaults.
    ///
    /// # Errors
    /// When hub, token or name are not usable.
    pub fn new(hub: &str, token: Option<&str>, name: Option<&str>) -> Result<Self, ConfigError> {
        check(Text {
            hub: hub.to_owned(),
            token: token.map(str::to_owned),
            name: name.map(str::to_owned),
            server_name: None,
            state_dir: None,
            proxy: None,
            no_proxy: None,
            node_address: None,
        })
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read or a field is unknown, missing or wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Reads the text of the file at `path`.
    ///
    /// # Errors
    /// When a field is unknown, missing or wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let text = serde_yaml_ng::from_str(text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source,
        })?;
        check(text)
    }

    /// Writes the file with mode 0600.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, path: &Path) -> Result<(), ConfigError> {
        let failed = |source| ConfigError::Write {
            path: path.to_owned(),
            source,
        };
        let text = Text {
            hub: self.hub.to_string(),
            token: self.token.as_ref().map(ToString::to_string),
            name: self.name.clone(),
            server_name: self.server_name.clone(),
            state_dir: Some(self.state_dir.clone()),
            proxy: self.proxy.clone(),
            no_proxy: self.no_proxy.clone(),
            node_address: self.node_address,
        };
        let text = serde_yaml_ng::to_string(&text).map_err(io::Error::other);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        text.and_then(|text| files::write_private(path, text.as_bytes()))
            .map_err(failed)
    }

    /// Directory of the agent's own files.
    pub fn agent_dir(&self) -> PathBuf {
        self.state_dir.join("agent")
    }

    /// Name of the host: as configured, else the machine's.
    ///
    /// # Errors
    /// When the machine's cannot be a host's name.
    pub fn host_name(&self) -> Result<String, ConfigError> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let machine = nix::sys::utsname::uname();
        let machine = machine.as_ref().map(|it| it.nodename().to_string_lossy());
        let machine = machine.unwrap_or_default().to_ascii_lowercase();
        let label = machine.split('.').next().unwrap_or_default().to_owned();
        if names::is_valid_name(&label) {
            return Ok(label);
        }
        Err(ConfigError::Field {
            field: "name",
            value: label,
            reason: "(this machine's name) cannot be a host's name; choose lower-case letters, \
                     digits and dashes, starting with a letter, and pass it with --name",
        })
    }
}

fn check(text: Text) -> Result<Config, ConfigError> {
    let wrong = |field, value: &str, reason| ConfigError::Field {
        field,
        value: value.to_owned(),
        reason,
    };
    let hub: HubAddress = text.hub.parse()?;
    let token = text.token.as_deref().map(str::parse).transpose()?;
    if let Some(name) = text
        .name
        .as_deref()
        .filter(|name| !names::is_valid_name(name))
    {
        let reason =
            "is not lower-case letters, digits and dashes, at most 50, starting with a letter";
        return Err(wrong("name", name, reason));
    }
    if let Some(name) = &text.server_name
        && ServerName::try_from(name.as_str()).is_err()
    {
        return Err(wrong("serverName", name, "is not a DNS name"));
    }
    if address::proxy(&hub, text.proxy.as_deref()).is_err() && text.proxy.is_some() {
        // The value may hold a password.
        return Err(wrong(
            "proxy",
            "…",
            "is not http://[user:password@]host:port",
        ));
    }
    let state_dir = text.state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into());
    if !state_dir.is_absolute() {
        let value = state_dir.to_string_lossy();
        return Err(wrong("stateDir", &value, "is not an absolute path"));
    }
    if let Some(address) = text.node_address
        && (address.is_loopback() || address.is_unspecified() || address.is_multicast())
    {
        let reason = "is no address by which another host reaches this one";
        return Err(wrong("nodeAddress", &address.to_string(), reason));
    }
    Ok(Config {
        hub,
        token,
        name: text.name,
        server_name: text.server_name,
        state_dir,
        proxy: text.proxy,
        no_proxy: text.no_proxy,
        node_address: text.node_address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("agent.yaml"))
    }

    fn token() -> String {
        format!("fpj1.{}.demo.t1.{}", "ab".repeat(32), "cd".repeat(32))
    }

    #[test]
    fn what_the_hub_writes_for_a_lab_host_is_read() {
        let text = format!(
            r#"{{"hub":"10.96.0.7:8443","token":"{}","name":"one","serverName":"gateway.farplane.internal"}}"#,
            token()
        );
        let config = parse(&text).unwrap();
        assert_eq!(config.hub.port, 8443);
        assert_eq!(config.state_dir, Path::new(DEFAULT_STATE_DIR));
        assert_eq!(config.host_name().unwrap(), "one");
        assert!(!format!("{config:?}").contains("cdcd"));
    }

    #[test]
    fn a_stored_file_reads_the_same_and_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/agent.yaml");
        let config = Config::new("hub:1", Some(&token()), Some("one")).unwrap();
        config.store(&path).unwrap();
        assert_eq!(Config::load(&path).unwrap(), config);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn wrong_fields_are_named() {
        for (text, named) in [
            ("{}", "hub"),
            ("hub: a:1\nhubb: x", "hubb"),
            ("hub: a", "hub"),
            ("hub: a:1\ntoken: x", "token"),
            ("hub: a:1\nname: A", "name"),
            ("hub: a:1\nserverName: 'a b'", "serverName"),
            ("hub: a:1\nproxy: socks5://x", "proxy"),
            ("hub: a:1\nstateDir: x", "stateDir"),
            ("hub: a:1\nnodeAddress: 127.0.0.1", "nodeAddress"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
