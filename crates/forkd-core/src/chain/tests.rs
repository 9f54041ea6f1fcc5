#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use super::link::{LinkPages, write_link};
use crate::store::LockKind;
use crate::store::chain_memory::adopt_assembled;
use crate::{Cancel, Env, Kind, Silent, Store};
use forkd_format::{Digest, PAGE_SIZE, Tag};
use forkd_sys::DiskIo;
use forkd_testing::pseudo_random;
use proptest::prelude::*;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

static NEVER: LazyLock<Cancel> = LazyLock::new(Cancel::default);

fn env() -> Env<'static> {
    Env { progress: &Silent, cancel: &NEVER, jobs: 3 }
}

fn home() -> (tempfile::TempDir, Store) {
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    let store = Store::new(&dir.path().join("forkd"), "a test");
    (dir, store)
}

fn page(memory: &[u8], i: usize) -> &[u8] {
    memory.chunks(PAGE_SIZE).nth(i).unwrap()
}

/// Changes runs of pages: to bytes, to zeros, or to what another page holds.
fn change(memory: &mut [u8], runs: usize, random: &mut dyn FnMut() -> u64) {
    let pages = memory.len() / PAGE_SIZE;
    for _ in 0..runs {
        let first = (random() % pages as u64) as usize;
        let count = (random() % 40 + 1) as usize;
        let end = (first + count).min(pages) * PAGE_SIZE;
        let run = &mut memory[first * PAGE_SIZE..end];
        match random() % 3 {
            0 => run.fill(0),
            1 => run.fill(random() as u8),
            _ => run
                .chunks_mut(PAGE_SIZE)
                .for_each(|page| page[random() as usize % PAGE_SIZE] ^= random() as u8),
        }
    }
}

/// Writes a memory as a machine leaves it: of the zero pages some are written out, some are holes.
fn write_memory(path: &Path, memory: &[u8], random: &mut dyn FnMut() -> u64) -> File {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    file.set_len(memory.len() as u64).unwrap();
    for (i, page) in memory.chunks(PAGE_SIZE).enumerate() {
        if !forkd_sys::is_zero(page) || random().is_multiple_of(4) {
            file.write_all_at(page, (i * PAGE_SIZE) as u64).unwrap();
        }
    }
    file
}

/// What a comparison page by page gives.
fn expected(before: &[u8], after: &[u8]) -> (u64, Vec<(u64, u64)>) {
    let (mut changed, mut zeroed) = (0, Vec::<(u64, u64)>::new());
    for i in (0..after.len() / PAGE_SIZE).filter(|i| page(before, *i) != page(after, *i)) {
        match (forkd_sys::is_zero(page(after, i)), zeroed.last_mut()) {
            (false, _) => changed += 1,
            (true, Some(last)) if last.0 + last.1 == i as u64 => last.1 += 1,
            (true, _) => zeroed.push((i as u64, 1)),
        }
    }
    (changed, zeroed)
}

fn put(
    store: &Store,
    tag: &str,
    parent: Option<(&str, Digest)>,
    zeros: &[(u64, u64)],
    memory: (u64, Digest),
) {
    let dir = store.dir(&tag.parse().unwrap());
    let mut json = serde_json::json!({
        "vmstate": "v", "memory": "m", "volumes": [],
        "frozen": { "memory": { "bytes": memory.0, "sha256": memory.1 } }, "zero_pages": zeros,
    });
    if let Some((tag, digest)) = parent {
        json["parent_tag"] = tag.into();
        json["parent_content_hash"] = digest.to_string().into();
    }
    fs::write(dir.join("snapshot.json"), json.to_string()).unwrap();
    fs::write(dir.join("vmstate"), "state").unwrap();
}

