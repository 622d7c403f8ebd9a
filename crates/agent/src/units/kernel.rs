//! Kernel settings and modules.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command;

/// Loading a module may probe devices.
const MODPROBE_LIMIT: Duration = Duration::from_secs(20);

/// Why the kernel is not as the plan wants it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no such setting.
    #[error(
        "this kernel has no setting {key}, check that the feature is built or its module loaded"
    )]
    NoSetting {
        /// Dotted key.
        key: String,
    },
    /// The setting was refused.
    #[error("failed to set {key} to {value}, check that /proc/sys is writable here")]
    Set {
        /// Dotted key.
        key: String,
        /// Value.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// The module could not be loaded.
    #[error("failed to load kernel module {name}, check that it is installed for this kernel")]
    Load {
        /// Module name.
        name: String,
        /// Why.
        source: command::Error,
    },
}

/// Makes a setting have this value; written only when it differs. Never set back.
///
/// # Errors
/// When there is no such setting or the kernel refuses the value.
pub fn sysctl(key: &str, value: &str) -> Result<(), Error> {
    let path = setting(key);
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    match fs::read_to_string(&path) {
        Ok(found) if words(&found) == words(value) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NoSetting {
                key: key.to_owned(),
            });
        }
        // Some settings can be written only.
        _ => {}
    }
    fs::write(&path, value).map_err(|source| Error::Set {
        key: key.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// In the form with slashes a dot belongs to a name, such as that of an interface.
fn setting(key: &str) -> PathBuf {
    let relative = if key.contains('/') {
        key.to_owned()
    } else {
        key.replace('.', "/")
    };
    Path::new("/proc/sys").join(relative)
}

/// Makes a module be there: loaded already, built in, or loaded now. Never unloaded.
///
/// # Errors
/// When it cannot be loaded.
pub async fn module(name: &str) -> Result<(), Error> {
    if is_loaded(name) || is_built_in(name) {
        return Ok(());
    }
    let loaded = command::run(&["modprobe", "--", name], MODPROBE_LIMIT).await;
    loaded.map(drop).map_err(|source| Error::Load {
        name: name.to_owned(),
        source,
    })
}

fn is_loaded(name: &str) -> bool {
    let name = name.replace('-', "_");
    let listed = fs::read_to_string("/proc/modules").unwrap_or_default();
    let listed = listed
        .lines()
        .any(|line| line.split(' ').next() == Some(name.as_str()));
    listed || Path::new("/sys/module").join(&name).is_dir()
}

fn is_built_in(name: &str) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let list = Path::new("/lib/modules")
        .join(release.trim())
        .join("modules.builtin");
    let plain = |text: &str| text.replace('-', "_");
    let wanted = format!("{}.ko", plain(name));
    fs::read_to_string(list).is_ok_and(|text| {
        let mut files = text.lines().filter_map(|line| line.rsplit('/').next());
        files.any(|file| plain(file) == wanted)
    })
}
