//! unpack(pack(x)) = x in format 3 (test catalogue, item 15), alone and against bases.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{Home, env};
use forkd_core::{Env, Kind, PackOptions, Store, UnpackOptions, unpack_file};
use forkd_format::PackFormat;
use forkd_testing::{Fixture, chain, fixture, frozen_chain, pseudo_random, sha256, tree};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

fn options(tag: &str) -> PackOptions {
    PackOptions { format: Some(PackFormat::Paged), ..common::options(tag) }
}

fn against(tag: &str, bases: &[(&Store, &str)]) -> PackOptions {
    let bases = bases.iter().map(|(store, tag)| ((*store).clone(), tag.parse().unwrap())).collect();
    PackOptions { bases, ..options(tag) }
}

fn pack(home: &Home, options: &PackOptions) -> Vec<u8> {
    let out = home.dir.path().join("out");
    let report = forkd_core::pack(&home.store, options, &out, env()).unwrap();
    let bytes = std::fs::read(&out).unwrap();
    assert_eq!(report.size, bytes.len() as u64);
    std::fs::remove_file(out).unwrap();
    bytes
}

/// The files of every snapshot without the two that name their own folder.
fn bodies(home: &Home) -> BTreeMap<PathBuf, String> {
    let mut tree = tree(&home.store.root().join("snapshots"));
    tree.retain(|path, _| !path.ends_with("snapshot.json") && !path.ends_with("forkd.json"));
    tree.into_iter().map(|(path, facts)| (path, facts.split(' ').nth(1).unwrap().to_owned())).collect()
}

fn json(home: &Home, tag: &str) -> String {
    let dir = home.store.dir(&tag.parse().unwrap());
    std::fs::read_to_string(dir.join("snapshot.json")).unwrap().replace(&dir.display().to_string(), "DIR")
}

fn file(home: &Home, tag: &str, name: &str) -> PathBuf {
    home.store.dir(&tag.parse().unwrap()).join(name)
}

fn make(home: &Home, tag: &str, seed: u64, memory: u64, rootfs: Option<u64>) {
    fixture(home.dir.path(), &Fixture { tag: tag.into(), seed, memory, rootfs, parent: None });
}

/// The same snapshot under another tag with some pages changed, moved and zeroed.
fn update(home: &Home, from: &str, tag: &str, seed: u64) {
    let size = file(home, from, "memory.bin").metadata().unwrap().len();
    make(home, tag, seed, size, None);
    let mut bytes = std::fs::read(file(home, from, "memory.bin")).unwrap();
    let mut random = pseudo_random(seed);
    let pages = bytes.len() / 4096;
    for _ in 0..pages / 16 {
        let (a, b) = (random() as usize % pages * 4096, random() as usize % pages * 4096);
        match random() % 4 {
            0 => bytes.copy_within(a..a + 4096, b),
            1 => bytes.copy_within(a..a + 4000, b + 96),
            2 => bytes[b..b + 4096].fill(0),
            _ => bytes[b + 100] ^= 1,
        }
    }
    std::fs::write(file(home, tag, "memory.bin"), bytes).unwrap();
    std::fs::copy(file(home, from, "vmstate"), file(home, tag, "vmstate")).unwrap();
}

fn whole(home: &Home, tag: &str) {
    assert_eq!(forkd_core::verify_tag(&home.store, &tag.parse().unwrap(), env()).unwrap().damage, vec![]);
}

