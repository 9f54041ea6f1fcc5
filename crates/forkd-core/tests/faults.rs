//! Every call that changes the disk fails once (test catalogue, item 9), and none of the publish sequence may be left out (item 10).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{Home, env};
use forkd_core::{Dependents, Store, UnpackOptions};
use forkd_sys::{Call, DiskIo, Probe};
use forkd_testing::{chain_entries, entries, tar_of, tree, zst};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

type Tree = BTreeMap<PathBuf, String>;

/// What a user sees of a store: the bytes of each snapshot, without what depends on when it was written.
fn seen(store: &Store) -> BTreeMap<String, Tree> {
    let tags = store.tags().unwrap();
    tags.iter()
        .map(|tag| {
            let mut files = tree(&store.dir(tag));
            files.remove(Path::new("forkd.json"));
            (tag.to_string(), files)
        })
        .collect()
}

/// Fails calls by their number: the one, or that and all after it, as if the process had died there.
fn failing(at: usize, forever: bool) -> (Probe, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let probe = Arc::new(move |_: Call, _: &Path| {
        let number = counter.fetch_add(1, Ordering::SeqCst);
        if number == at || (forever && number > at) {
            Err(std::io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        }
    });
    (probe, count)
}

/// Runs an operation with its n-th call failing, for every n, from a state that `prepare` makes. After each, every tag is as it was
/// before or as the whole operation would have left it, all of it verifies, and the next run leaves nothing behind.
fn survives(prepare: &dyn Fn(&Home), operation: &dyn Fn(&Home, &Store) -> forkd_core::Result<()>) {
    let whole = Home::new();
    prepare(&whole);
    let before = seen(&whole.store);
    operation(&whole, &whole.store).unwrap();
    let after = seen(&whole.store);
    let relocate = |trees: &BTreeMap<String, Tree>| -> BTreeMap<String, Tree> {
        // snapshot.json names its own folder, which differs from home to home.
        let mut trees = trees.clone();
        trees.values_mut().for_each(|files| drop(files.remove(Path::new("snapshot.json"))));
        trees
    };
    let (before, after) = (relocate(&before), relocate(&after));
    for forever in [false, true] {
        for n in 0.. {
            let home = Home::new();
            prepare(&home);
            let (probe, count) = failing(n, forever);
            let failing_store = home.store.clone().with_disk(DiskIo::with_probe(probe));
            let outcome = operation(&home, &failing_store);
            let now = relocate(&seen(&home.store));
            for tag in before.keys().chain(after.keys()) {
                let (now, before, after) = (now.get(tag), before.get(tag), after.get(tag));
                assert!(
                    now == before || now == after,
                    "call {n}, forever {forever}: '{tag}' is neither old nor new"
                );
            }
            for tag in home.store.tags().unwrap() {
                // A chain whose upper links did not come through is fine; one whose lower links are missing is not.
                let report = forkd_core::verify_tag(&home.store, &tag, env()).unwrap();
                assert_eq!(report.damage, [], "call {n}, forever {forever}");
            }
            let done = count.load(Ordering::SeqCst) <= n;
            assert!(outcome.is_err() || done || now == after, "call {n}: it said that it was done");
            home.store.gc(env().progress).unwrap();
            let left = std::fs::read_dir(home.store.root().join("staging")).into_iter().flatten().count();
            assert_eq!(left, 0, "call {n}, forever {forever}: leftovers");
            if done {
                assert!(n > 10, "the probe saw only {n} calls");
                break;
            }
        }
    }
}

fn unpack(home: &Home, store: &Store, pack: &[u8], force: bool) -> forkd_core::Result<()> {
    forkd_core::unpack_file(
        store,
        &home.file(pack),
        &UnpackOptions { force, ..UnpackOptions::default() },
        env(),
    )
    .map(drop)
}

#[test]
fn an_unpack_survives_any_failed_call() {
    let pack = zst(&tar_of(&entries("t", 1)));
    survives(&|_| {}, &|home, store| unpack(home, store, &pack, false));
}

#[test]
fn an_unpacked_chain_survives_any_failed_call() {
    let pack = zst(&tar_of(&chain_entries(3)));
    survives(&|_| {}, &|home, store| unpack(home, store, &pack, false));
}

#[test]
fn a_forced_unpack_survives_any_failed_call() {
    let (old, new) = (zst(&tar_of(&entries("t", 1))), zst(&tar_of(&entries("t", 2))));
    survives(&|home| drop(home.unpack(&old).unwrap()), &|home, store| unpack(home, store, &new, true));
}

#[test]
fn a_retag_and_a_removal_survive_any_failed_call() {
    let pack = zst(&tar_of(&entries("t", 1)));
    let (t, u) = ("t".parse().unwrap(), "u".parse().unwrap());
    survives(&|home| drop(home.unpack(&pack).unwrap()), &|_, store| {
        forkd_core::retag(store, &t, &u, env())?;
        forkd_core::remove(store, std::slice::from_ref(&t), Dependents::Refuse, env()).map(drop)
    });
}

#[test]
fn a_pack_that_fails_leaves_the_old_file() {
    let home = Home::new();
    home.unpack(&zst(&tar_of(&entries("t", 1)))).unwrap();
    let out = home.dir.path().join("out.zst");
    for n in 0.. {
        std::fs::write(&out, "the old file").unwrap();
        let (probe, count) = failing(n, false);
        let store = home.store.clone().with_disk(DiskIo::with_probe(probe));
        let outcome = forkd_core::pack(&store, &common::options("t"), &out, env());
        let names = std::fs::read_dir(home.dir.path())
            .unwrap()
            .filter_map(|e| e.unwrap().file_name().into_string().ok());
        assert_eq!(names.filter(|name| name.starts_with(".forkd-pack")).count(), 0, "call {n} leaves a file");
        if count.load(Ordering::SeqCst) <= n {
            outcome.unwrap();
            assert!(n > 5);
            break;
        }
        let text = std::fs::read(&out).unwrap();
        let whole = forkd_core::verify_file(&home.store, &out, None, env()).is_ok();
        assert!(outcome.is_err() && (text == b"the old file" || whole), "call {n}");
    }
}

/// The calls of one unpack, in their order.
fn recorded(force: bool) -> Vec<(Call, PathBuf)> {
    let home = Home::new();
    if force {
        home.unpack(&zst(&tar_of(&entries("t", 9)))).unwrap();
    }
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&calls);
    let root = home.store.root().to_owned();
    let probe: Probe = Arc::new(move |call, path| {
        log.lock().unwrap().push((call, path.strip_prefix(&root).unwrap().to_owned()));
        Ok(())
    });
    let store = home.store.clone().with_disk(DiskIo::with_probe(probe));
    unpack(&home, &store, &zst(&tar_of(&entries("t", 1))), force).unwrap();
    calls.lock().unwrap().clone()
}

