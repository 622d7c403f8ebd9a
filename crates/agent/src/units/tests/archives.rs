//! Archives and artifacts: interruptions, lies and attacks.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

use tar::EntryType;
use tokio_util::sync::CancellationToken;

use super::support::{Artifact, Entry, World, archive, file, link};
use crate::units::artifact::{Artifacts, Error};

async fn ensure(world: &World, wanted: &Artifact) -> Result<(), Error> {
    let artifacts = Artifacts::new(&world.state_dir());
    let cancel = CancellationToken::new();
    artifacts
        .ensure(&wanted.sha256, wanted.size, world.hub.as_ref(), &cancel)
        .await
}

/// Contents that do not compress, so that a transfer has a length.
fn noise(length: usize) -> Vec<u8> {
    use rand::RngCore as _;
    let mut bytes = vec![0; length];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

#[tokio::test]
async fn an_artifact_is_unpacked_with_its_modes_and_links() {
    let world = World::new();
    let wanted = world.artifact(
        "one",
        &[
            Entry {
                name: "bin/",
                kind: EntryType::Directory,
                link: "",
                content: b"",
                mode: 0o555,
            },
            file("bin/run", b"#!/bin/sh\n", 0o4755),
            file("share/deep/text", b"text", 0o640),
            link("bin/again", "../share/deep/text", EntryType::Symlink),
            link("hard", "bin/run", EntryType::Link),
        ],
    );
    ensure(&world, &wanted).await.unwrap();
    let mode = |name| {
        std::fs::metadata(wanted.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(mode("bin/run"), 0o755, "set-id bits go");
    assert_eq!((mode("bin"), mode("share/deep/text")), (0o555, 0o640));
    assert_eq!(
        std::fs::read_to_string(wanted.path("bin/again")).unwrap(),
        "text"
    );
    assert_eq!(
        std::fs::read_to_string(wanted.path("hard")).unwrap(),
        "#!/bin/sh\n"
    );
    ensure(&world, &wanted).await.unwrap();
    assert_eq!(
        *world.hub.offsets.lock().unwrap(),
        [0],
        "what is there is not fetched again"
    );
}

#[tokio::test]
async fn an_interrupted_transfer_goes_on_where_it_was() {
    let world = World::new();
    let wanted = world.artifact("one", &[file("noise", &noise(500_000), 0o644)]);
    world
        .hub
        .breaks
        .lock()
        .unwrap()
        .extend([100_000, 0, 200_000]);
    ensure(&world, &wanted).await.unwrap();
    assert_eq!(
        *world.hub.offsets.lock().unwrap(),
        [0, 100_000, 100_000, 300_000]
    );
}

#[tokio::test]
async fn a_transfer_goes_on_after_the_agent_was_killed() {
    let world = World::new();
    let wanted = world.artifact("one", &[file("noise", &noise(500_000), 0o644)]);
    // Nothing comes after the first part, so the first agent gives up for now.
    world.hub.breaks.lock().unwrap().extend([123_456, 0, 0, 0]);
    let error = ensure(&world, &wanted).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Fetch {
                offset: 123_456,
                ..
            }
        ),
        "{error}"
    );
    world.hub.offsets.lock().unwrap().clear();
    ensure(&world, &wanted).await.unwrap();
    assert_eq!(*world.hub.offsets.lock().unwrap(), [123_456]);
}

#[tokio::test]
async fn a_wrong_digest_leaves_nothing() {
    let world = World::new();
    let wanted = world.artifact("one", &[file("text", b"good", 0o644)]);
    let mut bytes = archive(&[file("text", b"good", 0o644)]);
    *bytes.last_mut().unwrap() ^= 1;
    world.hub.serve(&wanted.sha256, bytes);
    let error = ensure(&world, &wanted).await.unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    assert_eq!(world.left(), ["artifacts"]);
}

#[tokio::test]
async fn more_than_the_plan_says_leaves_nothing() {
    let world = World::new();
    let mut wanted = world.artifact("one", &[file("text", b"good", 0o644)]);
    wanted.size -= 1;
    let error = ensure(&world, &wanted).await.unwrap_err();
    assert!(matches!(error, Error::TooLong { .. }), "{error}");
    assert_eq!(world.left(), ["artifacts"]);
}

#[tokio::test]
async fn archives_cannot_write_anywhere_else() {
    let world = World::new();
    let outside = world.text("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(world.path("outside/secret"), "secret").unwrap();
    let absolute = format!("{outside}/absolute");
    let attacks: &[&[Entry<'_>]] = &[
        &[file("../../../outside/up", b"x", 0o644)],
        &[file("a/../../../../outside/up", b"x", 0o644)],
        &[file(&absolute, b"x", 0o644)],
        &[
            link("out", &outside, EntryType::Symlink),
            file("out/through", b"x", 0o644),
        ],
        &[link("out", "../../../outside", EntryType::Symlink)],
        &[link("a/b/out", "../../../x", EntryType::Symlink)],
        &[
            link("in", "sub", EntryType::Symlink),
            file("in/through", b"x", 0o644),
        ],
        &[file("once", b"x", 0o644), file("once", b"y", 0o644)],
        &[
            link("once", "elsewhere", EntryType::Symlink),
            file("once", b"y", 0o644),
        ],
        &[link("hard", "../../../outside/secret", EntryType::Link)],
        &[link("hard", &absolute, EntryType::Link)],
        &[link("null", "", EntryType::Char)],
        &[link("pipe", "", EntryType::Fifo)],
    ];
    for (index, entries) in attacks.iter().enumerate() {
        let wanted = world.artifact("bad", entries);
        let error = ensure(&world, &wanted).await.unwrap_err();
        assert!(
            matches!(error, Error::Unpack { .. }),
            "attack {index}: {error}"
        );
        let outside: Vec<_> = std::fs::read_dir(&outside).unwrap().flatten().collect();
        assert_eq!(outside.len(), 1, "attack {index}");
        let left: Vec<_> = world.left();
        assert!(
            !left.contains(&format!("artifacts/{}", wanted.sha256)),
            "attack {index}: {left:?}"
        );
        assert!(
            !left.iter().any(|name| name.ends_with(".unpacking")),
            "attack {index}: {left:?}"
        );
    }
}

#[tokio::test]
async fn what_a_power_cut_may_have_damaged_is_fetched_anew() {
    let world = World::new();
    let wanted = world.artifact("one", &[file("text", b"good", 0o644)]);
    ensure(&world, &wanted).await.unwrap();
    let marker = world.path(&format!("state/artifacts/{}.unsettled", wanted.sha256));
    super::support::eventually("settled", || !marker.exists()).await;
    std::fs::write(wanted.path("text"), "").unwrap();
    std::fs::write(&marker, "another boot").unwrap();
    ensure(&world, &wanted).await.unwrap();
    assert_eq!(
        std::fs::read_to_string(wanted.path("text")).unwrap(),
        "good"
    );
}

#[tokio::test]
async fn a_sweep_keeps_only_what_is_named() {
    let world = World::new();
    let (keep, drop) = (
        world.artifact("one", &[file("text", b"1", 0o644)]),
        world.artifact("two", &[file("text", b"2", 0o644)]),
    );
    ensure(&world, &keep).await.unwrap();
    ensure(&world, &drop).await.unwrap();
    let artifacts = Artifacts::new(&world.state_dir());
    artifacts
        .sweep(&BTreeSet::from([keep.sha256.clone()]))
        .unwrap();
    assert!(world.left().iter().all(|name| !name.contains(&drop.sha256)));
    assert_eq!(std::fs::read_to_string(keep.path("text")).unwrap(), "1");
    artifacts.sweep(&BTreeSet::new()).unwrap();
    assert_eq!(world.left(), Vec::<String>::new());
}