#[test]
fn files_of_odd_sizes_come_back_with_their_holes() {
    let sizes =
        [0, 1, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, MIB + 4096, 8 * MIB, 9 * MIB + 4097, 32 * MIB - 5000];
    for (i, size) in sizes.into_iter().enumerate() {
        let (a, b) = (Home::new(), Home::new());
        make(&a, "t", i as u64, size, (i % 2 == 0).then(|| sizes[(i * 5 + 3) % sizes.len()]));
        let bytes = pack(&a, &options("t"));
        b.unpack(&bytes).unwrap();
        assert_eq!(bodies(&a), bodies(&b), "{size}");
        assert_eq!(json(&a, "t"), json(&b, "t"));
        whole(&b, "t");
        let verified = forkd_core::verify_file(&a.store, &a.file(&bytes), None, env()).unwrap();
        assert_eq!((verified.links, verified.damage), (1, vec![]));
        for name in ["memory.bin", "rootfs.ext4"] {
            let Ok(bytes) = std::fs::read(file(&b, "t", name)) else { continue };
            let pages = bytes.chunks(4096).filter(|page| page.iter().any(|byte| *byte != 0)).count() as u64;
            let blocks = file(&b, "t", name).metadata().unwrap().blocks() * 512;
            assert!(
                blocks <= pages * 4096,
                "{name} of {size}: {blocks} bytes of blocks, {pages} pages of data"
            );
        }
        assert!(bytes == pack(&b, &options("t")), "{size}: packed again it is another");
        let v1 = PackOptions { format: Some(PackFormat::Single), ..common::options("t") };
        assert!(pack(&a, &v1) == pack(&b, &v1), "{size}: version 1 of it is another");
    }
}

#[test]
fn a_snapshot_of_nothing_but_zeros_or_noise_comes_back() {
    for noise in [false, true] {
        let (a, b) = (Home::new(), Home::new());
        make(&a, "t", 1, 3 * MIB + 100, None);
        let mut random = pseudo_random(9);
        let memory: Vec<u8> = (0..3 * MIB + 100).map(|_| if noise { random() as u8 } else { 0 }).collect();
        std::fs::write(file(&a, "t", "memory.bin"), memory).unwrap();
        for level in [1, 3, 19, 22] {
            let bytes = pack(&a, &PackOptions { level, ..options("t") });
            assert!(noise || bytes.len() < 10_000);
            b.unpack(&bytes).unwrap();
            assert_eq!(bodies(&a), bodies(&b));
            std::fs::remove_dir_all(b.store.root()).unwrap();
        }
    }
}

#[test]
fn chains_of_every_depth_come_back() {
    for depth in 1..=16 {
        let (a, b) = (Home::new(), Home::new());
        let tags = chain(a.dir.path(), "link-", depth, MIB + 50_000);
        let report = b.unpack(&pack(&a, &options(&tags[depth - 1]))).unwrap();
        assert_eq!((report.links.len(), report.chain), (depth, depth > 1));
        assert_eq!(bodies(&a), bodies(&b), "depth {depth}");
        tags.iter().for_each(|tag| assert_eq!(json(&a, tag), json(&b, tag)));
        whole(&b, &tags[depth - 1]);
    }
    let (a, b) = (Home::new(), Home::new());
    let (tags, _) = frozen_chain(a.dir.path(), "f", 4, 3 * MIB);
    let bytes = pack(&a, &options(&tags[3]));
    // What is here is kept, and is what the others' frames refer to.
    b.unpack(&pack(&a, &options(&tags[1]))).unwrap();
    assert!(!b.unpack(&bytes).unwrap().nothing_new());
    assert!(b.unpack(&bytes).unwrap().nothing_new());
    assert_eq!(bodies(&a), bodies(&b));
    assert!(bytes == pack(&b, &options(&tags[3])));
}

#[test]
fn packing_gives_the_same_bytes_whatever_the_number_of_jobs() {
    let a = Home::new();
    let tags = chain(a.dir.path(), "x", 3, 5_000_000);
    make(&a, "base", 2, 5_000_000, None);
    for options in [options(&tags[2]), against(&tags[2], &[(&a.store, "base")])] {
        let first = pack(&a, &options);
        for jobs in [1, 2, 5] {
            let out = a.dir.path().join("out");
            forkd_core::pack(&a.store, &options, &out, Env { jobs, ..env() }).unwrap();
            assert!(first == std::fs::read(&out).unwrap(), "{jobs} jobs");
            let b = Home::new();
            make(&b, "elsewhere", 2, 5_000_000, None);
            recorded(&b, "elsewhere");
            unpack_file(&b.store, &out, &UnpackOptions::default(), Env { jobs, ..env() }).unwrap();
            whole(&b, &tags[2]);
        }
    }
}

