//! The name of a hub and what is derived from it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use farplane_types::names;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Where hubs keep their state, a directory per name.
pub const STATE_ROOT: &str = "/var/lib/farplane-hub";

/// Name of an embedded hub: an RFC 1123 label that starts with a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HubName(String);

impl HubName {
    /// Checks the name.
    ///
    /// # Errors
    /// When it is not a valid label.
    pub fn new(name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        if names::is_valid_name(&name) {
            Ok(Self(name))
        } else {
            Err(Error::InvalidName { name })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Directory of this hub's state below [`STATE_ROOT`].
    pub fn default_state_dir(&self) -> PathBuf {
        PathBuf::from(STATE_ROOT).join(&self.0)
    }

    /// Name of the hub's network namespace.
    pub(crate) fn network_namespace(&self) -> String {
        format!("fp-{}", self.0)
    }

    /// Name of the hub's nftables table on the machine.
    pub(crate) fn table(&self) -> String {
        format!("farplane-{}", self.0)
    }

    /// Interface of the veth pair that stays on the machine. Interface names have at
    /// most 15 bytes, hence a digest.
    pub(crate) fn machine_interface(&self) -> String {
        format!("fpm{}", self.digest())
    }

    /// Interface of the veth pair inside the hub's network namespace.
    pub(crate) fn hub_interface(&self) -> String {
        format!("fph{}", self.digest())
    }

    /// Where the search for a free address range starts, 0 to 255.
    pub(crate) fn preferred_range(&self) -> u8 {
        u8::from_str_radix(&self.digest()[..2], 16).unwrap_or(0)
    }

    /// Parent of every cgroup of this hub, the same in every hierarchy.
    pub(crate) fn cgroup(&self) -> String {
        format!("/farplane/{}", self.0)
    }

    fn digest(&self) -> String {
        names::digest_id(&["embedded-hub", &self.0])[..10].to_owned()
    }
}

impl Default for HubName {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for HubName {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl TryFrom<String> for HubName {
    type Error = Error;
    fn try_from(name: String) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl From<HubName> for String {
    fn from(name: HubName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_and_differ() {
        let long = HubName::new(format!("a{}", "b".repeat(49))).unwrap();
        assert!(long.machine_interface().len() <= 15);
        assert_ne!(long.machine_interface(), long.hub_interface());
        let other = HubName::new("other").unwrap();
        assert_ne!(long.hub_interface(), other.hub_interface());
    }

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for bad in ["", "..", "a/b", "A", "a b", "-a"] {
            assert!(HubName::new(bad).is_err(), "{bad}");
        }
    }
}
