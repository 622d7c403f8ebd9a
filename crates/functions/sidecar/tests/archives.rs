//! Archives of every kind are unpacked within their directory, or refused by name.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use std::collections::BTreeMap;
use std::io::{Cursor, Write as _};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use farplane_functions_sidecar::archive::{Early, Error, Limits, Unpacked, name, pack, unpack};
use proptest::prelude::*;
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

const FILE: u32 = 0o100_644;
const LINK: u32 = 0o120_777;

/// An entry: name, content, mode with its kind.
type Entry<'a> = (&'a str, &'a [u8], u32);

/// A zip with any modes: the writer's own ones are regular files only.
fn zip(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content, _) in entries {
        let options = SimpleFileOptions::default().unix_permissions(0o644);
        writer.start_file(*name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    let mut bytes = writer.finish().unwrap().into_inner();
    let mut at = 0;
    for (_, _, mode) in entries {
        at = find(&bytes, b"PK\x01\x02", at).unwrap();
        // Attributes, the mode in their upper half; "made by" says Unix.
        bytes[at + 38..at + 42].copy_from_slice(&(mode << 16).to_le_bytes());
        bytes[at + 5] = 3;
        at += 4;
    }
    bytes
}

fn find(bytes: &[u8], what: &[u8], from: usize) -> Option<usize> {
    let found = bytes[from..]
        .windows(what.len())
        .position(|window| window == what);
    found.map(|found| from + found)
}

fn unpack_in(directory: &TempDir, bytes: &[u8], limits: &Limits) -> Result<Unpacked, Error> {
    unpack(
        Cursor::new(bytes.to_vec()),
        &directory.path().join("in"),
        limits,
        None,
    )
}

/// As it is done for an archive that arrives in pieces.
fn unpack_arriving(
    directory: &TempDir,
    bytes: &[u8],
    limits: &Limits,
) -> (Result<Unpacked, Error>, bool) {
    let mut early = Early::new(directory.path().join("early"));
    bytes.chunks(10_000).for_each(|piece| early.take(piece));
    let written = early.written();
    let (reader, to) = (Cursor::new(bytes.to_vec()), directory.path().join("in"));
    let wrote = written.is_some();
    (unpack(reader, &to, limits, written), wrote)
}

/// Files with their modes and bytes.
fn listed(directory: &TempDir) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut all = Vec::new();
    let mut folders = vec![directory.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let name = path.strip_prefix(directory.path()).unwrap().to_owned();
            all.push((name, metadata.permissions().mode() & 0o7777, bytes));
        }
    }
    all.sort();
    all
}

fn refused(entries: &[Entry<'_>]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let error = unpack_in(&directory, &zip(entries), &Limits::default()).unwrap_err();
    assert!(error.is_of_archive(), "{error}");
    let outside: Vec<_> = directory.path().read_dir().unwrap().collect();
    assert!(outside.len() <= 1, "{outside:?}");
    error.to_string()
}

#[test]
fn files_directories_links_and_executable_bits_are_unpacked() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = zip(&[
        ("./", b"", 0o040_755),
        ("bin/", b"", 0o040_755),
        ("bin/run", b"#!/bin/sh\n", 0o100_755),
        ("./lib//a.py", b"a", FILE),
        ("README", b"r", FILE),
        ("readme", b"another", FILE),
        ("current", b"lib", LINK),
        ("lib/up", b"../README", LINK),
        ("setuid", b"s", 0o104_755),
    ]);
    let done = unpack_in(&directory, &bytes, &Limits::default()).unwrap();
    assert_eq!(done.entries, 8);
    let at = |path: &str| directory.path().join("in").join(path);
    let mode = |path: &str| at(path).metadata().unwrap().permissions().mode() & 0o7111;
    assert_eq!(mode("bin/run"), 0o111);
    assert_eq!(mode("README"), 0);
    assert_eq!(mode("setuid"), 0o111);
    assert_eq!(std::fs::read(at("current/a.py")).unwrap(), b"a");
    assert_eq!(std::fs::read(at("current/up")).unwrap(), b"r");
    assert_eq!(std::fs::read(at("readme")).unwrap(), b"another");
}

