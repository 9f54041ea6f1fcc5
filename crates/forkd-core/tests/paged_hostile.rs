//! Packs of format 3 that are damaged (test catalogue, items 1 and 2): refused as such, or what they hold is the same.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{Home, env};
use forkd_core::{Kind, PackOptions, UnpackOptions, unpack_file};
use forkd_format::PackFormat;
use forkd_testing::{
    FileParts, Fixture, FrameParts, PackParts, PlanRun, entries, fixture, often, plan, pseudo_random, tar_of,
    tree, zst, zstd_part_after,
};
use std::collections::BTreeMap;
use std::ffi::OsString;

const PAGE: usize = 4096;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = pseudo_random(seed);
    (0..len).map(|_| random() as u8).collect()
}

/// What the snapshots of a store hold, whatever they are called.
fn held(home: &Home) -> Vec<BTreeMap<OsString, Vec<u8>>> {
    let read = |tag: &forkd_format::Tag| {
        ["vmstate", "memory.bin", "rootfs.ext4"]
            .into_iter()
            .filter_map(|name| Some((name.into(), std::fs::read(home.store.dir(tag).join(name)).ok()?)))
            .collect()
    };
    home.store.tags().unwrap().iter().map(read).collect()
}

/// A small pack as forkd writes it, some of whose pages are copied from the pack itself and from a base, and some compressed with
/// others as their prefix; a store that has the base; and what comes out.
struct Subject {
    pack: Vec<u8>,
    home: Home,
    original: Vec<BTreeMap<OsString, Vec<u8>>>,
}

fn subject() -> Subject {
    let a = Home::new();
    let make = |tag: &str, memory: &[u8]| {
        let made = Fixture { tag: tag.into(), seed: 1, memory: 0, rootfs: None, parent: None };
        std::fs::write(fixture(a.dir.path(), &made).join("memory.bin"), memory).unwrap();
    };
    let common = noise(1, 4 * PAGE);
    make("base", &common);
    let own = noise(2, 3 * PAGE);
    let mut memory = vec![0; (2 << 20) + 700];
    memory[PAGE..4 * PAGE].copy_from_slice(&own);
    memory[6 * PAGE..8 * PAGE].copy_from_slice(&common[PAGE..3 * PAGE]);
    memory[(1 << 20) + PAGE..(1 << 20) + 2 * PAGE].copy_from_slice(&own[..PAGE]);
    memory[(1 << 20) + 3 * PAGE + 50..(1 << 20) + 4 * PAGE].copy_from_slice(&own[PAGE + 50..2 * PAGE]);
    memory[(1 << 20) + 5 * PAGE + 9..(1 << 20) + 6 * PAGE].copy_from_slice(&common[..PAGE - 9]);
    memory[2 << 20..].copy_from_slice(&noise(3, 700));
    make("t", &memory);
    let base = a.pack("base", "v1");
    std::fs::remove_dir_all(a.store.dir(&"base".parse().unwrap())).unwrap();
    a.unpack(&base).unwrap();
    let bases = vec![(a.store.clone(), "base".parse().unwrap())];
    let options = PackOptions { format: Some(PackFormat::Paged), bases, ..common::options("t") };
    let out = a.dir.path().join("out");
    let report = forkd_core::pack(&a.store, &options, &out, env()).unwrap();
    assert!(report.bases.iter().any(|base| base.copied_pages > 0 && base.similar_pages > 0));
    let pack = std::fs::read(out).unwrap();
    assert!(pack.len() < 20_000, "{}", pack.len());
    let home = Home::new();
    // The base's files are what the pack may refer to, so it stays, and is told apart by its size.
    home.unpack(&base).unwrap();
    home.unpack(&pack).unwrap();
    let original = held(&home);
    assert_eq!(original.len(), 2);
    assert!(original[1]["memory.bin".as_ref() as &std::ffi::OsStr] == memory);
    std::fs::remove_dir_all(home.store.dir(&"t".parse().unwrap())).unwrap();
    Subject { pack, home, original }
}

impl Subject {
    /// The altered pack is refused and nothing is left of it, or what comes out is the same. Says whether it was refused.
    #[track_caller]
    fn refused_or_same(&self, altered: &[u8], what: &str) -> bool {
        let home = &self.home;
        let before = home.tree();
        match home.unpack(altered) {
            Err(error) => {
                // What names another base is told as that.
                assert!(matches!(error.kind(), Kind::Integrity | Kind::NotFound), "{what}: {error}");
                assert_eq!(home.tree(), before, "{what}: {error}: the tree changed");
                true
            }
            Ok(report) => {
                let mut found = held(home);
                found.sort_by_key(|files| files.values().map(Vec::len).sum::<usize>());
                assert!(found == self.original, "{what}: accepted and another");
                std::fs::remove_dir_all(home.store.dir(&report.head)).unwrap();
                false
            }
        }
    }
}

#[test]
fn flipped_bytes_of_a_pack_are_refused_or_padding() {
    let subject = subject();
    let mut random = pseudo_random(7);
    let mut accepted = 0;
    let flips = often(2000, 10_000);
    for _ in 0..flips {
        let mut flipped = subject.pack.clone();
        let at = random() as usize % flipped.len();
        flipped[at] ^= (1 + random() % 255) as u8;
        accepted += usize::from(!subject.refused_or_same(&flipped, &format!("byte {at}")));
    }
    // Unused bits, what the manifest says for people, and sizes of windows.
    assert!(accepted < flips / 10, "{accepted} of {flips} flips went unnoticed");
}

