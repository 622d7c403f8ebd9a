//! What must survive a kill: one file, replaced as a whole.
//!
//! `<state_dir>/agent/plan.json`, 0600, since a plan holds credentials. It is written
//! before the first effect of a plan and removed after the last trace of it is gone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farplane_types::{HostPlanSpec, Unit};
use serde::{Deserialize, Serialize};

use super::Error;

/// What plans did or may have done to this machine.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Generation of the plan.
    pub generation: i64,
    /// The plan in force, or the one being undone.
    #[serde(with = "shared")]
    pub plan: Option<Arc<HostPlanSpec>>,
    /// The plan is being undone. Only the end of that ends it.
    #[serde(default)]
    pub undoing: bool,
    /// Every unit of this plane's plans that may have left something, oldest first.
    #[serde(default)]
    pub touched: Vec<Unit>,
}

/// The file of the record.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// The record of an agent's directory.
    pub fn new(agent_dir: &Path) -> Self {
        Self {
            path: agent_dir.join("plan.json"),
        }
    }

    /// The recorded plan; the empty record when there is none.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a record.
    pub fn load(&self) -> Result<Record, Error> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Record::default()),
            Err(source) => {
                return Err(Error::ReadRecord {
                    path: self.path.clone(),
                    source,
                });
            }
        };
        serde_json::from_slice(&text).map_err(|source| Error::ParseRecord {
            path: self.path.clone(),
            source,
        })
    }

    /// Replaces the record, durably.
    ///
    /// # Errors
    /// When the file system refuses; the earlier record then stays.
    pub fn save(&self, record: &Record) -> io::Result<()> {
        let text = serde_json::to_vec(record)?;
        let new = self.path.with_extension("json.new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&new)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        self.sync_directory()
    }

    /// Removes the record, durably.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self) -> io::Result<()> {
        for path in [self.path.with_extension("json.new"), self.path.clone()] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.sync_directory()
    }

    fn sync_directory(&self) -> io::Result<()> {
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// A shared plan is written as the plan.
mod shared {
    use super::{Arc, Deserialize, HostPlanSpec, Serialize};

    pub fn serialize<S: serde::Serializer>(
        plan: &Option<Arc<HostPlanSpec>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        plan.as_deref().serialize(serializer)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Arc<HostPlanSpec>>, D::Error> {
        Ok(Option::deserialize(deserializer)?.map(Arc::new))
    }
}
