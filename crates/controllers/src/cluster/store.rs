//! Directories for etcd on the hub's one node. Other hubs use volumes instead.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::settings::Store;

/// etcd refuses a directory that others can read.
const MODE: u32 = 0o700;

/// Makes `<uid>/etcd-<i>` for each member. Repeating it changes nothing.
pub(crate) async fn make(store: &Store, uid: &str, members: u32) -> Result<(), Error> {
    let Store::HostPath { mount, .. } = store else {
        return Ok(());
    };
    let plane = mount.join(uid);
    let folders = (0..members)
        .map(|member| plane.join(format!("etcd-{member}")))
        .collect();
    blocking(plane.clone(), "make", move || make_all(folders)).await
}

fn make_all(folders: Vec<PathBuf>) -> io::Result<()> {
    for folder in folders {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(MODE)
            .create(&folder)?;
        // The mode of a new directory is cut by the umask, that of an old one is anything.
        let right = std::fs::Permissions::from_mode(MODE);
        if std::fs::metadata(&folder)?.permissions().mode() & 0o777 != MODE {
            std::fs::set_permissions(&folder, right)?;
        }
    }
    Ok(())
}

/// Removes what a plane kept. Absent is success.
pub(crate) async fn remove(store: &Store, uid: &str) -> Result<(), Error> {
    let Store::HostPath { mount, .. } = store else {
        return Ok(());
    };
    let plane = mount.join(uid);
    blocking(plane.clone(), "remove", move || remove_all(&plane)).await
}

fn remove_all(plane: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(plane) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn blocking(
    path: PathBuf,
    step: &'static str,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<(), Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(io::Error::other(panic)))
        .map_err(|source| Error::Store { step, path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn members_get_private_directories_that_go_with_the_plane() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::HostPath {
            path: "/elsewhere".into(),
            mount: folder.path().into(),
        };
        make(&store, "u-1", 3).await.unwrap();
        make(&store, "u-1", 3).await.unwrap();
        let mode = std::fs::metadata(folder.path().join("u-1/etcd-2"))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o700);
        remove(&store, "u-1").await.unwrap();
        remove(&store, "u-1").await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
