//! Chains of links that hold changed pages: put together once, refused when damaged, made flat.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{Home, env};
use forkd_core::{Dependents, Kind, Removal, Store};
use forkd_format::{Digest, Tag};
use forkd_sys::{Call, DiskIo};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const MEMORY: u64 = (1 << 20) + (300 << 10);
const NOW: &str = "2026-01-02T03:04:05Z";

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

fn made(depth: usize) -> (Home, Vec<Vec<u8>>) {
    let home = Home::new();
    let (_, memories) = forkd_testing::frozen_chain(home.dir.path(), "c", depth, MEMORY);
    (home, memories)
}

/// The same after a journey in a pack: with records.
fn unpacked(depth: usize) -> (Home, Vec<Vec<u8>>) {
    let (home, memories) = made(depth);
    let other = Home::new();
    other.unpack(&home.pack(&format!("c{}", depth - 1), "p")).unwrap();
    (other, memories)
}

fn memory(store: &Store, name: &str) -> forkd_core::Result<PathBuf> {
    store.memory(&store.chain(&tag(name))?, env())
}

fn file(home: &Home, link: &str, name: &str) -> PathBuf {
    home.store.dir(&tag(link)).join(name)
}

fn rewrite(path: &Path, change: impl Fn(String) -> String) {
    let text = change(fs::read_to_string(path).unwrap());
    fs::remove_file(path).unwrap();
    fs::write(path, text).unwrap();
}

/// What lies in `assembled/`.
fn assembled(store: &Store) -> Vec<String> {
    let entries = fs::read_dir(store.root().join("assembled")).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn refused(home: &Home, kind: Kind, says: &str) {
    let error = memory(&home.store, "c2").unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(says), "{error}");
    assert_eq!(assembled(&home.store), [""; 0]);
    assert!(!home.store.root().join("staging").exists(), "leftovers");
}

#[test]
fn a_chain_is_put_together_once() {
    for (home, memories) in [made(4), unpacked(4)] {
        assert_eq!(memory(&home.store, "c0").unwrap(), file(&home, "c0", "memory.bin"));
        let path = memory(&home.store, "c3").unwrap();
        assert!(fs::read(&path).unwrap() == memories[3]);
        let first = path.metadata().unwrap();
        assert_eq!(first.mode() & 0o777, 0o644);
        let again = memory(&home.store, "c3").unwrap().metadata().unwrap();
        assert_eq!((first.ino(), first.mtime_nsec()), (again.ino(), again.mtime_nsec()));
        // One that was altered is made again.
        File::options().write(true).open(&path).unwrap().write_all_at(b"rot", 5000).unwrap();
        assert!(fs::read(memory(&home.store, "c3").unwrap()).unwrap() == memories[3]);
        fs::remove_file(path.with_extension("json")).unwrap();
        assert!(fs::read(memory(&home.store, "c3").unwrap()).unwrap() == memories[3]);
        let info = forkd_core::chain_info(&home.store, &tag("c3")).unwrap();
        assert_eq!((info.links.len(), info.assembled), (4, Some(true)));
        assert_eq!(info.engine.unwrap().accel.as_deref(), Some("tcg"));
        assert!(info.links[1].zero_pages > 0 && info.links[1].stored_pages > 0);
    }
}

#[test]
fn a_damaged_chain_is_refused() {
    // No record: only the digest of the whole tells.
    let (home, _) = made(3);
    let path = file(&home, "c2", "memory.bin");
    let bytes = fs::read(&path).unwrap();
    let at = bytes.iter().position(|byte| *byte != 0).unwrap() as u64;
    File::options().write(true).open(&path).unwrap().write_all_at(&[bytes[at as usize] ^ 1], at).unwrap();
    refused(&home, Kind::Integrity, "`forkd verify c2`");
    let (home, _) = made(3);
    let path = file(&home, "c1", "memory.bin");
    File::options().write(true).open(&path).unwrap().write_all_at(b"x", 0).unwrap();
    refused(&home, Kind::Integrity, "'c2': parent_content_hash is");
    // With one, the file is named.
    let (home, _) = unpacked(3);
    let path = file(&home, "c0", "memory.bin");
    File::options().write(true).open(&path).unwrap().write_all_at(b"x", 0).unwrap();
    refused(&home, Kind::Integrity, "c0/memory.bin: altered since it was stored; `forkd verify c0`");
    let (home, _) = made(3);
    File::options()
        .write(true)
        .open(file(&home, "c1", "memory.bin"))
        .unwrap()
        .set_len(MEMORY - 4096)
        .unwrap();
    refused(&home, Kind::Integrity, "bytes; the chain's memory has");
}

