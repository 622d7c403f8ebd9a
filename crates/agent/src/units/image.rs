//! Images imported into containerd.

use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::command::{self, run};

/// A large image on a slow disk.
const IMPORT_LIMIT: Duration = Duration::from_secs(300);
const LIST_LIMIT: Duration = Duration::from_secs(20);
/// Pause between looks at containerd's socket.
const POLL: Duration = Duration::from_millis(50);
/// Namespace that the kubelet's images are in.
const NAMESPACE: &str = "k8s.io";

/// Why an image is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive is not there.
    #[error("there is no image archive {archive}, check the plan's artifacts")]
    NoArchive {
        /// Path.
        archive: String,
    },
    /// containerd's images could not be listed.
    #[error("failed to list containerd's images, see containerd's log")]
    List {
        /// Why.
        source: command::Error,
    },
    /// The import failed.
    #[error("failed to import {archive}, see containerd's log")]
    Import {
        /// Path.
        archive: String,
        /// Why.
        source: command::Error,
    },
    /// The archive has other images.
    #[error("{archive} does not hold {reference}, check that plan and artifact are of one release")]
    Missing {
        /// Path.
        archive: String,
        /// Reference in the plan.
        reference: String,
    },
    /// The plan changed or the agent ends.
    #[error("interrupted")]
    Interrupted,
}

/// An image as the plan names it.
#[derive(Clone, Debug)]
pub struct Image {
    /// Full reference.
    pub reference: String,
    /// Path of the archive.
    pub archive: String,
    /// `ctr` command.
    pub ctr: String,
    /// containerd's socket.
    pub socket: String,
}

impl Image {
    /// Waits for containerd and imports the image, unless it is there.
    ///
    /// # Errors
    /// When containerd refuses, or the archive holds something else.
    pub async fn ensure(&self, cancel: &CancellationToken) -> Result<(), Error> {
        while UnixStream::connect(&self.socket).await.is_err() {
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = cancel.cancelled() => return Err(Error::Interrupted),
            }
        }
        tokio::select! {
            result = self.import() => result,
            () = cancel.cancelled() => Err(Error::Interrupted),
        }
    }

    async fn import(&self) -> Result<(), Error> {
        if self.is_there().await? {
            return Ok(());
        }
        let archive = self.archive.clone();
        if !Path::new(&archive).is_file() {
            return Err(Error::NoArchive { archive });
        }
        let import = self
            .ctr(&["images", "import", &archive], IMPORT_LIMIT)
            .await;
        import.map_err(|source| Error::Import {
            archive: archive.clone(),
            source,
        })?;
        if self.is_there().await? {
            return Ok(());
        }
        Err(Error::Missing {
            archive,
            reference: self.reference.clone(),
        })
    }

    async fn is_there(&self) -> Result<bool, Error> {
        let listed = self.ctr(&["images", "list", "--quiet"], LIST_LIMIT).await;
        let listed = listed.map_err(|source| Error::List { source })?;
        Ok(listed.lines().any(|line| line.trim() == self.reference))
    }

    async fn ctr(&self, arguments: &[&str], limit: Duration) -> Result<String, command::Error> {
        let mut all = vec![
            self.ctr.as_str(),
            "--address",
            &self.socket,
            "--namespace",
            NAMESPACE,
        ];
        all.extend(arguments);
        run(&all, limit).await
    }
}
