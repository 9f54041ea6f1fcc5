//! unpack(pack(x)) = x (test catalogue, item 15).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{Home, env, options};
use forkd_core::{Dependents, Kind, Outcome, UnpackOptions};
use forkd_testing::{Fixture, chain, fixture, sha256, tree};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The files of every snapshot without the two that name their own folder.
fn bodies(home: &Home) -> BTreeMap<PathBuf, String> {
    let mut tree = tree(&home.store.root().join("snapshots"));
    tree.retain(|path, _| !path.ends_with("snapshot.json") && !path.ends_with("forkd.json"));
    // Modes differ on purpose: the store seals what it unpacks.
    tree.into_iter().map(|(path, facts)| (path, facts.split(' ').nth(1).unwrap().to_owned())).collect()
}

fn json(home: &Home, tag: &str) -> String {
    let dir = home.store.dir(&tag.parse().unwrap());
    std::fs::read_to_string(dir.join("snapshot.json")).unwrap().replace(&dir.display().to_string(), "DIR")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_comes_back_as_it_was(
        seed: u64,
        memory in prop_oneof![0u64..20_000, Just(4 << 20), Just((4 << 20) + 1), Just(8 << 20), 8_000_000u64..9_500_000],
        rootfs in proptest::option::of(prop_oneof![0u64..9000, Just(4 << 20), 4_100_000u64..4_300_000]),
        level in 1i32..6,
    ) {
        let (a, b) = (Home::new(), Home::new());
        fixture(a.dir.path(), &Fixture { tag: "t".into(), seed, memory, rootfs, parent: None });
        let out = a.dir.path().join("out");
        let report = forkd_core::pack(&a.store, &common::options("t"), &out, env()).unwrap();
        prop_assert_eq!(report.size, out.metadata().unwrap().len());
        let leveled = forkd_core::PackOptions { level, ..options("t") };
        forkd_core::pack(&a.store, &leveled, &out, env()).unwrap();
        b.unpack(&std::fs::read(&out).unwrap()).unwrap();
        prop_assert_eq!(bodies(&a), bodies(&b));
        prop_assert_eq!(json(&a, "t"), json(&b, "t"));
        prop_assert_eq!(forkd_core::verify_tag(&b.store, &"t".parse().unwrap(), env()).unwrap().damage, vec![]);
    }
}

#[test]
fn chains_of_every_depth_come_back() {
    for depth in 1..=16 {
        let (a, b) = (Home::new(), Home::new());
        let tags = chain(a.dir.path(), "link-", depth, 50_000);
        let head = tags.last().unwrap();
        let report = b.unpack(&a.pack(head, "out")).unwrap();
        assert_eq!(report.links.len(), depth);
        assert_eq!(report.head.as_str(), head);
        assert_eq!(bodies(&a), bodies(&b), "depth {depth}");
        for tag in &tags {
            assert_eq!(json(&a, tag), json(&b, tag));
        }
        assert_eq!(b.store.chain(&head.parse().unwrap()).unwrap().len(), depth);
    }
}

#[test]
fn packing_twice_gives_the_same_bytes_here_and_elsewhere() {
    let (a, b) = (Home::new(), Home::new());
    let tags = chain(a.dir.path(), "x", 3, 5_000_000);
    let first = a.pack(&tags[2], "one");
    assert_eq!(first, a.pack(&tags[2], "two"));
    b.unpack(&first).unwrap();
    assert_eq!(first, b.pack(&tags[2], "three"), "a pack does not depend on where the snapshot lies");
    let jobs = forkd_core::Env { jobs: 7, ..env() };
    let out = a.dir.path().join("many");
    forkd_core::pack(&a.store, &options(&tags[2]), &out, jobs).unwrap();
    assert_eq!(first, std::fs::read(out).unwrap(), "nor on the number of threads");
}

#[test]
fn unpacked_files_take_no_room_for_zero_pages() {
    use std::os::unix::fs::MetadataExt;
    let (a, b) = (Home::new(), Home::new());
    let dir = fixture(
        a.dir.path(),
        &Fixture { tag: "t".into(), seed: 3, memory: 8 << 20, rootfs: None, parent: None },
    );
    b.unpack(&a.pack("t", "out")).unwrap();
    let bytes = std::fs::read(dir.join("memory.bin")).unwrap();
    let data = bytes.chunks(4096).filter(|page| page.iter().any(|b| *b != 0)).count() as u64 * 4096;
    let blocks = b.store.dir(&"t".parse().unwrap()).join("memory.bin").metadata().unwrap().blocks() * 512;
    assert!(blocks <= data, "{blocks} bytes of blocks for {data} bytes of data");
}

