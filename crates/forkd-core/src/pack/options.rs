use crate::store::root::Store;
use forkd_format::manifest::Base;
use forkd_format::{PackFormat, PackId, Tag};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// How to pack.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// The snapshot; with it go its ancestors.
    pub tag: Tag,
    /// For people; where none is given, what the snapshot came with.
    pub description: Option<String>,
    /// The container image behind the rootfs; where none is given, what the snapshot came with.
    pub base_image: Option<String>,
    /// zstd's level, 1 to 22.
    pub level: i32,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Where none is named, that which 0.5.x hosts read: the one for a single snapshot or for a chain.
    pub format: Option<PackFormat>,
    /// How deep frames may need each other (paged packs only); 0: each stands by itself.
    pub depth: u8,
    /// Snapshots whose files frames may refer to, each in the store that holds it (paged packs only).
    pub bases: Vec<(Store, Tag)>,
    /// The guest's uncompressed kernel, and its release, that frames may refer to (paged packs only).
    pub kernel: Option<(String, PathBuf)>,
}

impl PackOptions {
    /// The depth that costs little in bytes and leaves few frames to be fetched for one (`docs/format/pack-v3.md`).
    pub const DEPTH: u8 = 24;
}

/// What was packed.
#[derive(Debug, Clone, Serialize)]
pub struct PackReport {
    /// The head of the chain.
    pub tag: Tag,
    #[serde(serialize_with = "crate::json::path")]
    pub path: PathBuf,
    /// What names it.
    #[serde(flatten)]
    pub id: PackId,
    /// Its size in bytes.
    #[serde(rename = "size_bytes")]
    pub size: u64,
    /// Bytes before the first frame of a paged pack.
    #[serde(rename = "head_bytes", skip_serializing_if = "Option::is_none")]
    pub header_bytes: Option<u64>,
    /// The size of what is in it, in bytes.
    #[serde(rename = "unpacked_bytes")]
    pub unpacked_size: u64,
    /// Links of the chain; 1 for a base.
    pub links: usize,
    /// The pack's format.
    pub format: PackFormat,
    /// Files that it refers to and does not hold.
    pub bases: Vec<Base>,
    #[serde(rename = "seconds", serialize_with = "crate::json::seconds")]
    pub time: Duration,
}
