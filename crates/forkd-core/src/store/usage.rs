//! What lies on the disk.

use crate::cache::folder::{Cache, CacheKind};
use crate::error::{Error, Result};
use crate::store::root::Store;
use serde::Serialize;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Files of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Used {
    pub count: u64,
    /// What they take on the disk, in bytes; what several share counts once.
    pub bytes: u64,
    /// Of these, what can be deleted and made or fetched again.
    #[serde(rename = "reclaimable_bytes")]
    pub reclaimable: u64,
}

/// What forkd has on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Snapshots in the store.
    pub snapshots: Used,
    /// Memories of chains, put together.
    pub assembled: Used,
    /// Layers, manifests and configurations of images, and notes on which blobs snapshots are.
    pub images: Used,
    /// Root disks made of images and packages.
    pub disks: Used,
    pub kernels: Used,
    /// What interrupted runs left: downloads to go on with, and what `gc` deletes.
    pub partial: Used,
}

/// Looks at all of it.
///
/// # Errors
/// [`Error::Io`] where a folder cannot be read.
pub fn usage(store: &Store, cache: &Cache) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    usage.snapshots.count = store.folders()?.len() as u64;
    usage.snapshots.bytes = weigh(&store.snapshots(), &mut seen)?.bytes;
    usage.assembled = weigh(&store.root().join("assembled"), &mut seen)?;
    usage.assembled.reclaimable = usage.assembled.bytes;
    for dir in [store.root().join("staging"), store.partial_dir()] {
        let left = weigh(&dir, &mut seen)?;
        usage.partial.count += left.count;
        usage.partial.bytes += left.bytes;
    }
    usage.partial.reclaimable = usage.partial.bytes;
    for info in cache.list()? {
        let used = match info.kind {
            _ if info.partial => &mut usage.partial,
            CacheKind::Blob | CacheKind::Release => &mut usage.images,
            CacheKind::Rootfs => &mut usage.disks,
        };
        used.count += 1;
        used.bytes += info.bytes_on_disk;
        used.reclaimable += if info.in_use { 0 } else { info.bytes_on_disk };
    }
    usage.kernels = weigh(&cache.root().join("kernels"), &mut seen)?;
    usage.kernels.count =
        fs::read_dir(cache.root().join("kernels")).map_or(0, |all| all.flatten().count() as u64);
    Ok(usage)
}

/// Counts regular files below a folder, and what they take; none where there is no such folder.
fn weigh(dir: &Path, seen: &mut HashSet<(u64, u64)>) -> Result<Used> {
    let mut used = Used::default();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        let entries = match fs::read_dir(&dir) {
            // Others may be taking it away.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(Error::io("read", &dir))?,
        };
        for entry in entries.flatten() {
            let Ok(found) = entry.path().symlink_metadata() else { continue };
            if found.is_dir() {
                todo.push(entry.path());
            } else if seen.insert((found.dev(), found.ino())) {
                used.count += 1;
                used.bytes += found.blocks() * 512;
            }
        }
    }
    Ok(used)
}
