//! Files that the frames of a pack refer to and that are not in it (`docs/format/pack-v3.md`).

use crate::digest::Digest;
use crate::paged::FileRoot;
use serde::{Deserialize, Deserializer, Serialize};

/// The longest name of a base, in bytes.
const MAX_LABEL: usize = 128;

/// Where a base file is looked for (`[[bases]] kind` in `docs/format/pack-v3.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseKind {
    /// In a snapshot of the store.
    Snapshot,
    /// In the cache of kernels, or beside the pack: a guest's kernel, uncompressed.
    Kernel,
}

/// A file that is not in the pack and that its frames refer to (version 3). What it is called proves nothing: it is known by its
/// size and by either of its digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Where it is looked for.
    pub kind: BaseKind,
    /// The snapshot's tag, or the kernel's release; for people.
    #[serde(deserialize_with = "label")]
    pub name: String,
    /// Its name in the snapshot, or `vmlinux`; for people.
    #[serde(deserialize_with = "label")]
    pub path: String,
    /// Bytes of the whole file.
    pub size: u64,
    /// By which a whole file is recognised.
    pub sha256: Digest,
    /// By which a file is recognised frame by frame.
    pub root: FileRoot,
    /// Pages of it that frames copy.
    pub copied_pages: u64,
    /// Pages of it that frames are compressed with.
    pub similar_pages: u64,
}

impl Base {
    /// Whether no frame refers to it: then it need not be there.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.copied_pages == 0 && self.similar_pages == 0
    }

    /// The file beside the pack that holds a kernel, compressed with zstd.
    #[must_use]
    pub fn file_name(&self) -> String {
        kernel_file_name(&self.sha256)
    }
}

/// What stands in messages as it is: one line, and short.
fn label<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() > MAX_LABEL || text.contains(char::is_control) {
        let message = format!("a base's name or path: expected at most {MAX_LABEL} bytes on one line");
        return Err(serde::de::Error::custom(message));
    }
    Ok(text)
}

/// The file beside a pack that holds the kernel with this SHA-256, compressed with zstd.
#[must_use]
pub fn kernel_file_name(sha256: &Digest) -> String {
    format!("{}.vmlinux.zst", &sha256.to_string()[..16])
}