/// Makes a chain link by link, each from whole memories, and holds what is made against them.
fn check_chain(pages: usize, depth: usize, seed: u64) {
    let (root, store) = home();
    let mut random = pseudo_random(seed);
    let mut memory = vec![0; pages * PAGE_SIZE];
    change(&mut memory, pages / 30 + 1, &mut random);
    let mut parent: Option<(String, Digest)> = None;
    for i in 0..depth {
        let tag = format!("l{i}");
        let dir = store.dir(&tag.parse().unwrap());
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("memory.bin");
        let mut zeros = Vec::new();
        if let Some((above, _)) = &parent {
            let before = memory.clone();
            change(&mut memory, (random() % 8) as usize, &mut random);
            let full = write_memory(&root.path().join(format!("full{i}")), &memory, &mut random);
            let chain = store.chain(&above.parse().unwrap()).unwrap();
            let base = File::open(store.memory(&chain, env()).unwrap()).unwrap();
            let made = write_link(&base, &full, &path, &DiskIo::default(), env()).unwrap();
            let (changed, zeroed) = expected(&before, &memory);
            assert_eq!(made, LinkPages { changed, zeroed, sha256_full: Digest::of(&memory) });
            let link = fs::read(&path).unwrap();
            for i in 0..pages {
                let new = page(&memory, i);
                let held = if new == page(&before, i) { &[0; PAGE_SIZE][..] } else { new };
                assert!(page(&link, i) == held, "page {i} of the link");
            }
            zeros = made.zeroed;
        } else {
            write_memory(&path, &memory, &mut random);
        }
        let facts = (memory.len() as u64, Digest::of(&memory));
        put(&store, &tag, parent.as_ref().map(|(tag, digest)| (tag.as_str(), *digest)), &zeros, facts);
        let whole = store.memory(&store.chain(&tag.parse().unwrap()).unwrap(), env()).unwrap();
        assert!(fs::read(&whole).unwrap() == memory, "the memory at depth {i}");
        if i > 0 {
            let held = memory.chunks(PAGE_SIZE).filter(|page| !forkd_sys::is_zero(page)).count();
            // Filesystems count what they need to find the pages too.
            let most = ((held + 16) * PAGE_SIZE) as u64;
            assert!(whole.metadata().unwrap().blocks() * 512 <= most, "zeros are holes");
        }
        parent = Some((tag, Digest::of(&fs::read(&path).unwrap())));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn links_give_back_the_memory_that_they_were_made_from(pages in 1usize..700, depth in 1usize..=8, seed: u64) {
        check_chain(pages, depth, seed);
    }
}

#[test]
fn memories_of_two_sizes_are_no_chain() {
    let (root, _) = home();
    let path = |name: &str| root.path().join(name);
    let file = |name: &str, len| {
        let file = File::options().read(true).write(true).create_new(true).open(path(name)).unwrap();
        file.set_len(len).unwrap();
        file
    };
    let (a, b) = (file("a", 8192), file("b", 4096));
    let error = write_link(&a, &b, &path("out"), &DiskIo::default(), env()).unwrap_err();
    assert!(error.to_string().contains("4096 bytes; that of the chain parent has 8192"), "{error}");
    // What is a hole in both is neither read nor written.
    let (a, b) = (file("c", 64 << 30), file("d", 64 << 30));
    b.write_all_at(b"x", 33 << 30).unwrap();
    let cancel = Cancel::default();
    cancel.cancel();
    let stopped = Env { cancel: &cancel, ..env() };
    assert_eq!(
        write_link(&a, &b, &path("e"), &DiskIo::default(), stopped).unwrap_err().kind(),
        Kind::Interrupted
    );
    let (a, b) = (file("f", 64 << 20), file("g", 64 << 20));
    b.write_all_at(b"x", 33 << 20).unwrap();
    let made = write_link(&a, &b, &path("out2"), &DiskIo::default(), env()).unwrap();
    assert_eq!((made.changed, made.zeroed), (1, Vec::new()));
    assert!(path("out2").metadata().unwrap().blocks() <= 16);
}

#[test]
fn an_adopted_memory_is_found_and_its_file_is_as_that_of_a_flat_snapshot() {
    let (root, store) = home();
    let staging = store.stage(env()).unwrap();
    let put = |name: &str| -> PathBuf {
        let path = staging.path().join(name);
        fs::write(&path, "the memory").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        path
    };
    let digest = Digest::of(b"the memory");
    assert_eq!(store.cached(&digest, 10), None);
    let first = put("full");
    let path = adopt_assembled(&store, &first, &digest, env()).unwrap();
    assert_eq!(path, root.path().join(format!("forkd/assembled/{digest}.bin")));
    assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o644);
    assert!(!first.exists() && store.cached(&digest, 10).as_ref() == Some(&path));
    let second = put("again");
    assert_eq!(adopt_assembled(&store, &second, &digest, env()).unwrap(), path);
    assert!(second.exists(), "the first one stays");
    assert_eq!(store.cached(&digest, 11), None, "another size");
    fs::write(&path, "another.one").unwrap();
    assert_eq!(store.cached(&digest, 10), None, "altered");
    assert_eq!(adopt_assembled(&store, &second, &digest, env()).unwrap(), path);
    assert_eq!(fs::read_to_string(&path).unwrap(), "the memory");
    drop(staging);
    assert_eq!(store.gc(&Silent).unwrap(), 1, "no tag has it");
    assert!(!store.root().exists());
}

#[test]
fn who_comes_second_waits_and_finds_it() {
    let (root, store) = home();
    let (tags, memories) = forkd_testing::frozen_chain(root.path(), "c", 3, 3 << 20);
    let head: Tag = tags[2].parse().unwrap();
    let paths: Vec<PathBuf> = std::thread::scope(|scope| {
        let fork = || {
            let _lock = store.lock(&head, LockKind::Shared, env()).unwrap();
            store.memory(&store.chain(&head).unwrap(), env()).unwrap()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(fork)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(paths.iter().all(|path| *path == paths[0]));
    assert!(fs::read(&paths[0]).unwrap() == memories[2]);
    assert_eq!(fs::read_dir(store.root().join("assembled")).unwrap().count(), 2, "the memory and its note");
    assert!(!store.root().join("staging").exists() && !store.root().join("locks").exists());
}
