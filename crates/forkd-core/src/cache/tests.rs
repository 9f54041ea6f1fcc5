use super::{Cache, CacheKind, CacheSlot, Freed};
use crate::env::Env;
use crate::{Cancel, Kind, Silent};
use forkd_format::Digest;
use forkd_sys::{Call, DiskIo};
use std::fs::{FileTimes, OpenOptions};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

fn env(cancel: &Cancel) -> Env<'_> {
    Env { progress: &Silent, cancel, jobs: 2 }
}

fn put(cache: &Cache, kind: CacheKind, bytes: &[u8]) -> Digest {
    let name = Digest::of(bytes);
    let cancel = Cancel::default();
    let writer = cache.create(kind, &name, env(&cancel)).unwrap();
    writer.write_at(bytes, 0).unwrap();
    assert!(cache.find(kind, &name).unwrap().is_none(), "nothing half-done is visible");
    writer.commit().unwrap();
    name
}

fn age(cache: &Cache, name: &Digest, hours: u64) {
    let info = cache.list().unwrap().into_iter().find(|info| info.name == *name).unwrap();
    let then = SystemTime::now() - Duration::from_secs(hours * 3600);
    let file = OpenOptions::new().write(true).open(info.path).unwrap();
    file.set_times(FileTimes::new().set_modified(then)).unwrap();
}

#[test]
fn a_file_is_written_found_and_listed() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::new(&root.path().join("cache"));
    assert!(cache.find(CacheKind::Blob, &Digest::of(b"x")).unwrap().is_none());
    assert!(cache.list().unwrap().is_empty() && !cache.root().exists());
    let name = put(&cache, CacheKind::Rootfs, b"disk");
    let entry = cache.find(CacheKind::Rootfs, &name).unwrap().unwrap();
    assert_eq!(entry.path(), cache.root().join(format!("rootfs/{name}.ext4")));
    let mut text = String::new();
    entry.file().read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), entry.len()), ("disk", 4));
    let list = cache.list().unwrap();
    assert_eq!(list.len(), 1);
    assert!(list[0].in_use && !list[0].partial);
    drop(entry);
    assert!(!cache.list().unwrap()[0].in_use);
    let entry = cache.find(CacheKind::Rootfs, &name).unwrap().unwrap();
    entry.discard().unwrap();
    assert!(cache.find(CacheKind::Rootfs, &name).unwrap().is_none());
}

#[test]
fn what_a_writer_left_is_gone_on_with() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::new(root.path());
    let (name, cancel) = (Digest::of(b"whole"), Cancel::default());
    let writer = cache.create(CacheKind::Blob, &name, env(&cancel)).unwrap();
    writer.write_at(b"who", 0).unwrap();
    drop(writer);
    let mut writer = cache.create(CacheKind::Blob, &name, env(&cancel)).unwrap();
    assert_eq!(writer.len(), 3);
    writer.restart().unwrap();
    assert!(writer.is_empty());
    drop(writer);
    assert!(cache.list().unwrap().is_empty(), "an empty one does not stay");
    cache.create(CacheKind::Blob, &name, env(&cancel)).unwrap().abandon().unwrap();
    assert!(cache.list().unwrap().is_empty());
}

#[test]
fn of_two_writers_the_second_waits_and_finds() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::new(root.path());
    let (name, cancel) = (Digest::of(b"whole"), Cancel::default());
    let writer = cache.create(CacheKind::Blob, &name, env(&cancel)).unwrap();
    std::thread::scope(|scope| {
        let second =
            scope.spawn(|| cache.find_or_create(CacheKind::Blob, &name, env(&Cancel::default())).unwrap());
        std::thread::sleep(Duration::from_millis(100));
        writer.write_at(b"whole", 0).unwrap();
        let _entry = writer.commit().unwrap();
        assert!(matches!(second.join().unwrap(), CacheSlot::Found(entry) if entry.len() == 5));
    });
    // Who waits can be stopped.
    let other = Digest::of(b"other");
    let _writer = cache.create(CacheKind::Blob, &other, env(&cancel)).unwrap();
    let stopped = Cancel::default();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cache.create(CacheKind::Blob, &other, env(&stopped)));
        std::thread::sleep(Duration::from_millis(60));
        stopped.cancel();
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), Kind::Interrupted);
    });
}

#[test]
fn the_least_recently_used_goes_first_and_what_is_held_stays() {
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::new(root.path());
    std::fs::create_dir_all(root.path().join("kernels/x")).unwrap();
    std::fs::write(root.path().join("kvm.json"), "{}").unwrap();
    std::fs::create_dir_all(root.path().join("blobs")).unwrap();
    std::fs::write(root.path().join("blobs/README"), "not ours").unwrap();
    let cancel = Cancel::default();
    let names: Vec<Digest> = (0..4u8).map(|fill| put(&cache, CacheKind::Blob, &vec![fill; 8192])).collect();
    for (name, hours) in names.iter().zip([4, 3, 2, 1]) {
        age(&cache, name, hours);
    }
    let partial = Digest::of(b"partial");
    let writer = cache.create(CacheKind::Blob, &partial, env(&cancel)).unwrap();
    writer.write_at(&[7; 8192], 0).unwrap();
    drop(writer);
    age(&cache, &partial, 1);
    let each = cache.list().unwrap()[0].bytes_on_disk;
    let held = cache.find(CacheKind::Blob, &names[1]).unwrap().unwrap();
    age(&cache, &names[1], 5);
    assert_eq!(cache.trim(5 * each, env(&cancel)).unwrap(), Freed::default());
    assert_eq!(cache.trim(4 * each, env(&cancel)).unwrap(), Freed { entries: 1, bytes: each });
    assert!(cache.find(CacheKind::Blob, &names[0]).unwrap().is_none(), "the oldest that is free");
    age(&cache, &partial, 25);
    age(&cache, &names[2], 99);
    cache.trim(3 * each, env(&cancel)).unwrap();
    assert!(cache.list().unwrap().iter().all(|info| !info.partial), "a stale partial goes before all");
    let writer = cache.create(CacheKind::Blob, &partial, env(&cancel)).unwrap();
    writer.write_at(b"x", 0).unwrap();
    assert_eq!(cache.clear(env(&cancel)).unwrap().entries, 2);
    assert_eq!(cache.list().unwrap().len(), 2, "held ones");
    drop((held, writer));
    assert_eq!(cache.clear(env(&cancel)).unwrap().entries, 2);
    let left = ["kernels/x", "kvm.json", "blobs/README"];
    assert!(left.iter().all(|path| root.path().join(path).exists()));
}

#[test]
fn a_failed_call_leaves_nothing_visible() {
    for failing in [Call::SyncFile, Call::Rename, Call::Write] {
        let root = tempfile::tempdir().unwrap();
        let disk = DiskIo::with_probe(Arc::new(move |call, _: &Path| {
            if call == failing { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }));
        let cache = Cache::with_disk(root.path(), disk);
        let (name, cancel) = (Digest::of(b"x"), Cancel::default());
        let writer = cache.create(CacheKind::Blob, &name, env(&cancel)).unwrap();
        let outcome = writer.write_at(b"x", 0).and_then(|()| writer.commit().map(drop));
        assert_eq!(outcome.unwrap_err().kind(), Kind::NoSpace);
        assert!(cache.find(CacheKind::Blob, &name).unwrap().is_none());
    }
}
