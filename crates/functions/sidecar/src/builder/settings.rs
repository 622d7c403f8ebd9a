//! What a builder is told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use farplane_functions_types::auth::Key;
use farplane_functions_types::names::port;

use crate::fetcher::SettingsError;

/// What a builder is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where requests are taken.
    pub listen: SocketAddr,
    /// Directory shared with the fetcher.
    pub packages: PathBuf,
    /// Signs requests to this builder.
    pub key: Key,
    /// How long a build may take; the build manager's deadline is a little longer.
    pub deadline: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], port::BUILDER)),
            packages: "/packages".into(),
            key: Key::from_bytes(&[]),
            deadline: Duration::from_secs(15 * 60),
        }
    }
}

impl Settings {
    /// Reads the environment: `BUILDER_KEY` (hex; none when empty), `BUILDER_DEADLINE`
    /// (seconds), and the shared directory from the first argument.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn read(
        arguments: impl IntoIterator<Item = String>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        let text = |name: &str| environment(name).unwrap_or_default().trim().to_owned();
        let key =
            hex::decode(text("BUILDER_KEY")).map_err(|_| SettingsError::Key("BUILDER_KEY"))?;
        settings.key = Key::from_bytes(&key);
        let deadline = text("BUILDER_DEADLINE");
        if !deadline.is_empty() {
            let seconds = deadline.parse();
            let seconds = seconds.map_err(|_| SettingsError::Value("BUILDER_DEADLINE"))?;
            settings.deadline = Duration::from_secs(seconds);
        }
        if let Some(directory) = arguments.into_iter().next() {
            settings.packages = directory.into();
        }
        Ok(settings)
    }
}
