//! Snapshots to test with: small made-up ones, and the real ones of the fixtures folder.

use crate::random::pseudo_random;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What a made-up snapshot is to be like.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// The name of its folder in the store.
    pub tag: String,
    /// What its bytes are drawn from: the same seed makes the same bytes.
    pub seed: u64,
    /// Size of `memory.bin` in bytes; about a quarter of its pages hold something.
    pub memory: u64,
    /// Bytes of the root disk; none without.
    pub rootfs: Option<u64>,
    /// Parent's tag and the digest of its memory.
    pub parent: Option<(String, String)>,
}

/// Writes a made-up snapshot into a store's folder, as an existing host would have: no record, absolute paths.
pub fn fixture(data_home: &Path, fixture: &Fixture) -> PathBuf {
    let dir = data_home.join("forkd/snapshots").join(&fixture.tag);
    fs::create_dir_all(&dir).unwrap();
    let mut random = pseudo_random(fixture.seed);
    let vmstate: Vec<u8> = (0..5000).map(|_| (random() % 7) as u8).collect();
    fs::write(dir.join("vmstate"), vmstate).unwrap();
    // About a quarter of the pages hold something; the rest are holes, or zeros that are written out.
    let mut body = |name: &str, size: u64| {
        let file = File::create(dir.join(name)).unwrap();
        file.set_len(size).unwrap();
        for offset in (0..size).step_by(4096) {
            let len = (size - offset).min(4096) as usize;
            match random() % 8 {
                0 => {
                    let page: Vec<u8> = (0..len).map(|_| random() as u8).collect();
                    file.write_all_at(&page, offset).unwrap();
                }
                1 => {
                    let page: Vec<u8> = b"warm python heap ".iter().copied().cycle().take(len).collect();
                    file.write_all_at(&page, offset).unwrap();
                }
                2 => file.write_all_at(&vec![0; len], offset).unwrap(),
                _ => {}
            }
        }
    };
    body("memory.bin", fixture.memory);
    if let Some(size) = fixture.rootfs {
        body("rootfs.ext4", size);
    }
    let parent = fixture.parent.as_ref().map_or_else(String::new, |(tag, hash)| {
        format!(r#","parent_tag":"{tag}","parent_content_hash":"{hash}""#)
    });
    let at = dir.display();
    let json = format!(
        r#"{{"vmstate":"{at}/vmstate","memory":"{at}/memory.bin","volumes":[],"x_unknown":[1,"two"]{parent}}}"#
    );
    fs::write(dir.join("snapshot.json"), json).unwrap();
    dir
}

/// Writes a made-up chain, root first; gives the tags.
pub fn chain(data_home: &Path, prefix: &str, depth: usize, memory: u64) -> Vec<String> {
    let mut parent = None;
    (0..depth)
        .map(|i| {
            let tag = format!("{prefix}{i}");
            let rootfs = (i == 0).then_some(100_000);
            let seed = i as u64 + 1;
            let dir = fixture(
                data_home,
                &Fixture { tag: tag.clone(), seed, memory, rootfs, parent: parent.take() },
            );
            parent = Some((tag.clone(), sha256(&dir.join("memory.bin"))));
            tag
        })
        .collect()
}

/// Writes a made-up chain as forkd bakes one, root first: links hold the pages that changed, say which became zero, and what
/// they were frozen with. Gives the tags, and the whole memory of each.
pub fn frozen_chain(
    data_home: &Path,
    prefix: &str,
    depth: usize,
    memory: u64,
) -> (Vec<String>, Vec<Vec<u8>>) {
    let (mut tags, mut memories): (Vec<String>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    let mut parent = None;
    for i in 0..depth {
        let tag = format!("{prefix}{i}");
        let made = Fixture {
            tag: tag.clone(),
            seed: i as u64 + 1,
            memory,
            rootfs: Some(100_000),
            parent: parent.take(),
        };
        let dir = fixture(data_home, &made);
        let path = dir.join("memory.bin");
        let mut zeroed = Vec::new();
        let whole = match memories.last() {
            None => fs::read(&path).unwrap(),
            Some(before) => {
                let mut whole = before.clone();
                let file = File::create(&path).unwrap();
                file.set_len(memory).unwrap();
                let mut random = pseudo_random(100 + i as u64);
                for (n, page) in whole.chunks_mut(4096).enumerate() {
                    let offset = n as u64 * 4096;
                    match random() % 8 {
                        0 => {
                            page.fill_with(|| random() as u8 | 1);
                            file.write_all_at(page, offset).unwrap();
                        }
                        1 if page.iter().any(|byte| *byte != 0) => {
                            page.fill(0);
                            zeroed.push(n as u64);
                        }
                        // Zeros that are written out change nothing.
                        2 => file.write_all_at(&vec![0; page.len()], offset).unwrap(),
                        _ => {}
                    }
                }
                whole
            }
        };
        let runs: Vec<String> =
            zeroed.chunk_by(|a, b| a + 1 == *b).map(|run| format!("[{},{}]", run[0], run.len())).collect();
        let facts = |sha256: String, bytes: u64| format!(r#"{{"bytes":{bytes},"sha256":"{sha256}"}}"#);
        let frozen = ["vmstate", "rootfs.ext4"].map(|name| {
            let path = dir.join(name);
            facts(sha256(&path), path.metadata().unwrap().len())
        });
        let json = fs::read_to_string(dir.join("snapshot.json")).unwrap();
        let engine =
            r#"{"name":"qemu","version":"7.2.22","machine":"pc-q35-7.2","accel":"tcg","cpu":"Nehalem-v1"}"#;
        let json = format!(
            r#"{},"engine":{engine},"frozen":{{"memory":{},"vmstate":{},"rootfs":{}}},"zero_pages":[{}]}}"#,
            json.trim_end_matches('}'),
            facts(hex(&whole), memory),
            frozen[0],
            frozen[1],
            runs.join(",")
        );
        fs::write(dir.join("snapshot.json"), json).unwrap();
        parent = Some((tag.clone(), sha256(&path)));
        tags.push(tag);
        memories.push(whole);
    }
    (tags, memories)
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest of a file, lower-case hexadecimal.
#[must_use]
pub fn sha256(path: &Path) -> String {
    hex(&fs::read(path).unwrap())
}

/// Every entry below a folder with its mode and, for files, its digest: two equal trees are the same.
#[must_use]
pub fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let mode = metadata.permissions().mode();
            let content = if metadata.is_file() { sha256(&path) } else { String::new() };
            if metadata.is_dir() {
                pending.push(path.clone());
            }
            found.insert(path.strip_prefix(root).unwrap().to_owned(), format!("{mode:o} {content}"));
        }
    }
    found
}

/// The folder of real fixtures, from `FORKD_FIXTURES`; none where it is not set.
#[must_use]
pub fn fixtures_dir() -> Option<PathBuf> {
    std::env::var_os("FORKD_FIXTURES").map(PathBuf::from).filter(|dir| dir.join("forkd-0.5.3").is_dir())
}