#[test]
fn what_climbs_leads_out_or_overwrites_is_refused_by_name() {
    let cases: &[(&[Entry<'_>], &str)] = &[
        (
            &[("../x", b"", FILE)],
            "\"../x\" is refused: its path climbs",
        ),
        (&[("a/../../x", b"", FILE)], "climbs"),
        (&[("/x", b"", FILE)], "absolute"),
        (&[("..\\x", b"", FILE)], "backslash"),
        (&[("link", b"/etc", LINK)], "leads out"),
        (&[("a/link", b"../../x", LINK)], "leads out"),
        (&[("a/link", b"b/../../../x", LINK)], "leads out"),
        (&[("l", b"", LINK)], "without a target"),
        (&[("d", b".", LINK), ("d/x", b"", FILE)], "twice"),
        (&[("d/x", b"", FILE), ("d", b"/tmp", LINK)], "leads out"),
        (&[("a", b"1", FILE), ("./a", b"2", FILE)], "twice"),
        (&[("a", b"1", FILE), ("a/b", b"2", FILE)], "twice"),
        (&[("a/b", b"1", FILE), ("a", b"2", FILE)], "twice"),
        (&[("a", b"b", LINK), ("./a", b"c", LINK)], "twice"),
        (&[("null", b"", 0o020_666)], "device"),
        (&[("pipe", b"", 0o010_666)], "device"),
    ];
    for (entries, words) in cases {
        let said = refused(entries);
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn bombs_are_measured_while_they_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits {
        bytes: 1 << 20,
        entries: 10,
    };
    let mut bytes = zip(&[("zeros", &vec![0; (1 << 20) + 1], FILE)]);
    let said = unpack_in(&directory, &bytes, &limits)
        .unwrap_err()
        .to_string();
    assert!(said.contains("more than 1048576 bytes"), "{said}");
    // The directory of the archive says 1 byte.
    let at = find(&bytes, b"PK\x01\x02", 0).unwrap();
    bytes[at + 24..at + 28].copy_from_slice(&1_u32.to_le_bytes());
    let directory = tempfile::tempdir().unwrap();
    assert!(unpack_in(&directory, &bytes, &limits).is_err());
    assert!(size_of(directory.path()) <= 1 << 20);

    let names: Vec<String> = (0..11).map(|name| name.to_string()).collect();
    let many: Vec<Entry<'_>> = names
        .iter()
        .map(|name| (name.as_str(), &b""[..], FILE))
        .collect();
    let error = unpack_in(&directory, &zip(&many), &limits).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooMany {
                count: 11,
                limit: 10
            }
        ),
        "{error}"
    );
}

fn size_of(path: &Path) -> u64 {
    if !path.is_dir() {
        return path.symlink_metadata().unwrap().len();
    }
    let entries = path.read_dir().unwrap();
    entries.map(|entry| size_of(&entry.unwrap().path())).sum()
}

#[test]
fn damaged_and_cut_archives_are_refused() {
    let whole = zip(&[("a", b"some text that is here", FILE), ("b", b"x", FILE)]);
    for length in 0..whole.len() {
        let directory = tempfile::tempdir().unwrap();
        assert!(unpack_in(&directory, &whole[..length], &Limits::default()).is_err());
    }
    let mut damaged = whole.clone();
    let at = find(&damaged, b"some text", 0).unwrap_or(31);
    damaged[at] ^= 1;
    let directory = tempfile::tempdir().unwrap();
    let said = unpack_in(&directory, &damaged, &Limits::default()).unwrap_err();
    assert!(said.to_string().contains("\"a\""), "{said}");
}

#[test]
fn unknown_compression_is_said_by_name() {
    let mut bytes = zip(&[("a", b"text", FILE)]);
    for (mark, offset) in [(b"PK\x03\x04", 8), (b"PK\x01\x02", 10)] {
        let at = find(&bytes, mark, 0).unwrap() + offset;
        bytes[at..at + 2].copy_from_slice(&98_u16.to_le_bytes());
    }
    let directory = tempfile::tempdir().unwrap();
    let said = unpack_in(&directory, &bytes, &Limits::default()).unwrap_err();
    assert!(said.is_of_archive(), "{said}");
}

#[test]
fn a_directory_is_packed_alike_each_time_and_never_reads_through_a_link() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    std::fs::create_dir_all(source.join("sub/empty")).unwrap();
    std::fs::write(source.join("sub/b"), "b").unwrap();
    std::fs::write(source.join("a"), "a").unwrap();
    std::fs::set_permissions(source.join("a"), PermissionsExt::from_mode(0o700)).unwrap();
    symlink("../a", source.join("sub/link")).unwrap();
    let packed = || {
        let mut output = Cursor::new(Vec::new());
        pack(&source, &mut output, &Limits::default()).unwrap();
        output.into_inner()
    };
    let bytes = packed();
    assert_eq!(bytes, packed());
    unpack_in(&directory, &bytes, &Limits::default()).unwrap();
    let at = |path: &str| directory.path().join("in").join(path);
    assert_eq!(std::fs::read(at("sub/link")).unwrap(), b"a");
    assert_eq!(
        at("a").metadata().unwrap().permissions().mode() & 0o111,
        0o111
    );
    assert!(at("sub/empty").is_dir());

    for target in ["/etc/passwd", "../../outside", "sub/../../outside"] {
        let source = directory.path().join("bad");
        std::fs::create_dir_all(&source).unwrap();
        symlink(target, source.join("link")).unwrap();
        let error = pack(&source, Cursor::new(Vec::new()), &Limits::default()).unwrap_err();
        assert!(error.to_string().contains("leads out"), "{error}");
        let error = pack(
            &source.join("link"),
            Cursor::new(Vec::new()),
            &Limits::default(),
        );
        assert!(error.is_err(), "a package that is a link");
        std::fs::remove_dir_all(&source).unwrap();
    }
}