#[test]
fn wrong_zero_pages_are_refused() {
    let zeros = |runs: &'static str| {
        move |text: String| format!("{}\"zero_pages\":{runs}}}", text.split("\"zero_pages\"").next().unwrap())
    };
    for (runs, says) in [
        ("[]", "`forkd verify c2`"),
        ("[[0,1],[9,1]]", ""),
        ("[[330,2]]", "zero_pages has [330,2]; there are 331 pages"),
        ("[[0,331]]", "which memory.bin holds"),
        ("[[3,0]]", "'zero_pages'"),
    ] {
        let (home, _) = made(3);
        rewrite(&file(&home, "c2", "snapshot.json"), zeros(runs));
        refused(&home, Kind::Integrity, says);
    }
    let (home, _) = made(3);
    rewrite(&file(&home, "c2", "snapshot.json"), |text| text.replace("\"frozen\"", "\"x_frozen\""));
    refused(
        &home,
        Kind::Incompatible,
        "'c2' was not made by this forkd: it can be moved and verified, not forked",
    );
}

#[test]
fn gc_and_rmi_take_away_what_no_chain_has() {
    let (home, _) = made(4);
    let (three, four) = (memory(&home.store, "c2").unwrap(), memory(&home.store, "c3").unwrap());
    let orphan = home.store.root().join("assembled").join(format!("{}.bin", Digest::of(b"gone")));
    let note = home.store.root().join("assembled").join(format!("{}.json", Digest::of(b"a note")));
    for path in [&orphan, &orphan.with_extension("json"), &note] {
        fs::write(path, "x").unwrap();
    }
    let strange = home.store.root().join("assembled/readme.bin");
    fs::write(&strange, "not ours").unwrap();
    assert_eq!(home.store.gc(env().progress).unwrap(), 2);
    assert!(three.exists() && four.exists() && strange.exists() && !orphan.exists() && !note.exists());
    assert_eq!(home.store.gc(env().progress).unwrap(), 0);
    fs::remove_file(strange).unwrap();
    // A second tag keeps it.
    forkd_core::retag(&home.store, &tag("c3"), &tag("second"), env()).unwrap();
    let size = |name: &str| -> u64 {
        let files = fs::read_dir(home.store.dir(&tag(name))).unwrap();
        files.map(|file| forkd_sys::allocated(&file.unwrap().metadata().unwrap())).sum()
    };
    let whole = forkd_sys::allocated(&four.metadata().unwrap());
    forkd_core::remove(&home.store, &[tag("c3")], Dependents::Refuse, env()).unwrap();
    assert!(four.exists());
    let left = size("second");
    let report = forkd_core::remove(&home.store, &[tag("second")], Dependents::Refuse, env()).unwrap();
    assert_eq!(report.removed, [Removal { tag: tag("second"), freed: left + whole }]);
    assert!(!four.exists() && three.exists());
    forkd_core::remove(&home.store, &[tag("c0")], Dependents::Cascade, env()).unwrap();
    assert!(!home.store.root().exists(), "{:?}", home.tree());
}

