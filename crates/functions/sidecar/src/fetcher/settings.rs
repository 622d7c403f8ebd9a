//! What a fetcher is told: by its arguments (Fission's, and `-wait-for-runtime`) and its
//! environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use farplane_functions_types::auth::Key;
use farplane_functions_types::names::port;
use farplane_functions_types::wire::SpecializeRequest;

use crate::archive::Limits;

/// Where the downward API's files are in Pods that have no variables for them.
const POD_INFO: &str = "/etc/podinfo";

/// What a fetcher is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where requests are taken.
    pub listen: SocketAddr,
    /// Directory shared with the runtime (`/userfunc`) or the builder (`/packages`).
    pub shared: PathBuf,
    /// Directory for Secrets.
    pub secrets: PathBuf,
    /// Directory for ConfigMaps.
    pub configs: PathBuf,
    /// The runtime.
    pub runtime: SocketAddr,
    /// Signs requests to this fetcher.
    pub key: Key,
    /// Signs requests to storage.
    pub storage_key: Key,
    /// Namespace of the Pod.
    pub namespace: String,
    /// Name of the Pod.
    pub pod: String,
    /// Specialise at once, without a request.
    pub startup: Option<Box<SpecializeRequest>>,
    /// Say that the Pod is ready when the runtime listens, not before. A builder never does.
    pub wait_for_runtime: bool,
    /// How much is unpacked.
    pub limits: Limits,
    /// Largest download, in bytes.
    pub download_limit: u64,
    /// How long the runtime may take to listen.
    pub listen_deadline: Duration,
    /// How long the runtime may take to load; the executor's deadline is shorter.
    pub load_deadline: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], port::FETCHER)),
            shared: "/userfunc".into(),
            secrets: "/secrets".into(),
            configs: "/configs".into(),
            runtime: SocketAddr::from(([127, 0, 0, 1], port::RUNTIME)),
            key: Key::from_bytes(&[]),
            storage_key: Key::from_bytes(&[]),
            namespace: String::new(),
            pod: String::new(),
            startup: None,
            wait_for_runtime: false,
            limits: Limits::default(),
            download_limit: 256 << 20,
            listen_deadline: Duration::from_secs(60),
            load_deadline: Duration::from_secs(600),
        }
    }
}

/// Why a fetcher does not start.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// An argument that is not known.
    #[error(
        "argument {0:?} is not known; usage: fetcher [-specialize-on-startup] \
         [-specialize-request JSON] [-wait-for-runtime] [-secret-dir DIR] [-cfgmap-dir DIR] [SHARED-DIR]"
    )]
    Argument(String),
    /// An argument without its value.
    #[error("argument {0} needs a value")]
    Value(&'static str),
    /// The request of `-specialize-request` is none.
    #[error("the request to specialise at the start cannot be read")]
    Request(#[source] serde_json::Error),
    /// A key that is no hex. An unreadable key must not turn checking off.
    #[error("variable {0} is not hex")]
    Key(&'static str),
}

impl Settings {
    /// Reads arguments and environment: `FETCHER_KEY`, `STORAGE_KEY` (hex; none when empty),
    /// `POD_NAMESPACE`, `POD_NAME` (else the files below `/etc/podinfo`).
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn read(
        arguments: impl IntoIterator<Item = String>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let mut settings = Self {
            key: key(&environment, "FETCHER_KEY")?,
            storage_key: key(&environment, "STORAGE_KEY")?,
            namespace: pod_info(&environment, "POD_NAMESPACE", "namespace"),
            pod: pod_info(&environment, "POD_NAME", "name"),
            ..Self::default()
        };
        let mut at_startup = false;
        let mut request = None;
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with('-') => (name, Some(value.to_owned())),
                _ => (argument.as_str(), None),
            };
            let mut value = |name| {
                inline
                    .clone()
                    .or_else(|| arguments.next())
                    .ok_or(SettingsError::Value(name))
            };
            match name.trim_start_matches('-') {
                "specialize-on-startup" if name.starts_with('-') => {
                    at_startup = inline.as_deref() != Some("false");
                }
                "wait-for-runtime" if name.starts_with('-') => settings.wait_for_runtime = true,
                "specialize-request" => request = Some(value("-specialize-request")?),
                "secret-dir" => settings.secrets = value("-secret-dir")?.into(),
                "cfgmap-dir" => settings.configs = value("-cfgmap-dir")?.into(),
                directory if !name.starts_with('-') && !directory.is_empty() => {
                    settings.shared = directory.into();
                }
                _ => return Err(SettingsError::Argument(argument)),
            }
        }
        if at_startup {
            let request = request.ok_or(SettingsError::Value("-specialize-request"))?;
            let request = serde_json::from_str(&request).map_err(SettingsError::Request)?;
            settings.startup = Some(Box::new(request));
        }
        Ok(settings)
    }
}

fn key(
    environment: &impl Fn(&str) -> Option<String>,
    name: &'static str,
) -> Result<Key, SettingsError> {
    let text = environment(name).unwrap_or_default();
    let bytes = hex::decode(text.trim()).map_err(|_| SettingsError::Key(name))?;
    Ok(Key::from_bytes(&bytes))
}

fn pod_info(environment: &impl Fn(&str) -> Option<String>, name: &str, file: &str) -> String {
    environment(name)
        .or_else(|| std::fs::read_to_string(format!("{POD_INFO}/{file}")).ok())
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let arguments = arguments.iter().map(|text| (*text).to_owned());
        Settings::read(arguments, |name| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn fissions_arguments_are_understood() {
        let request = r#"{"FetchReq":{"filename":"deployarchive"},"LoadReq":{"filepath":"/userfunc/deployarchive","functionName":"main"}}"#;
        let settings = read(
            &[
                "-specialize-on-startup",
                "-specialize-request",
                request,
                "--secret-dir=/s",
                "-cfgmap-dir",
                "/c",
                "/packages",
            ],
            &[("POD_NAMESPACE", "demo\n"), ("POD_NAME", "pod")],
        )
        .unwrap();
        assert_eq!(settings.shared, PathBuf::from("/packages"));
        assert_eq!(settings.secrets, PathBuf::from("/s"));
        assert_eq!(settings.configs, PathBuf::from("/c"));
        assert_eq!(settings.namespace, "demo");
        assert_eq!(settings.startup.unwrap().load.function_name, "main");
        assert!(read(&[], &[]).unwrap().startup.is_none());
    }

    #[test]
    fn what_is_not_understood_stops_the_start() {
        assert!(matches!(
            read(&["-specialize-on-startup"], &[]),
            Err(SettingsError::Value(_))
        ));
        assert!(matches!(
            read(&["-other"], &[]),
            Err(SettingsError::Argument(_))
        ));
        assert!(matches!(
            read(&[], &[("FETCHER_KEY", "zz")]),
            Err(SettingsError::Key("FETCHER_KEY"))
        ));
    }
}
