//! Sources that are built in the cluster.

use std::io::{Cursor, Write as _};

use anyhow::{Context as _, Result, ensure};

use super::{farplane, farplane_raw};
use crate::world::World;

/// A source with a dependency is built where the cluster is, and a build that fails tells its log.
pub fn dependency(world: &World) -> Result<()> {
    let folder = world.file("shop");
    std::fs::create_dir_all(&folder).context("make a folder")?;
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))
    };
    write(
        "main.py",
        b"import wares\n\n\ndef main():\n    return wares.NAME\n",
    )?;
    write("wares-1.0-py3-none-any.whl", &wheel()?)?;
    write("requirements.txt", b"./wares-1.0-py3-none-any.whl\n")?;
    let folder = folder.display().to_string();
    let deploy = ["fn", "deploy", &folder, "--env", "python"];
    let deploy = [&deploy[..], &["--entrypoint", "main.main"]].concat();
    farplane(world, &deploy)?;
    let answer = farplane(world, &["fn", "test", "shop"])?;
    ensure!(answer.contains("tea and bread"), "it said {answer:?}");
    write("requirements.txt", b"./nothing-of-that-name.whl\n")?;
    let failed = farplane_raw(world, &deploy)?;
    ensure!(
        failed.code != Some(0) && failed.text().contains("nothing-of-that-name"),
        "a build that fails says: {}",
        failed.text()
    );
    farplane(world, &["fn", "delete", "shop", "--yes"])?;
    Ok(())
}

/// A package as pip takes it, without an index.
fn wheel() -> Result<Vec<u8>> {
    let files = [
        ("wares.py", "NAME = 'tea and bread'\n"),
        (
            "wares-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: wares\nVersion: 1.0\n",
        ),
        (
            "wares-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: farplane\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        (
            "wares-1.0.dist-info/RECORD",
            "wares.py,,\nwares-1.0.dist-info/METADATA,,\nwares-1.0.dist-info/WHEEL,,\nwares-1.0.dist-info/RECORD,,\n",
        ),
    ];
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in files {
        archive.start_file(name, zip::write::SimpleFileOptions::default())?;
        archive.write_all(text.as_bytes())?;
    }
    Ok(archive.finish()?.into_inner())
}
