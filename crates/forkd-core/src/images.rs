use crate::error::Result;
use crate::store::root::Store;
use crate::store::stored::{StoredSnapshot, parent_of};
use forkd_format::Tag;
use forkd_format::manifest::MEMORY;
use serde::Serialize;
use std::path::PathBuf;
use std::time::SystemTime;

/// A snapshot as a list shows it.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotSummary {
    pub tag: Tag,
    #[serde(serialize_with = "crate::json::path")]
    pub path: PathBuf,
    /// Bytes that its files take on the disk.
    #[serde(rename = "size_bytes")]
    pub disk_size: u64,
    /// Guest memory in bytes.
    #[serde(rename = "memory_bytes")]
    pub memory: u64,
    /// When it came into the store.
    #[serde(rename = "created_at", serialize_with = "crate::json::point")]
    pub created: SystemTime,
    /// Whether it has a root disk.
    pub rootfs: bool,
    /// Its parent in a chain.
    pub parent: Option<Tag>,
    /// Links of its chain, itself included; `None` where an ancestor is missing.
    #[serde(rename = "chain_links")]
    pub depth: Option<usize>,
    /// For people.
    pub description: Option<String>,
}

/// Lists the store. Snapshots that cannot be read are passed over.
///
/// # Errors
/// [`crate::error::Error::Io`] where the store's folder cannot be read.
pub fn images(store: &Store) -> Result<Vec<SnapshotSummary>> {
    let tags = store.tags()?;
    Ok(tags.iter().filter_map(|tag| store.load(tag).ok()).map(|stored| image(store, stored)).collect())
}

fn image(store: &Store, stored: StoredSnapshot) -> SnapshotSummary {
    let memory = stored.dir.join(MEMORY).metadata();
    let disk_size = stored
        .bodies()
        .iter()
        .filter_map(|(_, path)| path.metadata().ok())
        .map(|m| forkd_sys::allocated(&m))
        .sum();
    SnapshotSummary {
        disk_size,
        memory: memory.as_ref().map_or(0, std::fs::Metadata::len),
        created: memory.and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH),
        rootfs: stored.rootfs().is_some_and(|path| path.exists()),
        parent: parent_of(Some(&stored)).ok().flatten(),
        depth: store.chain(&stored.tag).ok().map(|chain| chain.len()),
        description: stored.record.and_then(|record| record.description),
        path: stored.dir,
        tag: stored.tag,
    }
}
