//! Every call that changes the disk fails once (test catalogue, item 9) while a pack of format 3 is made or unpacked.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{Home, env};
use forkd_core::cache::Cache;
use forkd_core::{PackOptions, Store, UnpackOptions, unpack_file};
use forkd_format::PackFormat;
use forkd_sys::{Call, DiskIo, Probe};
use forkd_testing::{Fixture, chain, fixture, pseudo_random, tree};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

type Seen = BTreeMap<String, BTreeMap<PathBuf, String>>;

/// The bytes of each snapshot, without what depends on when and where it was written.
fn seen(store: &Store) -> Seen {
    let files = |tag: &forkd_format::Tag| {
        let mut files = tree(&store.dir(tag));
        files.retain(|path, _| path != Path::new("forkd.json") && path != Path::new("snapshot.json"));
        (tag.to_string(), files)
    };
    store.tags().unwrap().iter().map(files).collect()
}

/// Fails calls by their number: the one, or that and all after it, as if the process had died there.
fn failing(at: usize, forever: bool) -> (Probe, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let probe = Arc::new(move |_: Call, _: &Path| {
        let number = counter.fetch_add(1, Ordering::SeqCst);
        let fails = number == at || (forever && number > at);
        if fails { Err(std::io::Error::from_raw_os_error(5)) } else { Ok(()) }
    });
    (probe, count)
}

/// Unpacks with the n-th call failing, for every n. After each, every tag is as before or as after the whole, all of it verifies,
/// nothing is left, and the same again succeeds.
fn survives(prepare: &dyn Fn(&Home), pack: &[u8], force: bool) {
    let unpack = |home: &Home, disk: Option<DiskIo>| {
        let store = disk.clone().map_or(home.store.clone(), |disk| home.store.clone().with_disk(disk));
        let root = home.dir.path().join("cache");
        let cache = disk.map_or_else(|| Cache::new(&root), |disk| Cache::with_disk(&root, disk));
        let options = UnpackOptions { force, cache: Some(cache), ..UnpackOptions::default() };
        unpack_file(&store, &home.file(pack), &options, env())
    };
    let whole = Home::new();
    prepare(&whole);
    let before = seen(&whole.store);
    unpack(&whole, None).unwrap();
    let after = seen(&whole.store);
    assert_ne!(before, after);
    for forever in [false, true] {
        for n in 0.. {
            let home = Home::new();
            prepare(&home);
            let (probe, count) = failing(n, forever);
            let outcome = unpack(&home, Some(DiskIo::with_probe(probe)));
            let now = seen(&home.store);
            for tag in before.keys().chain(after.keys()) {
                let (now, before, after) = (now.get(tag), before.get(tag), after.get(tag));
                assert!(now == before || now == after, "call {n}, forever {forever}: '{tag}' is neither");
            }
            for tag in home.store.tags().unwrap() {
                let report = forkd_core::verify_tag(&home.store, &tag, env()).unwrap();
                assert_eq!(report.damage, [], "call {n}, forever {forever}");
            }
            let done = count.load(Ordering::SeqCst) <= n;
            assert!(outcome.is_err() || done || now == after, "call {n}: it said that it was done");
            home.store.gc(env().progress).unwrap();
            let left = std::fs::read_dir(home.store.root().join("staging")).into_iter().flatten().count();
            assert_eq!(left, 0, "call {n}, forever {forever}: leftovers");
            unpack(&home, None).unwrap();
            assert_eq!(
                seen(&home.store),
                after,
                "call {n}, forever {forever}: the next run does not mend it"
            );
            if done {
                assert!(n > 10, "the probe saw only {n} calls");
                break;
            }
        }
    }
}

fn make(home: &Home, tag: &str, seed: u64) {
    let made = Fixture { tag: tag.into(), seed, memory: 40_000, rootfs: Some(9000), parent: None };
    fixture(home.dir.path(), &made);
}

fn packed(home: &Home, options: &PackOptions) -> Vec<u8> {
    let out = home.dir.path().join("out");
    forkd_core::pack(&home.store, options, &out, env()).unwrap();
    let bytes = std::fs::read(&out).unwrap();
    std::fs::remove_file(out).unwrap();
    bytes
}

fn three(tag: &str) -> PackOptions {
    PackOptions { format: Some(PackFormat::Paged), ..common::options(tag) }
}

#[test]
fn an_unpack_survives_any_failed_call() {
    let a = Home::new();
    make(&a, "t", 1);
    survives(&|_| {}, &packed(&a, &three("t")), false);
}

#[test]
fn a_forced_unpack_survives_any_failed_call() {
    let (a, b) = (Home::new(), Home::new());
    make(&a, "t", 1);
    make(&b, "t", 2);
    let (old, new) = (packed(&a, &three("t")), packed(&b, &three("t")));
    survives(&|home| drop(home.unpack(&old).unwrap()), &new, true);
}

#[test]
fn an_unpacked_chain_survives_any_failed_call() {
    let a = Home::new();
    let tags = chain(a.dir.path(), "c", 3, 20_000);
    let first = packed(&a, &three(&tags[0]));
    survives(&|home| drop(home.unpack(&first).unwrap()), &packed(&a, &three(&tags[2])), false);
}