#[test]
fn what_is_here_is_kept_and_what_differs_needs_force() {
    let (a, b) = (Home::new(), Home::new());
    let tags = chain(a.dir.path(), "k", 3, 50_000);
    let two = a.pack(&tags[1], "two");
    let three = a.pack(&tags[2], "three");
    b.unpack(&two).unwrap();
    let outcomes =
        |report: &forkd_core::UnpackReport| report.links.iter().map(|l| l.outcome).collect::<Vec<_>>();
    assert_eq!(outcomes(&b.unpack(&three).unwrap()), [Outcome::Kept, Outcome::Kept, Outcome::Created]);
    assert!(b.unpack(&three).unwrap().nothing_new());

    let other = Home::new();
    fixture(
        other.dir.path(),
        &Fixture { tag: "k0".into(), seed: 99, memory: 50_000, rootfs: None, parent: None },
    );
    let pack = other.file(&other.pack("k0", "out"));
    let before = b.tree();
    let refused = forkd_core::unpack_file(&b.store, &pack, &UnpackOptions::default(), env()).unwrap_err();
    assert_eq!(refused.kind(), Kind::General);
    assert!(
        refused.to_string().contains("'k0' is already at") && refused.to_string().contains("--force"),
        "{refused}"
    );
    let force = UnpackOptions { force: true, ..UnpackOptions::default() };
    let orphaning = forkd_core::unpack_file(&b.store, &pack, &force, env()).unwrap_err();
    assert!(orphaning.to_string().contains("'k1' is chained to 'k0'"), "{orphaning}");
    assert_eq!(b.tree(), before);
    // The untouched store of another host, without records, is compared by its bytes.
    assert!(a.unpack(&three).unwrap().nothing_new());
    // Somebody's own snapshot that is named as a parent in the pack is nobody's to replace.
    let own = sha256(&other.store.dir(&"k0".parse().unwrap()).join("memory.bin"));
    let beside = forkd_core::unpack_file(&other.store, &other.file(&three), &force, env()).unwrap();
    assert_eq!(outcomes(&beside), [Outcome::Created; 3]);
    assert_ne!(beside.links[0].local_tag.as_str(), "k0");
    assert_eq!(sha256(&other.store.dir(&"k0".parse().unwrap()).join("memory.bin")), own);
    let links: Vec<_> = beside.links.iter().rev().map(|link| link.local_tag.clone()).collect();
    forkd_core::remove(&other.store, &links, Dependents::Refuse, env()).unwrap();
    forkd_core::remove(&other.store, &["k0".parse().unwrap()], Dependents::Refuse, env()).unwrap();
    let made = forkd_core::unpack_file(&other.store, &other.file(&three), &force, env()).unwrap();
    assert_eq!(outcomes(&made), [Outcome::Created; 3]);
    // A damaged parent is mended.
    std::fs::write(other.store.dir(&"k0".parse().unwrap()).join("memory.bin"), vec![1; 50_000]).unwrap();
    let mended = forkd_core::unpack_file(&other.store, &other.file(&three), &force, env()).unwrap();
    assert_eq!(outcomes(&mended), [Outcome::Replaced, Outcome::Kept, Outcome::Kept]);
    assert_eq!(forkd_core::verify_tag(&other.store, &"k2".parse().unwrap(), env()).unwrap().damage, []);
}

#[test]
fn a_chain_that_would_not_restore_is_not_packed() {
    let a = Home::new();
    let tags = chain(a.dir.path(), "p", 2, 50_000);
    let memory = a.store.dir(&tags[0].parse().unwrap()).join("memory.bin");
    let old = sha256(&memory);
    std::fs::write(&memory, vec![1; 50_000]).unwrap();
    let error = forkd_core::pack(&a.store, &options("p1"), &a.dir.path().join("out"), env()).unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
    assert!(error.to_string().contains(&old), "{error}");
    assert!(!a.dir.path().join("out").exists());
    std::fs::remove_dir_all(memory.parent().unwrap()).unwrap();
    let error = forkd_core::pack(&a.store, &options("p1"), Path::new("/dev/null"), env()).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    let error = forkd_core::pack(&a.store, &options("p1"), &a.dir.path().join("out"), env()).unwrap_err();
    assert!(error.to_string().contains("'p0', the chain parent of 'p1', is missing"), "{error}");
}

#[test]
fn damage_is_named_by_file_and_range() {
    let a = Home::new();
    let b = Home::new();
    fixture(
        a.dir.path(),
        &Fixture { tag: "t".into(), seed: 5, memory: 9 << 20, rootfs: Some(1 << 20), parent: None },
    );
    let mut pack = a.pack("t", "out");
    b.unpack(&pack).unwrap();
    let memory = b.store.dir(&"t".parse().unwrap()).join("memory.bin");
    let mut bytes = std::fs::read(&memory).unwrap();
    bytes[5 << 20] ^= 1;
    bytes[(9 << 20) - 1] ^= 1;
    std::fs::write(&memory, bytes).unwrap();
    let report = forkd_core::verify_tag(&b.store, &"t".parse().unwrap(), env()).unwrap();
    assert_eq!(report.damage.len(), 1);
    assert_eq!(report.damage[0].path, memory);
    assert_eq!(report.damage[0].ranges, [(5 << 20, 6 << 20), (8 << 20, 9 << 20)]);
    // A pack's damage is found by the frame's own checksum: the piece it stands in is named.
    let at = pack.len() - 3000;
    pack[at] ^= 4;
    let error = forkd_core::verify_file(&a.store, &a.file(&pack), None, env()).unwrap_err();
    assert!(error.to_string().contains("memory.bin, bytes 8388608..9437184"), "{error}");
}