#[test]
fn truncations_and_tails_are_refused() {
    let subject = subject();
    let pack = &subject.pack;
    for len in (0..pack.len()).step_by(512).chain(pack.len() - 4096..pack.len()) {
        assert!(subject.refused_or_same(&pack[..len], &format!("{len} bytes")), "{len} bytes are enough");
    }
    for tail in [&b"\0"[..], b"x", &[0; 512], &[0; 4096], &pack[..], &zstd::encode_all(&b""[..], 1).unwrap()]
    {
        assert!(subject.refused_or_same(&[pack, tail].concat(), "tail"));
    }
    let skippable = [&0x184D_2A5E_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
    assert!(subject.refused_or_same(&[pack, &skippable[..]].concat(), "skippable tail"));
}

/// A pack made by hand, so that its manifest and index lie there as they are.
fn by_hand() -> PackParts {
    let (first, second) = {
        let mut first = noise(1, 3 * PAGE);
        let mut second = [&first[PAGE..2 * PAGE], b"moved", &first[2 * PAGE..3 * PAGE - 5]].concat();
        first.resize(1 << 20, 0);
        second.resize(9000, 7);
        (first, second)
    };
    let mut memory = FileParts::plain("memory.bin", &[&first[..], &second].concat());
    let zstd = zstd_part_after(&first[2 * PAGE..3 * PAGE], &second[PAGE..]);
    let plan = plan(&[(1, 2, 2)], &[PlanRun::Copy(1, 2, 1), PlanRun::Data(2)]);
    memory.frames[1] = Some(FrameParts::of(&second, &plan, &zstd).needing(&[2]));
    PackParts::new(FileParts::plain("vmstate", &noise(2, 100)), memory)
}

#[test]
fn every_flipped_byte_of_manifest_index_and_plans_is_refused_or_harmless() {
    let paged = by_hand();
    let pack = paged.bytes();
    let home = Home::new();
    // Something that stays, so that the store does.
    home.unpack(&zst(&tar_of(&entries("other", 1)))).unwrap();
    home.unpack(&pack).unwrap();
    let original = held(&home);
    std::fs::remove_dir_all(home.store.dir(&"t".parse().unwrap())).unwrap();
    let subject = Subject { original, home, pack };
    let frames: Vec<&FrameParts> = paged.files.iter().flat_map(|file| file.frames.iter().flatten()).collect();
    let data: usize = frames.iter().map(|frame| frame.bytes.len()).sum();
    let head = subject.pack.len() - paged.end.len() - data;
    // The head, then of each frame its header, its plan and the header of its zstd part; then the end.
    let mut places: Vec<usize> = (0..head).collect();
    let mut at = head;
    for frame in &frames {
        places.extend(at..at + frame.bytes.len().min(40));
        at += frame.bytes.len();
    }
    places.extend(at..subject.pack.len());
    let index = head - paged.padding.len() - paged.index(0).len();
    let mut random = pseudo_random(8);
    for at in places {
        let mut flipped = subject.pack.clone();
        flipped[at] ^= 1 << (random() % 8);
        let refused = subject.refused_or_same(&flipped, &format!("byte {at}"));
        assert!(
            refused || at < index || at >= head,
            "byte {at} of the index or its padding is not looked at"
        );
    }
}

#[test]
fn bytes_that_are_lost_moved_or_doubled_are_refused() {
    let subject = subject();
    let pack = &subject.pack;
    let mut random = pseudo_random(9);
    for _ in 0..300 {
        let (a, b) = (random() as usize % pack.len(), random() as usize % pack.len());
        let (a, b) = (a.min(b), a.max(b));
        let mut altered = pack.clone();
        match random() % 4 {
            0 => drop(altered.drain(a..b)),
            1 => altered[a..b].fill(0),
            2 => drop(altered.splice(a..a, pack[a..b].iter().copied())),
            _ => altered[a..b].reverse(),
        }
        subject.refused_or_same(&altered, &format!("{a}..{b}"));
    }
}

#[test]
fn a_damaged_pack_leaves_what_it_would_have_replaced() {
    let subject = subject();
    let home = &subject.home;
    home.unpack(&subject.pack).unwrap();
    let dir = home.store.dir(&"t".parse().unwrap());
    let before = tree(&dir);
    let force = UnpackOptions { force: true, ..UnpackOptions::default() };
    // The snapshot in the way differs, so that it would be replaced.
    let other = Home::new();
    let made = Fixture { tag: "t".into(), seed: 5, memory: 9000, rootfs: None, parent: None };
    fixture(other.dir.path(), &made);
    let options = PackOptions { format: Some(PackFormat::Paged), ..common::options("t") };
    let out = other.dir.path().join("out");
    forkd_core::pack(&other.store, &options, &out, env()).unwrap();
    let mut pack = std::fs::read(&out).unwrap();
    let at = pack.len() - 200;
    pack[at] ^= 1;
    let error = unpack_file(&home.store, &home.file(&pack), &force, env()).unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity, "{error}");
    assert_eq!(tree(&dir), before);
    pack[at] ^= 1;
    unpack_file(&home.store, &home.file(&pack), &force, env()).unwrap();
    assert_ne!(tree(&dir), before);
    assert_eq!(std::fs::read_dir(home.store.root().join("staging")).into_iter().flatten().count(), 0);
}
