//! The files of a pack, and the links of a chain that they belong to.

use crate::digest::Digest;
use crate::paged::FileRoot;
use crate::tag::Tag;
use serde::{Deserialize, Serialize};

/// The name of the manifest inside a pack; always the first entry.
pub const MANIFEST: &str = "manifest.toml";
/// What the snapshot is, for those who restore it (`docs/format/snapshot.md`).
pub const SNAPSHOT_JSON: &str = "snapshot.json";
/// The state of the machine's processor and devices, as the engine writes it.
pub const VMSTATE: &str = "vmstate";
/// The guest's root disk as it was at the freeze, an ext4 image.
pub const ROOTFS: &str = "rootfs.ext4";
/// The guest's memory, byte for byte; of a chain's later links only the pages that differ from the parent.
pub const MEMORY: &str = "memory.bin";
/// The files of one link in the order in which a pack holds them; only the root disk may be absent.
pub const FILE_ORDER: [&str; 4] = [SNAPSHOT_JSON, VMSTATE, ROOTFS, MEMORY];

/// The largest manifest that is read, in bytes.
pub const MAX_MANIFEST: u64 = 1 << 20;
/// The longest chain that is read, in links.
pub const MAX_CHAIN: usize = 256;
/// The most that a pack may declare to unpack to, in bytes.
pub const MAX_UNPACKED: u64 = 256 << 30;

/// One file of a link: `[[files]]` or `[[chain.files]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// One of [`FILE_ORDER`].
    pub path: String,
    /// Bytes of the whole file, holes included.
    pub size: u64,
    /// Of the whole file, holes included.
    pub sha256: Digest,
    /// What its frames make (version 3 only, where every file has one). There it is what is checked when the file is unpacked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<FileRoot>,
}

/// One snapshot of a chain: `[[chain]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Unique in its pack, upper and lower case alike.
    pub tag: Tag,
    /// The tag of the link before it; none for the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_tag: Option<Tag>,
    /// SHA-256 of the parent's `memory.bin`; none for the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_content_hash: Option<Digest>,
    /// In the order of [`FILE_ORDER`] where forkd wrote them; readers take any.
    pub files: Vec<FileEntry>,
}

impl Link {
    /// The entry of the file with this name, where the link has one.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&FileEntry> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The digest of the memory image, which names the link to its children. Every parsed link has one.
    #[must_use]
    pub fn memory(&self) -> Option<Digest> {
        self.file(MEMORY).map(|file| file.sha256)
    }
}

/// A root disk that lies beside the pack, as 0.5.3 hosts write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootfsSidecar {
    /// Where the packing host had the image. Never used as a path.
    pub target_path: String,
    /// Of the image as it is once decompressed.
    pub sha256: Digest,
    /// Size of the uncompressed image, in bytes.
    pub size: u64,
}

impl RootfsSidecar {
    /// The file beside the pack that holds the image.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}.rootfs.zst", &self.sha256.to_string()[..16])
    }
}

/// Where a pack's index ends, and what it is (version 3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// Its size in bytes, padding not counted.
    pub size: u64,
    /// Of these bytes: it makes the manifest's digest stand for every frame.
    pub sha256: Digest,
}