/// A store with a snapshot and a kernel that its memory holds much of.
fn with_kernel(home: &Home) -> PackOptions {
    make(home, "t", 1);
    let mut random = pseudo_random(4);
    let kernel: Vec<u8> = (0..50_000).map(|_| random() as u8).collect();
    let vmlinux = home.dir.path().join("vmlinux");
    std::fs::write(&vmlinux, &kernel).unwrap();
    let memory = home.store.dir(&"t".parse().unwrap()).join("memory.bin");
    std::fs::write(memory, &kernel[4096..45_056]).unwrap();
    PackOptions { kernel: Some(("6.1".into(), vmlinux)), ..three("t") }
}

#[test]
fn an_unpack_with_a_kernel_survives_any_failed_call() {
    let a = Home::new();
    let options = with_kernel(&a);
    let pack = packed(&a, &options);
    assert!(pack.len() < 30_000);
    let names = std::fs::read_dir(a.dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let kernel = names.into_iter().find(|path| path.to_string_lossy().ends_with(".vmlinux.zst")).unwrap();
    let beside = |home: &Home| {
        let name = kernel.file_name().unwrap();
        std::fs::copy(&kernel, home.dir.path().join(name)).unwrap();
    };
    survives(&|home| beside(home), &pack, false);
}

#[test]
fn a_pack_that_fails_leaves_the_old_file_and_what_is_there_can_be_read() {
    let home = Home::new();
    let options = with_kernel(&home);
    let folder = home.dir.path().join("packs");
    let out = folder.join("t.pack");
    for forever in [false, true] {
        for n in 0.. {
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(&out, "the old file").unwrap();
            let (probe, count) = failing(n, forever);
            let store = home.store.clone().with_disk(DiskIo::with_probe(probe));
            let outcome = forkd_core::pack(&store, &options, &out, env());
            let names: Vec<_> = std::fs::read_dir(&folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            assert!(!names.iter().any(|name| name.starts_with('.')), "call {n} leaves {names:?}");
            let old = std::fs::read(&out).unwrap() == b"the old file";
            let whole = forkd_core::verify_file(&home.store, &out, None, env()).is_ok();
            assert!(old || whole, "call {n}, forever {forever}: {names:?}");
            if count.load(Ordering::SeqCst) <= n {
                outcome.unwrap();
                assert!(whole && n > 8, "{n} calls");
                break;
            }
            assert!(outcome.is_err(), "call {n}, forever {forever}");
        }
    }
}

/// The calls of an operation, paths without the folder.
fn recorded(root: &Path, operation: impl FnOnce(DiskIo)) -> Vec<(Call, PathBuf)> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (log, root) = (Arc::clone(&calls), root.to_owned());
    let probe: Probe = Arc::new(move |call, path| {
        let path = path.strip_prefix(&root).unwrap_or(path);
        log.lock().unwrap().push((call, path.to_owned()));
        Ok(())
    });
    operation(DiskIo::with_probe(probe));
    calls.lock().unwrap().clone()
}

#[test]
fn all_that_is_published_is_synced_after_its_last_write() {
    let a = Home::new();
    make(&a, "t", 1);
    let pack = packed(&a, &three("t"));
    let home = Home::new();
    let calls = recorded(home.store.root(), |disk| {
        let store = home.store.clone().with_disk(disk);
        unpack_file(&store, &home.file(&pack), &UnpackOptions::default(), env()).unwrap();
    });
    let published = calls.iter().position(|(_, path)| path == Path::new("snapshots/t")).unwrap();
    let created: Vec<&PathBuf> =
        calls.iter().filter(|(call, _)| *call == Call::Create).map(|(_, path)| path).collect();
    for name in ["memory.bin", "rootfs.ext4", "vmstate", "snapshot.json", "forkd.json"] {
        let path = created.iter().find(|path| path.ends_with(name)).unwrap();
        let last = calls.iter().rposition(|(call, of)| *call == Call::Write && *of == **path).unwrap();
        let synced = calls.iter().rposition(|(call, of)| *call == Call::SyncFile && *of == **path).unwrap();
        let dir = path.parent().unwrap();
        let listed = calls.iter().rposition(|(call, of)| *call == Call::SyncDir && of == dir).unwrap();
        assert!(last < synced && synced < listed && listed < published, "{name}: {calls:?}");
    }
    // A pack is synced before it gets its name, and its kernel has its own before that.
    let options = with_kernel(&a);
    let out = a.dir.path().join("t.pack");
    let calls = recorded(a.dir.path(), |disk| {
        forkd_core::pack(&a.store.clone().with_disk(disk), &options, &out, env()).unwrap();
    });
    let renamed: Vec<usize> = (0..calls.len()).filter(|i| calls[*i].0 == Call::Rename).collect();
    let [kernel, pack] = renamed[..] else { panic!("{calls:?}") };
    assert!(calls[kernel].1.to_string_lossy().ends_with(".vmlinux.zst") && calls[pack].1.ends_with("t.pack"));
    for (renamed, name) in [(kernel, &calls[kernel].1), (pack, &calls[pack].1)] {
        assert!(
            calls[..renamed].iter().any(|(call, path)| *call == Call::SyncFile && path == name),
            "{calls:?}"
        );
    }
    assert!(calls[pack..].iter().any(|(call, _)| *call == Call::SyncDir));
}
