//! Where archives are: a directory, or a bucket.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{GetResult, ObjectStore, ObjectStoreExt as _, WriteMultipart};
use tokio::io::AsyncReadExt as _;

use crate::error::Error;
use crate::id::ArchiveId;
use crate::receive::Spooled;
use crate::s3;
use crate::settings::Backend;

/// Directory of archives within the volume.
const ARCHIVES: &str = "fission-functions";
/// Directory of uploads that are not whole yet, in the same volume: an archive appears by one
/// rename. It is ours alone, and emptied at the start.
const SPOOL: &str = ".spool";
/// Parts in which a bucket is sent a large archive; the least that S3 takes is 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// Parts that are under way at once.
const PARTS_AT_ONCE: usize = 2;

/// An archive and its age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The archive.
    pub id: ArchiveId,
    /// When it was stored.
    pub stored: SystemTime,
}

/// Archives.
#[derive(Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// Before each key.
    prefix: String,
    spool: PathBuf,
    /// Directory of archives, when they are files.
    files: Option<PathBuf>,
    bucket: Option<String>,
}

impl Store {
    /// Opens a store, and makes the directories that are missing.
    ///
    /// # Errors
    /// When it cannot be used.
    pub async fn open(backend: &Backend) -> Result<Self, Error> {
        let store = match backend {
            Backend::Local { directory } => {
                let files = directory.join(ARCHIVES);
                make_directory(&files)?;
                let objects = LocalFileSystem::new_with_prefix(&files)
                    .map_err(|error| opening(&files.to_string_lossy(), &error))?;
                Self {
                    objects: Arc::new(objects),
                    prefix: String::new(),
                    spool: directory.join(SPOOL),
                    files: Some(files),
                    bucket: None,
                }
            }
            Backend::S3 { bucket, spool } => Self {
                objects: Arc::new(s3::open(bucket)?),
                prefix: bucket.prefix.clone(),
                spool: spool.join(SPOOL),
                files: None,
                bucket: Some(bucket.bucket.clone()),
            },
        };
        make_directory(&store.spool)?;
        store.empty_spool();
        Ok(store)
    }

    /// Uploads that an earlier process was ended in.
    fn empty_spool(&self) {
        let entries = self.spool.read_dir().into_iter().flatten().flatten();
        for entry in entries {
            if let Err(error) = std::fs::remove_file(entry.path()) {
                tracing::warn!(%error, path = %entry.path().display(), "failed to remove an old upload");
            }
        }
    }

    /// Where uploads go until they are whole.
    pub fn spool(&self) -> &Path {
        &self.spool
    }

    /// Name of the bucket, when it is one.
    pub fn bucket(&self) -> Option<&str> {
        self.bucket.as_deref()
    }

    fn key(&self, id: &ArchiveId) -> Key {
        if self.prefix.is_empty() {
            return Key::from(id.key());
        }
        Key::from(format!("{}/{}", self.prefix, id.key()))
    }

    /// Makes an archive of a spooled file.
    ///
    /// # Errors
    /// When the store does not take it; then there is none.
    pub async fn put(&self, id: &ArchiveId, spooled: Spooled) -> Result<(), Error> {
        let Some(files) = &self.files else {
            return self.send(id, &spooled).await;
        };
        let to = files.join(id.key());
        if let Some(parent) = to.parent() {
            tokio::fs::create_dir_all(parent)
                .await
                .map_err(Error::disk("make the directory of a tenant"))?;
        }
        let from = spooled.take();
        if let Err(error) = tokio::fs::rename(&from, &to).await {
            _ = tokio::fs::remove_file(&from).await;
            return Err(Error::disk("put an archive in place")(error));
        }
        Ok(())
    }

    async fn send(&self, id: &ArchiveId, spooled: &Spooled) -> Result<(), Error> {
        let step = "store";
        let path = spooled.path().ok_or(Error::NotFound)?;
        let mut file = tokio::fs::File::open(path)
            .await
            .map_err(Error::disk("read a spool file"))?;
        let key = self.key(id);
        let upload = self.objects.put_multipart(&key).await;
        let mut upload =
            WriteMultipart::new_with_chunk_size(upload.map_err(Error::store(step))?, PART_BYTES);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = match file.read(&mut buffer).await {
                Ok(count) => count,
                Err(error) => {
                    _ = upload.abort().await;
                    return Err(Error::disk("read a spool file")(error));
                }
            };
            if count == 0 {
                break;
            }
            if let Err(error) = upload.wait_for_capacity(PARTS_AT_ONCE).await {
                _ = upload.abort().await;
                return Err(Error::store(step)(error));
            }
            upload.write(&buffer[..count]);
        }
        upload.finish().await.map_err(Error::store(step))?;
        Ok(())
    }

    /// Reads an archive.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(&self, id: &ArchiveId) -> Result<GetResult, Error> {
        let found = self.objects.get(&self.key(id)).await;
        found.map_err(Error::store("read"))
    }

    /// Size of an archive.
    ///
    /// # Errors
    /// When there is none.
    pub async fn size(&self, id: &ArchiveId) -> Result<u64, Error> {
        let found = self.objects.head(&self.key(id)).await;
        found
            .map(|meta| meta.size)
            .map_err(Error::store("look for"))
    }

    /// Removes an archive.
    ///
    /// # Errors
    /// When there is none, or the store says no.
    pub async fn delete(&self, id: &ArchiveId) -> Result<(), Error> {
        // S3 does not tell a missing one from one that was removed.
        self.size(id).await?;
        let deleted = self.objects.delete(&self.key(id)).await;
        deleted.map_err(Error::store("delete"))
    }

    /// Every archive.
    ///
    /// # Errors
    /// When the store says no.
    pub async fn list(&self) -> Result<Vec<Entry>, Error> {
        let prefix = (!self.prefix.is_empty()).then(|| Key::from(self.prefix.as_str()));
        let listed = self.objects.list(prefix.as_ref());
        let entries = listed.try_filter_map(|meta| {
            let name = meta.location.as_ref();
            let name = name.strip_prefix(&self.prefix).unwrap_or(name);
            let id = ArchiveId::of_key(name.trim_start_matches('/'));
            let stored = SystemTime::from(meta.last_modified);
            futures::future::ready(Ok(id.map(|id| Entry { id, stored })))
        });
        entries.try_collect().await.map_err(Error::store("list"))
    }
}

fn make_directory(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(|error| opening(&path.to_string_lossy(), &error))
}

fn opening(place: &str, error: &dyn std::error::Error) -> Error {
    Error::Open {
        place: place.to_owned(),
        reason: error.to_string(),
    }
}
