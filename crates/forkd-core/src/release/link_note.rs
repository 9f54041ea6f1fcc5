//! In which blobs the files of a snapshot lie, noted so that they need not be made again to be named.

use crate::cache::entry::CacheSlot;
use crate::cache::folder::{Cache, CacheKind};
use crate::env::Env;
use crate::error::Result;
use forkd_format::Digest;
use forkd_format::manifest::{Base, FileEntry};
use forkd_format::release::{PagedFile, ReleaseIndex};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::FileExt;

/// The largest note that is read, in bytes.
const MOST: u64 = 256 << 20;

/// A snapshot's files as blobs.
#[derive(Debug, Clone)]
pub(crate) struct LinkNote {
    /// In the order of a pack; the description as it is in one.
    pub(crate) entries: Vec<FileEntry>,
    pub(crate) files: Vec<PagedFile>,
    pub(crate) set: Option<PagedFile>,
    /// What its blobs refer to, directly or not, that is of no ancestor, in order.
    pub(crate) bases: Vec<NoteBase>,
}

/// A file of a snapshot that is no ancestor, or its working set.
#[derive(Debug, Clone)]
pub(crate) struct NoteBase {
    pub(crate) base: Option<Base>,
    pub(crate) file: PagedFile,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    entries: Vec<FileEntry>,
    has_set: bool,
    bases: Vec<Option<Base>>,
}

impl LinkNote {
    /// All its files, and those of bases.
    pub(crate) fn all(&self) -> impl Iterator<Item = &PagedFile> {
        self.bases.iter().map(|base| &base.file).chain(&self.set).chain(&self.files)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let wire = Wire {
            entries: self.entries.clone(),
            has_set: self.set.is_some(),
            bases: self.bases.iter().map(|base| base.base.clone()).collect(),
        };
        let mut bytes = serde_json::to_vec(&wire).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend(ReleaseIndex { files: self.all().cloned().collect() }.to_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let wire: Wire = serde_json::from_slice(&bytes[..end]).ok()?;
        let mut files = ReleaseIndex::parse(&bytes[end + 1..]).ok()?.files.into_iter();
        let mut bases = Vec::new();
        for base in wire.bases {
            bases.push(NoteBase { base, file: files.next()? });
        }
        let set = if wire.has_set { Some(files.next()?) } else { None };
        let files: Vec<PagedFile> = files.collect();
        let same = |(entry, file): (&FileEntry, &PagedFile)| {
            entry.root == Some(file.root) && entry.size == file.size
        };
        let fits = files.len() == wire.entries.len() && wire.entries.iter().zip(&files).all(same);
        fits.then_some(Self { entries: wire.entries, files, set, bases })
    }

    /// What was noted under a key. What cannot be read counts as nothing: it is made again.
    pub(crate) fn load(cache: &Cache, key: &Digest) -> Option<Self> {
        let entry = cache.find(CacheKind::Release, key).ok()??;
        let len = entry.len().min(MOST) as usize;
        let mut bytes = vec![0; len];
        entry.file().read_exact_at(&mut bytes, 0).ok()?;
        Self::parse(&bytes)
    }

    /// Notes it. What was noted before under the key is replaced.
    pub(crate) fn save(&self, cache: &Cache, key: &Digest, env: Env<'_>) -> Result<()> {
        let mut slot = cache.find_or_create(CacheKind::Release, key, env)?;
        if let CacheSlot::Found(entry) = &slot {
            entry.discard()?;
            drop(slot);
            slot = cache.find_or_create(CacheKind::Release, key, env)?;
        }
        if let CacheSlot::Free(mut writer) = slot {
            writer.restart()?;
            writer.write_at(&self.to_bytes(), 0)?;
            writer.commit()?;
        }
        Ok(())
    }
}