/// Paths as people and attackers write them.
fn path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        8 => "[a-c]{1,2}",
        1 => Just("..".to_owned()),
        1 => Just(".".to_owned()),
        1 => Just(String::new()),
    ];
    proptest::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

proptest! {
    /// Whatever the archive holds: nothing outside of the destination changes, and nothing
    /// outside can be read through what was made.
    #[test]
    fn nothing_leaves_the_destination(
        entries in proptest::collection::vec((path(), path(), any::<bool>()), 1..8)
    ) {
        let directory = tempfile::tempdir().unwrap();
        for outside in ["a", "b", "c", "aa"] {
            std::fs::write(directory.path().join(outside), "outside").unwrap();
        }
        let mut seen = BTreeMap::new();
        let entries: Vec<Entry<'_>> = entries
            .iter()
            .filter(|(name, _, _)| seen.insert(name.clone(), ()).is_none())
            .map(|(name, target, link)| {
                let mode = if *link { LINK } else { FILE };
                (name.as_str(), target.as_bytes(), mode)
            })
            .collect();
        _ = unpack_in(&directory, &zip(&entries), &Limits::default());
        for outside in ["a", "b", "c", "aa"] {
            let read = std::fs::read_to_string(directory.path().join(outside)).unwrap();
            prop_assert_eq!(read, "outside");
        }
        prop_assert!(directory.path().read_dir().unwrap().count() <= 5);
        let root = directory.path().canonicalize().unwrap().join("in");
        if root.exists() {
            stays_within(&root, &root)?;
        }
    }

    #[test]
    fn a_path_that_is_taken_stays_below(path in path()) {
        if let Ok(parts) = name::parts(&path) {
            prop_assert!(parts.iter().all(|part| name::is_plain(part)));
        }
    }

    /// What is packed is unpacked the same.
    #[test]
    fn packing_and_unpacking_gives_the_same(
        files in proptest::collection::btree_map("[a-z]{1,3}(/[A-Z]{1,3})?", proptest::collection::vec(any::<u8>(), 0..200), 0..8)
    ) {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let mut written = BTreeMap::new();
        for (path, content) in &files {
            let at = source.join(path);
            if std::fs::create_dir_all(at.parent().unwrap()).is_ok() && !at.is_dir() {
                std::fs::write(&at, content).unwrap();
                written.insert(path, content);
            }
        }
        let mut output = Cursor::new(Vec::new());
        pack(&source, &mut output, &Limits::default()).unwrap();
        unpack_in(&directory, output.get_ref(), &Limits::default()).unwrap();
        for (path, content) in written {
            let read = std::fs::read(directory.path().join("in").join(path)).unwrap();
            prop_assert_eq!(&read, content);
        }
    }
}

