use crate::arrival::note::{ArrivingSnapshot, arriving};
use crate::error::{Error, Result};
use crate::store::root::Store;
use crate::store::stored::{StoredSnapshot, parent_of};
use forkd_format::Tag;
use forkd_format::manifest::MEMORY;
use serde::Serialize;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::SystemTime;

/// What is in a store.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotList {
    /// By tag, those that are damaged among them.
    pub snapshots: Vec<SnapshotSummary>,
    /// Those of which not all is here yet.
    pub arriving: Vec<ArrivingSnapshot>,
    /// Bytes that all of them take on the disk; files that several share count once.
    #[serde(rename = "total_bytes")]
    pub total: u64,
}

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
    /// What can be seen to be wrong with it without reading its bytes.
    pub damage: Option<String>,
}

/// Lists the store.
///
/// # Errors
/// [`crate::error::Error::Io`] where the store's folder cannot be read.
pub fn images(store: &Store) -> Result<SnapshotList> {
    let (mut list, mut seen) =
        (SnapshotList { snapshots: Vec::new(), arriving: arriving(store), total: 0 }, HashSet::new());
    for tag in store.folders()? {
        let bodies = match store.load(&tag) {
            Ok(stored) => {
                let bodies = stored.bodies();
                list.snapshots.push(image(store, stored));
                bodies
            }
            Err(error) => {
                list.snapshots.push(unreadable(store, tag, &error));
                Vec::new()
            }
        };
        let found = bodies.iter().filter_map(|(_, path)| path.metadata().ok());
        let new = found.filter(|metadata| seen.insert((metadata.dev(), metadata.ino())));
        list.total += new.map(|metadata| forkd_sys::allocated(&metadata)).sum::<u64>();
    }
    Ok(list)
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
        damage: visible_damage(&stored),
        description: stored.record.and_then(|record| record.description),
        path: stored.dir,
        tag: stored.tag,
    }
}

/// Files that are missing or of another size than was recorded.
fn visible_damage(stored: &StoredSnapshot) -> Option<String> {
    stored.bodies().iter().find_map(|(name, path)| {
        let Ok(metadata) = path.metadata() else { return Some(format!("{name} is missing")) };
        let recorded = stored.record.as_ref().and_then(|record| record.file(name))?;
        let (size, len) = (recorded.size, metadata.len());
        (size != len).then(|| format!("{name} has {len} bytes; recorded were {size}"))
    })
}

/// One whose description cannot be read.
fn unreadable(store: &Store, tag: Tag, error: &Error) -> SnapshotSummary {
    let path = store.dir(&tag);
    let made = path.metadata().and_then(|metadata| metadata.modified());
    SnapshotSummary {
        disk_size: 0,
        memory: 0,
        created: made.unwrap_or(SystemTime::UNIX_EPOCH),
        rootfs: false,
        parent: None,
        depth: None,
        description: None,
        damage: Some(error.to_string()),
        path,
        tag,
    }
}
