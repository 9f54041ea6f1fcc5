//! The files of a frozen machine become a snapshot.

use crate::env::Env;
use crate::error::{Error, Result};
use crate::store::record::{HashedFile, Record};
use crate::store::staged::{RootfsPath, SealedSnapshot, StagedSnapshot, complete};
use forkd_format::manifest::{MEMORY, ROOTFS, VMSTATE};
use forkd_format::{Digest, Snapshot, Tag};
use forkd_sys::DiskIo;
use serde_json::{Map, Value, json};
use std::fs::File;

/// What ties a link to its parent.
pub(crate) struct ParentEdge {
    pub(crate) parent: Tag,
    /// SHA-256 of the parent's `memory.bin`.
    pub(crate) parent_content_hash: Digest,
    /// SHA-256 of the memory that the chain up to the link assembles to.
    pub(crate) memory: Digest,
    pub(crate) memory_bytes: u64,
    /// Runs of pages that are zero and the parent's are not: first page, count.
    pub(crate) zero_pages: Vec<(u64, u64)>,
}

/// Describes and seals memory, device state and root disk that a machine has left in a staged folder.
pub(crate) fn seal_frozen(
    staged: StagedSnapshot,
    base: &Snapshot,
    edge: Option<&ParentEdge>,
    created_at: &str,
    (disk, env): (&DiskIo, Env<'_>),
) -> Result<SealedSnapshot> {
    let mut record =
        Record { record_version: 1, created_at: Some(created_at.to_owned()), ..Record::default() };
    let (mut snapshot, mut frozen) = (base.clone(), Map::new());
    for (key, name) in [("memory", MEMORY), ("vmstate", VMSTATE), ("rootfs", ROOTFS)] {
        let path = staged.dir().join(name);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        complete(disk, &file, &path)?;
        let hashed = HashedFile::read(&path, &mut |_| env.cancel.check())?;
        frozen.insert(key.into(), json!({ "bytes": hashed.size, "sha256": hashed.sha256.to_string() }));
        record.files.push(hashed.recorded(name));
    }
    if let Some(edge) = edge {
        let memory = json!({ "bytes": edge.memory_bytes, "sha256": edge.memory.to_string() });
        frozen.insert("memory".into(), memory);
        snapshot = snapshot
            .with("parent_tag", Some(json!(edge.parent.as_str())))
            .with("parent_content_hash", Some(json!(edge.parent_content_hash.to_string())));
        if !edge.zero_pages.is_empty() {
            snapshot = snapshot.with("zero_pages", Some(json!(edge.zero_pages)));
        }
    }
    let snapshot = snapshot.with("frozen", Some(Value::Object(frozen)));
    staged.seal(&snapshot, RootfsPath::Unnamed, Some(record))
}
