//! Brings the distribution's images into the hub's containerd.
//!
//! A reference names its content (`name:version-key`), so one that is listed needs no
//! second look, and one that the list does not name is of an older distribution.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Deserialize;

use crate::command::run;
use crate::error::Error;
use crate::files::Files;
use crate::{Event, Progress};

/// Imports at the same time: one reads while another unpacks.
const PARALLEL: usize = 2;
const NAMESPACE: &str = "k8s.io";
/// Only images with this beginning are ours to remove.
const OWN: &str = "farplane.io/";

/// One image of the distribution.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Image {
    #[serde(rename = "ref")]
    pub reference: String,
    pub file: String,
}

/// Images by name, as `images/index.json` of the distribution lists them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index(pub BTreeMap<String, Image>);

impl Index {
    pub fn load(dist: &Path) -> Result<Self, Error> {
        let path = dist.join("images/index.json");
        let text = fs::read(&path).map_err(Error::file("read", &path))?;
        serde_json::from_slice(&text)
            .map(Self)
            .map_err(|source| Error::ImageIndex { path, source })
    }

    /// Reference of an image, empty when the distribution lacks it.
    pub fn reference(&self, name: &str) -> &str {
        self.0
            .get(name)
            .map_or("", |image| image.reference.as_str())
    }
}

/// Asks and tells the hub's containerd.
pub(crate) struct Store {
    ctr: PathBuf,
    socket: String,
    images: PathBuf,
}

impl Store {
    pub fn new(dist: &Path, files: &Files) -> Self {
        Self {
            ctr: dist.join("bin/ctr"),
            socket: files.containerd_socket().display().to_string(),
            images: dist.join("images"),
        }
    }

    /// Imports what is absent and gives the number of images that were.
    pub async fn import(&self, index: &Index, progress: Progress<'_>) -> Result<usize, Error> {
        let present = self.references().await?;
        let absent: Vec<(&String, &Image)> = index
            .0
            .iter()
            .filter(|(_, image)| !present.contains(&image.reference))
            .collect();
        let count = absent.len();
        stream::iter(absent)
            .map(Ok)
            .try_for_each_concurrent(PARALLEL, |(name, image)| {
                self.import_one(name, image, progress)
            })
            .await?;
        Ok(count)
    }

    async fn import_one(
        &self,
        name: &str,
        image: &Image,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let started = Instant::now();
        let step = format!("image {name}");
        progress(Event::Phase {
            name: step.clone(),
            message: format!("importing {}", image.reference),
        });
        let archive = self.images.join(&image.file).display().to_string();
        self.ctr(&["images", "import", "--local", &archive]).await?;
        progress(Event::Done {
            name: step,
            elapsed: started.elapsed(),
        });
        Ok(())
    }

    /// Removes images of older distributions that no container uses.
    pub async fn remove_stale(&self, index: &Index) -> Result<(), Error> {
        let used = self.ctr(&["containers", "ls"]).await?;
        let wanted: Vec<&str> = index
            .0
            .values()
            .map(|image| image.reference.as_str())
            .collect();
        let present = self.references().await?;
        let stale: Vec<&str> = present
            .iter()
            .map(String::as_str)
            .filter(|reference| is_stale(reference, &wanted, &used))
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        let mut arguments = vec!["images", "rm"];
        arguments.extend(stale);
        self.ctr(&arguments).await.map(|_| ())
    }

    async fn references(&self) -> Result<Vec<String>, Error> {
        let listed = self.ctr(&["images", "ls", "-q"]).await?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    async fn ctr(&self, arguments: &[&str]) -> Result<String, Error> {
        let mut all = vec!["--address", &self.socket, "--namespace", NAMESPACE];
        all.extend(arguments);
        run(&self.ctr.display().to_string(), &all).await
    }
}

fn is_stale(reference: &str, wanted: &[&str], used: &str) -> bool {
    reference.starts_with(OWN)
        && !wanted.contains(&reference)
        && !used.split_whitespace().any(|word| word == reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_unused_images_are_stale() {
        let used = "CONTAINER IMAGE RUNTIME\nabc farplane.io/etcd:1 io.containerd.runc.v2\n";
        let wanted = ["farplane.io/hub:2"];
        assert!(is_stale("farplane.io/hub:1", &wanted, used));
        assert!(!is_stale("farplane.io/hub:2", &wanted, used));
        assert!(!is_stale("farplane.io/etcd:1", &wanted, used));
        assert!(!is_stale("example.org/other:1", &wanted, used));
    }
}