#[test]
fn a_compacted_chain_is_flat_and_stands_alone() {
    for (home, memories) in [made(3), unpacked(3)] {
        let (from, to) = (tag("c2"), tag("flat"));
        let path = forkd_core::compact(&home.store, &from, &to, NOW, env()).unwrap().path;
        assert_eq!(path, home.store.dir(&to));
        let flat = home.store.load(&to).unwrap();
        assert_eq!(flat.snapshot.parent().unwrap(), None);
        assert!(
            ["zero_pages", "parent_tag", "parent_content_hash"]
                .iter()
                .all(|key| flat.snapshot.get(key).is_none())
        );
        assert!(flat.snapshot.get("x_unknown").is_some());
        let memory = path.join("memory.bin");
        assert!(fs::read(&memory).unwrap() == memories[2]);
        let shared = |a: &Path, b: &Path| a.metadata().unwrap().ino() == b.metadata().unwrap().ino();
        assert!(shared(&path.join("vmstate"), &file(&home, "c2", "vmstate")));
        assert!(shared(&path.join("rootfs.ext4"), &file(&home, "c2", "rootfs.ext4")));
        assert!(shared(&memory, &self::memory(&home.store, "c2").unwrap()));
        let record = flat.record.unwrap();
        assert_eq!(record.created_at.as_deref(), Some(NOW));
        let recorded = record.file("memory.bin").unwrap();
        assert_eq!(flat.snapshot.frozen("memory"), Some((MEMORY, recorded.sha256)));
        assert_eq!(recorded.blocks.len(), 32);
        let error = forkd_core::compact(&home.store, &from, &to, NOW, env()).unwrap_err();
        assert!(
            error.kind() == Kind::General && error.to_string().contains("'flat' is already at"),
            "{error}"
        );
        let error = forkd_core::compact(&home.store, &from, &tag("c0"), NOW, env()).unwrap_err();
        assert!(error.to_string().contains("'c0' is already at"), "{error}");
        assert_eq!(
            forkd_core::compact(&home.store, &from, &from, NOW, env()).unwrap_err().kind(),
            Kind::Usage
        );
        // A flat one too.
        forkd_core::compact(&home.store, &to, &tag("flat2"), NOW, env()).unwrap();
        forkd_core::remove(&home.store, &[tag("c0"), to], Dependents::Cascade, env()).unwrap();
        let report = forkd_core::verify_tag(&home.store, &tag("flat2"), env()).unwrap();
        assert_eq!((report.damage, report.unrecorded), (vec![], vec![]));
        assert!(!home.store.root().join("assembled").exists());
        let pack = home.pack("flat2", "p");
        let other = Home::new();
        other.unpack(&pack).unwrap();
        assert!(fs::read(file(&other, "flat2", "memory.bin")).unwrap() == memories[2]);
    }
}

#[test]
fn a_rotten_memory_is_not_compacted() {
    let (home, _) = made(3);
    let path = memory(&home.store, "c2").unwrap();
    let before = path.metadata().unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"rot", 0).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    let compact = || forkd_core::compact(&home.store, &tag("c2"), &tag("flat"), NOW, env());
    let error = compact().unwrap_err();
    assert!(error.kind() == Kind::Integrity && error.to_string().contains("Try again"), "{error}");
    assert!(!home.store.contains(&tag("flat")));
    compact().unwrap();
}

#[test]
fn any_failed_call_leaves_a_whole_memory_or_none() {
    type Operation = dyn Fn(&Store) -> forkd_core::Result<PathBuf>;
    let assemble: &Operation = &|store| memory(store, "c2");
    let compact: &Operation =
        &|store| forkd_core::compact(store, &tag("c2"), &tag("flat"), NOW, env()).map(|report| report.path);
    for (operation, forever) in [(assemble, false), (assemble, true), (compact, false), (compact, true)] {
        for n in 0.. {
            let (home, memories) = made(3);
            let count = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&count);
            let probe = move |_: Call, _: &Path| {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let fails = number == n || (forever && number > n);
                if fails { Err(std::io::Error::from_raw_os_error(5)) } else { Ok(()) }
            };
            let outcome = operation(&home.store.clone().with_disk(DiskIo::with_probe(Arc::new(probe))));
            let done = count.load(Ordering::SeqCst) <= n;
            assert!(outcome.is_ok() || !done, "call {n}: {outcome:?}");
            if home.store.contains(&tag("flat")) {
                assert_eq!(forkd_core::verify_tag(&home.store, &tag("flat"), env()).unwrap().damage, []);
            }
            home.store.gc(env().progress).unwrap();
            assert!(!home.store.root().join("staging").exists(), "call {n}: leftovers");
            assert!(fs::read(memory(&home.store, "c2").unwrap()).unwrap() == memories[2], "call {n}");
            if done {
                assert!(n > 10, "the probe saw only {n} calls");
                break;
            }
        }
    }
}
