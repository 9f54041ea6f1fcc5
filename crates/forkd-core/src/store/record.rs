//! `forkd.json`: what forkd knew of a snapshot's files when it put them there.

use crate::digest::block_sums::BlockSums;
use crate::digest::file_root::TreeBuilder;
use crate::error::{Error, Kind, Result};
use forkd_format::paged::FileRoot;
use forkd_format::{Digest, Hasher, PAGE_SIZE, PIECE_SIZE, PackId, Tag};
use serde::{Deserialize, Serialize};
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// `forkd.json` beside a snapshot's files: what forkd knew when it put them there (`docs/format/store.md`).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Record {
    /// 1.
    pub record_version: u32,
    /// The files, with their digests.
    pub files: Vec<RecordedFile>,
    /// Digest of `snapshot.json` as it was in the pack, before its paths were rewritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed_snapshot_json: Option<Digest>,
    /// The pack that it came in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Provenance>,
    /// As in the pack's manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// As in the pack's manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_image: Option<String>,
    /// When it was made: the pack's time, or that of the bake. RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

/// The pack that a snapshot came in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Provenance {
    /// Its redacted URL, reference or file name.
    pub name: String,
    /// The tag that the pack gives its head.
    pub head: Option<Tag>,
    /// What names it, where that was computed from its bytes.
    #[serde(flatten)]
    pub id: Option<PackId>,
}

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFile {
    /// Its name in the folder.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of the whole file.
    pub sha256: Digest,
    /// What the file's 1 MiB frames make (`docs/format/pack-v3.md`), where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<FileRoot>,
    /// Whether the SHA-256 is what a pack declared and nobody computed: then it was the root that was checked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub declared: bool,
    /// When it was last written, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// XXH3-64 of each MiB, 16 hexadecimal digits each; 0 for a MiB of zeros. Finds damage, proves nothing.
    pub blocks: String,
}

impl Record {
    pub(crate) const NAME: &str = "forkd.json";

    /// Reads a folder's record; `None` where there is none.
    pub(crate) fn load(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(Self::NAME);
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let wrong = |message: String| Error::new(Kind::Integrity, format!("{}: {message}", path.display()));
        let record: Self = serde_json::from_slice(&crate::store::small_file::read_small(&path, 64 << 20)?)
            .map_err(|e| wrong(e.to_string()))?;
        match record.record_version {
            1 => Ok(Some(record)),
            other => Err(wrong(format!("record_version is {other}; this forkd reads 1"))),
        }
    }

    /// The entry of one file.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&RecordedFile> {
        self.files.iter().find(|file| file.path == path)
    }
}

pub(crate) fn modified_ns(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

/// A file that was read from one end to the other.
#[derive(Clone)]
pub(crate) struct HashedFile {
    pub(crate) sha256: Digest,
    pub(crate) root: FileRoot,
    pub(crate) size: u64,
    pub(crate) blocks: String,
    pub(crate) mtime_ns: i64,
}

impl HashedFile {
    /// Reads a file; holes are hashed but not read. `advance` is told the bytes and may stop it.
    pub(crate) fn read(path: &Path, advance: &mut dyn FnMut(u64) -> Result<()>) -> Result<Self> {
        let failed = || Error::io("read", path);
        if !path.metadata().map_err(failed())?.is_file() {
            return Err(Error::new(Kind::Integrity, format!("{} is not a regular file", path.display())));
        }
        let file = File::open(path).map_err(failed())?;
        let metadata = file.metadata().map_err(failed())?;
        let size = metadata.len();
        let (mut hasher, mut sums, mut tree) =
            (Hasher::default(), BlockSums::default(), TreeBuilder::default());
        let mut buffer = vec![0; PIECE_SIZE / 4];
        let mut at = 0;
        while at < size {
            let data = forkd_sys::next_data(&file, at).map_err(failed())?.unwrap_or(size).min(size);
            let hole = (data - at) / PAGE_SIZE as u64 * PAGE_SIZE as u64;
            if data == size || hole > 0 {
                let hole = if data == size { size - at } else { hole };
                hasher.update_zeros(hole);
                sums.update_zeros(hole);
                tree.update_zeros(hole);
                at += hole;
                advance(hole)?;
                continue;
            }
            let end = forkd_sys::next_hole(&file, data.max(at)).map_err(failed())?.clamp(at + 1, size);
            let step = (end - at).min(buffer.len() as u64) as usize;
            file.read_exact_at(&mut buffer[..step], at).map_err(failed())?;
            hasher.update(&buffer[..step]);
            sums.update(&buffer[..step]);
            tree.update(&buffer[..step]);
            at += step as u64;
            advance(step as u64)?;
        }
        let (sha256, root, blocks) = (hasher.finish(), tree.finish(), sums.finish());
        Ok(Self { sha256, root, size, blocks, mtime_ns: modified_ns(&metadata) })
    }

    /// Whether it is what was recorded: by the digest that was checked then.
    pub(crate) fn is(&self, recorded: &RecordedFile) -> bool {
        let same = match recorded.root.filter(|_| recorded.declared) {
            Some(root) => root == self.root,
            None => recorded.sha256 == self.sha256,
        };
        same && recorded.size == self.size
    }

    /// The same for bytes in memory.
    pub(crate) fn of(bytes: &[u8], mtime_ns: i64) -> Self {
        let mut sums = BlockSums::default();
        sums.update(bytes);
        let mut tree = TreeBuilder::default();
        tree.update(bytes);
        let (sha256, root, blocks) = (Digest::of(bytes), tree.finish(), sums.finish());
        Self { sha256, root, size: bytes.len() as u64, blocks, mtime_ns }
    }

    pub(crate) fn recorded(self, path: &str) -> RecordedFile {
        let Self { sha256, root, size, blocks, mtime_ns } = self;
        RecordedFile {
            path: path.to_owned(),
            size,
            sha256,
            root: Some(root),
            declared: false,
            mtime_ns,
            blocks,
        }
    }
}
