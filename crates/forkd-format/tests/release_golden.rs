//! The documents of a small release, as forkd wrote them: read, and written again as they were.
#![allow(clippy::unwrap_used, reason = "a test")]

use forkd_format::Digest;
use forkd_format::manifest::IndexEntry;
use forkd_format::release::{ReleaseConfig, ReleaseIndex, ReleaseManifest};

const MANIFEST: &[u8] = include_bytes!("release/manifest.json");
const CONFIG: &[u8] = include_bytes!("release/config.json");
const INDEX: &[u8] = include_bytes!("release/index");

#[test]
fn documents_are_read_and_written_as_they_were() {
    let manifest = ReleaseManifest::parse(MANIFEST).unwrap();
    assert_eq!(manifest.to_bytes(), MANIFEST);
    assert_eq!(
        (manifest.config.digest, manifest.config.size, manifest.index.digest, manifest.index.size),
        (Digest::of(CONFIG), CONFIG.len() as u64, Digest::of(INDEX), INDEX.len() as u64)
    );
    let entry = IndexEntry { size: manifest.index.size, sha256: manifest.index.digest };
    let config = ReleaseConfig::parse(CONFIG, &entry).unwrap();
    assert_eq!(config.to_bytes(), CONFIG);
    assert_eq!(config.manifest.tag.as_str(), "s");
    let index = ReleaseIndex::parse(INDEX).unwrap();
    assert_eq!(index.to_bytes(), INDEX);
    let sizes: Vec<u64> = index.files.iter().map(|file| file.size).collect();
    assert_eq!(sizes, [20_480, 102, 3000, 100_000, 3 << 20]);
    // The working set: three pages of the memory, two of the disk.
    assert_eq!(
        index.files[0].map.iter().map(|run| (run.page, run.count)).collect::<Vec<_>>(),
        [(5, 3), (2, 2)]
    );
    assert_eq!(config.links[0].set, Some(0));
    let blobs: u64 = index.files.iter().flat_map(|file| &file.blobs).map(|blob| blob.len).sum();
    assert_eq!(blobs, manifest.blobs.iter().map(|blob| blob.size).sum::<u64>());
    assert_eq!(manifest.total(), blobs + CONFIG.len() as u64 + INDEX.len() as u64);
}