/// Whether a sequence of calls makes what it publishes durable: each rule names what would be lost without it.
fn check_durable(calls: &[(Call, PathBuf)]) -> Result<(), String> {
    let staged = |path: &Path| path.starts_with("staging");
    let published = calls.iter().position(|(call, path)| {
        matches!(call, Call::Rename | Call::Exchange) && path == Path::new("snapshots/t")
    });
    let published = published.ok_or("the snapshot is never moved to its tag")?;
    let created: Vec<&PathBuf> = calls
        .iter()
        .filter(|(call, path)| *call == Call::Create && staged(path))
        .map(|(_, path)| path)
        .collect();
    if created.len() != 4 {
        return Err(format!(
            "{} files are made; expected snapshot.json, vmstate, memory.bin, forkd.json",
            created.len()
        ));
    }
    for file in created {
        let last = calls
            .iter()
            .rposition(|(call, path)| *call == Call::Write && path == file)
            .ok_or("a file is never written")?;
        let synced = calls.iter().rposition(|(call, path)| *call == Call::SyncFile && path == file);
        if synced.is_none_or(|at| at < last || at > published) {
            return Err(format!(
                "{}: its bytes may be lost: not synced between its last write and the move",
                file.display()
            ));
        }
        let dir = file.parent().unwrap_or(Path::new(""));
        let listed = calls.iter().rposition(|(call, path)| *call == Call::SyncDir && path == dir);
        if listed.is_none_or(|at| at < synced.unwrap_or(0) || at > published) {
            return Err(format!(
                "{}: its name may be lost: its folder is not synced before the move",
                file.display()
            ));
        }
    }
    let made = calls.iter().position(|(call, path)| *call == Call::MakeDir && path == Path::new("snapshots"));
    let root = calls.iter().position(|(call, path)| *call == Call::SyncDir && path == Path::new(""));
    if made.is_some_and(|made| root.is_none_or(|root| root < made)) {
        return Err("'snapshots' is made and may be lost: the store's folder is not synced".into());
    }
    let moved =
        calls.iter().rposition(|(call, path)| *call == Call::SyncDir && path == Path::new("snapshots"));
    if moved.is_none_or(|at| at < published) {
        return Err("the move itself may be lost: 'snapshots' is not synced after it".into());
    }
    Ok(())
}

#[test]
fn no_sync_or_rename_of_the_publish_sequence_can_be_left_out() {
    for force in [false, true] {
        let calls = recorded(force);
        check_durable(&calls).unwrap();
        assert!(calls.iter().any(|(call, _)| *call == if force { Call::Exchange } else { Call::Rename }));
        let matters =
            |call: &Call| matches!(call, Call::SyncFile | Call::SyncDir | Call::Rename | Call::Exchange);
        let mut checked = 0;
        for (i, (call, path)) in calls.iter().enumerate().filter(|(_, (call, _))| matters(call)) {
            let mut without = calls.clone();
            without.remove(i);
            assert!(
                check_durable(&without).is_err(),
                "{call:?} {} can be left out unnoticed",
                path.display()
            );
            checked += 1;
        }
        assert!(checked >= 7, "{checked}");
    }
}