fn stays_within(root: &Path, at: &Path) -> Result<(), TestCaseError> {
    for entry in at.read_dir().unwrap() {
        let path = entry.unwrap().path();
        // A link that leads nowhere, or in a circle, leads nowhere else either.
        if let Ok(real) = path.canonicalize() {
            prop_assert!(real.starts_with(root), "{path:?} leads to {real:?}");
        }
        if path.symlink_metadata().unwrap().is_dir() {
            stays_within(root, &path)?;
        }
    }
    Ok(())
}

#[test]
fn stored_and_deflated_entries_are_read() {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, method) in [
        ("stored", CompressionMethod::Stored),
        ("deflated", CompressionMethod::Deflated),
    ] {
        let options = SimpleFileOptions::default().compression_method(method);
        writer.start_file(name, options).unwrap();
        writer.write_all(b"text").unwrap();
    }
    let bytes = writer.finish().unwrap().into_inner();
    let directory = tempfile::tempdir().unwrap();
    let done = unpack_in(&directory, &bytes, &Limits::default()).unwrap();
    assert_eq!(
        done,
        Unpacked {
            entries: 2,
            bytes: 8
        }
    );
}

/// A stored entry that is large, then a small one.
fn large(name: &str, mode: u32) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default();
    let stored = options
        .compression_method(CompressionMethod::Stored)
        .unix_permissions(mode);
    let bytes: Vec<u8> = (0..2_u32 << 20).map(|at| (at % 253) as u8).collect();
    writer.start_file(name, stored).unwrap();
    writer.write_all(&bytes).unwrap();
    writer.start_file("small", options).unwrap();
    writer.write_all(b"small").unwrap();
    writer.finish().unwrap().into_inner()
}

#[test]
fn an_entry_that_was_written_early_is_taken_as_any_other() {
    let good = large("bin/function", 0o755);
    let data = large("data", 0o644);
    let outside = large("../function", 0o755);
    // The directory at the end says another checksum, or that there is no such entry.
    let central = find(&good, b"PK\x01\x02", 0).unwrap();
    let mut changed = good.clone();
    changed[central + 16] ^= 1;
    let mut renamed = good.clone();
    renamed[central + 46] = b'B';
    let mut bytes = good.clone();
    bytes[1 << 20] ^= 1;
    let mut twice = good.clone();
    let small = find(&good, b"PK\x01\x02", central + 4).unwrap();
    // Both names lead to the bytes of the first.
    twice.copy_within(central + 42..central + 46, small + 42);
    let small_limit = Limits {
        bytes: 1 << 20,
        ..Limits::default()
    };
    let cases = [
        (&good, Limits::default(), true),
        (&data, Limits::default(), true),
        (&renamed, Limits::default(), true),
        (&good, small_limit, false),
        (&outside, Limits::default(), false),
        (&changed, Limits::default(), false),
        (&bytes, Limits::default(), false),
        (&twice, Limits::default(), false),
    ];
    for (number, (archive, limits, taken)) in cases.into_iter().enumerate() {
        let (at_once, arriving) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let wanted = unpack_in(&at_once, archive, &limits);
        let (found, wrote) = unpack_arriving(&arriving, archive, &limits);
        assert!(wrote, "case {number}");
        assert_eq!(found.is_ok(), taken, "case {number}: {found:?}");
        let words = |outcome: &Result<Unpacked, Error>| format!("{outcome:?}");
        assert_eq!(words(&found), words(&wanted), "case {number}");
        assert!(!arriving.path().join("early").exists());
        if taken {
            assert_eq!(listed(&arriving), listed(&at_once), "case {number}");
        }
    }
}