/// Gives a snapshot the record that it has once it was unpacked.
fn recorded(home: &Home, tag: &str) {
    let bytes = home.pack(tag, "record");
    std::fs::remove_dir_all(home.store.dir(&tag.parse().unwrap())).unwrap();
    home.unpack(&bytes).unwrap();
}

/// A snapshot, and the pack of another that refers to it.
fn updated() -> (Home, Vec<u8>) {
    let a = Home::new();
    make(&a, "base", 1, 4 * MIB, None);
    recorded(&a, "base");
    update(&a, "base", "new", 7);
    let bytes = pack(&a, &against("new", &[(&a.store, "base")]));
    assert!(bytes.len() * 3 < pack(&a, &options("new")).len(), "{} bytes against a base", bytes.len());
    (a, bytes)
}

#[test]
fn a_base_is_found_under_any_tag_and_its_absence_is_told() {
    let (a, bytes) = updated();
    let b = Home::new();
    let before = b.tree();
    let error = b.unpack(&bytes).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    assert!(error.to_string().contains("'base'"), "{error}");
    assert_eq!(b.tree(), before);
    let pack_file = a.file(&bytes);
    let error = forkd_core::verify_file(&b.store, &pack_file, None, env()).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    // From version 1 and version 3 alike, and under another name.
    for format in [PackFormat::Single, PackFormat::Paged] {
        let b = Home::new();
        let base = b.file(&pack(&a, &PackOptions { format: Some(format), ..options("base") }));
        let other = UnpackOptions { tag: Some("other".parse().unwrap()), ..UnpackOptions::default() };
        unpack_file(&b.store, &base, &other, env()).unwrap();
        // One of the same tag with other bytes is in nobody's way.
        make(&b, "base", 55, 4 * MIB, None);
        recorded(&b, "base");
        b.unpack(&bytes).unwrap();
        assert_eq!(sha256(&file(&a, "new", "memory.bin")), sha256(&file(&b, "new", "memory.bin")));
        assert_eq!(json(&a, "new"), json(&b, "new"));
        whole(&b, "new");
        forkd_core::verify_file(&b.store, &pack_file, None, env()).unwrap();
    }
}

#[test]
fn a_base_of_the_same_tag_with_other_bytes_is_not_used() {
    let (_, bytes) = updated();
    let b = Home::new();
    make(&b, "base", 2, 4 * MIB, None);
    recorded(&b, "base");
    assert_eq!(b.unpack(&bytes).unwrap_err().kind(), Kind::NotFound);
    // Nor is one without a record, which is read; nor one that was altered since it was recorded.
    std::fs::remove_file(file(&b, "base", "forkd.json")).unwrap();
    assert_eq!(b.unpack(&bytes).unwrap_err().kind(), Kind::NotFound);
    let (a, bytes) = updated();
    std::fs::remove_dir_all(a.store.dir(&"new".parse().unwrap())).unwrap();
    let memory = file(&a, "base", "memory.bin");
    std::fs::set_permissions(&memory, PermissionsExt::from_mode(0o644)).unwrap();
    let open = std::fs::OpenOptions::new().write(true).open(&memory).unwrap();
    open.write_all_at(b"x", 5000).unwrap();
    assert_eq!(a.unpack(&bytes).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_base_that_nobody_recorded_is_known_by_its_bytes() {
    let (a, bytes) = updated();
    std::fs::remove_dir_all(a.store.dir(&"new".parse().unwrap())).unwrap();
    std::fs::remove_file(file(&a, "base", "forkd.json")).unwrap();
    a.unpack(&bytes).unwrap();
    whole(&a, "new");
}

/// Changes bytes of a file and keeps its size and time.
fn alter(path: &Path, edit: impl Fn(&mut Vec<u8>)) {
    let modified = path.metadata().unwrap().modified().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    edit(&mut bytes);
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    file.set_modified(modified).unwrap();
}

#[test]
fn a_base_whose_record_lies_never_gives_wrong_bytes() {
    // Other bytes under the same size and time.
    let (a, bytes) = updated();
    std::fs::remove_dir_all(a.store.dir(&"new".parse().unwrap())).unwrap();
    alter(&file(&a, "base", "memory.bin"), |bytes| {
        bytes.iter_mut().step_by(4096).for_each(|byte| *byte ^= 1)
    });
    let before = a.tree();
    let error = a.unpack(&bytes).unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity, "{error}");
    assert_eq!(a.tree(), before);
    // Another snapshot that is recorded with the base's digests.
    let (a, bytes) = updated();
    let b = Home::new();
    make(&b, "base", 2, 4 * MIB, None);
    recorded(&b, "base");
    let record = |home: &Home| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(file(home, "base", "forkd.json")).unwrap()).unwrap()
    };
    let (honest, mut lying) = (record(&a), record(&b));
    for (theirs, ours) in
        honest["files"].as_array().unwrap().iter().zip(lying["files"].as_array_mut().unwrap())
    {
        assert_eq!(theirs["path"], ours["path"]);
        for key in ["sha256", "root", "blocks"] {
            if let Some(value) = theirs.get(key) {
                ours[key] = value.clone();
            }
        }
    }
    alter_record(&file(&b, "base", "forkd.json"), &lying);
    let before = b.tree();
    let error = b.unpack(&bytes).unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity, "{error}");
    assert_eq!(b.tree(), before);
}

fn alter_record(path: &Path, record: &serde_json::Value) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(path, serde_json::to_vec(record).unwrap()).unwrap();
}

#[test]
fn bases_that_cannot_be_are_refused_when_packing() {
    let a = Home::new();
    make(&a, "base", 1, MIB, None);
    make(&a, "new", 2, MIB, None);
    let out = a.dir.path().join("out");
    let refused = |options: &PackOptions, kind| {
        let error = forkd_core::pack(&a.store, options, &out, env()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!out.exists());
    };
    refused(&against("new", &[(&a.store, "none")]), Kind::NotFound);
    for format in [None, Some(PackFormat::Single)] {
        refused(&PackOptions { format, ..against("new", &[(&a.store, "base")]) }, Kind::Usage);
    }
    refused(&PackOptions { format: Some(PackFormat::Chain), ..options("new") }, Kind::Usage);
    refused(&against("new", &[(&a.store, "new")]), Kind::Usage);
    // Twice the same is odd and does no harm.
    recorded(&a, "new");
    let bytes = pack(&a, &against("new", &[(&a.store, "base"), (&a.store, "base")]));
    assert!(bytes == pack(&a, &against("new", &[(&a.store, "base")])));
    assert!(a.unpack(&bytes).unwrap().nothing_new());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn memories_of_repeated_shifted_and_zeroed_pages_come_back(
        edits in proptest::collection::vec((0u8..6, 0usize..700, 0usize..700, 0usize..4096), 1..200),
        pages in 1usize..700,
        tail in 0usize..4096,
        with_base: bool,
        level in 1i32..8,
        seed: u64,
    ) {
        let (a, b) = (Home::new(), Home::new());
        make(&a, "base", seed, (pages * 4096 + tail) as u64, None);
        recorded(&a, "base");
        make(&a, "t", seed ^ 1, 0, Some(4096));
        let mut bytes = std::fs::read(file(&a, "base", "memory.bin")).unwrap();
        for (kind, from, to, at) in edits {
            let (from, to) = (from % pages * 4096, to % pages * 4096);
            match kind {
                0 => bytes.copy_within(from..from + 4096, to),
                1 => bytes.copy_within(from..from + 4096 - at, to + at),
                2 => bytes[to..to + 4096].fill(0),
                3 => bytes[to..to + 4096].fill(at as u8),
                4 => bytes[to + at] ^= 0x55,
                _ => bytes[to..].rotate_left(at),
            }
        }
        std::fs::write(file(&a, "t", "memory.bin"), &bytes).unwrap();
        let mut how = PackOptions { level, ..options("t") };
        if with_base {
            how.bases = vec![(a.store.clone(), "base".parse().unwrap())];
            b.unpack(&a.pack("base", "v1")).unwrap();
        }
        let packed = pack(&a, &how);
        b.unpack(&packed).unwrap();
        prop_assert!(std::fs::read(file(&b, "t", "memory.bin")).unwrap() == bytes);
        prop_assert_eq!(forkd_core::verify_tag(&b.store, &"t".parse().unwrap(), env()).unwrap().damage, vec![]);
    }
}
