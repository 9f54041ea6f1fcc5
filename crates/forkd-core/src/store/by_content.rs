//! What the store has already of files that come from elsewhere: by what they hold, whatever they are called.

use crate::env::Env;
use crate::error::Result;
use crate::pack::paged::page_source::PageSource;
use crate::store::record::{HashedFile, RecordedFile};
use crate::store::root::Store;
use crate::store::stored::StoredSnapshot;
use forkd_format::Tag;
use forkd_format::manifest::{Base, SNAPSHOT_JSON};
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// A file of a snapshot in the store that is as it was recorded.
pub(crate) struct LocalFile {
    pub(crate) tag: Tag,
    pub(crate) path: PathBuf,
    pub(crate) recorded: RecordedFile,
    stored: Arc<StoredSnapshot>,
    /// Opened when it is first wanted: a store may have more files than a process may have open.
    opened: OnceLock<Option<File>>,
}

/// All of them, snapshots in the order of their tags. What cannot be read is passed over: it may be fetched.
pub(crate) fn files(store: &Store) -> Result<Vec<LocalFile>> {
    let mut files = Vec::new();
    for tag in store.tags()? {
        let Ok(stored) = store.load(&tag).map(Arc::new) else { continue };
        let recorded = stored.record.iter().flat_map(|record| &record.files);
        for recorded in recorded.filter(|recorded| recorded.path != SNAPSHOT_JSON) {
            let path = stored.dir.join(&recorded.path);
            let metadata = path.symlink_metadata().ok().filter(Metadata::is_file);
            if metadata.is_some_and(|metadata| stored.untouched(&recorded.path, &metadata).is_some()) {
                let (tag, recorded) = (tag.clone(), recorded.clone());
                files.push(LocalFile {
                    tag,
                    path,
                    recorded,
                    stored: Arc::clone(&stored),
                    opened: OnceLock::new(),
                });
            }
        }
    }
    Ok(files)
}

impl LocalFile {
    /// The file, where it is still there and as it was recorded.
    pub(crate) fn open(&self) -> Option<&File> {
        let open = || {
            let file = self.stored.open(&self.path).ok()?;
            self.stored.untouched(&self.recorded.path, &file.metadata().ok()?)?;
            Some(file)
        };
        self.opened.get_or_init(open).as_ref()
    }

    /// Whether it is a base file: by its size and a digest that was checked, never by its name.
    fn is(&self, base: &Base) -> bool {
        let known = self.recorded.root == Some(base.root)
            || (!self.recorded.declared && self.recorded.sha256 == base.sha256);
        known && self.recorded.size == base.size
    }

    /// The same file as one that frames may refer to.
    pub(crate) fn as_source(&self) -> Option<PageSource> {
        let file = self.open()?.try_clone().ok()?;
        Some(PageSource::file(file, self.path.clone(), self.recorded.size))
    }
}

/// The file of the store that a base is, where it has one.
pub(crate) fn find_base<'f>(files: &'f [LocalFile], base: &Base) -> Option<&'f LocalFile> {
    files.iter().find(|file| file.is(base))
}

/// The same among snapshots that have no record, as other tools leave them: files of the right size are read.
pub(crate) fn find_unrecorded(store: &Store, base: &Base, env: Env<'_>) -> Result<Option<PageSource>> {
    for tag in store.tags()? {
        let Ok(stored) = store.load(&tag) else { continue };
        if stored.record.is_some() {
            continue;
        }
        for (_, path) in stored.bodies() {
            let Some(file) =
                stored.open(&path).ok().filter(|_| path.metadata().is_ok_and(|m| m.len() == base.size))
            else {
                continue;
            };
            if HashedFile::read(&path, &mut |_| env.cancel.check())?.root == base.root {
                return Ok(Some(PageSource::file(file, path, base.size)));
            }
        }
    }
    Ok(None)
}

/// MiB blocks of the store's files by their checksums.
pub(crate) struct LocalBlocks(HashMap<u64, Vec<(usize, u64)>>);

impl LocalBlocks {
    /// Places that are kept for one checksum: any of them will do.
    const MOST: usize = 4;

    pub(crate) fn of(files: &[LocalFile]) -> Self {
        let mut blocks: HashMap<u64, Vec<(usize, u64)>> = HashMap::new();
        for (index, file) in files.iter().enumerate() {
            for (block, digits) in file.recorded.blocks.as_bytes().chunks_exact(16).enumerate() {
                let sum =
                    std::str::from_utf8(digits).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
                let Some(sum) = sum.filter(|sum| *sum != 0) else { continue };
                let places = blocks.entry(sum).or_default();
                if places.len() < Self::MOST {
                    places.push((index, block as u64));
                }
            }
        }
        Self(blocks)
    }

    /// Files, and the numbers of their blocks, that may hold what has this checksum.
    pub(crate) fn places(&self, sum: u64) -> &[(usize, u64)] {
        self.0.get(&sum).map_or(&[], Vec::as_slice)
    }
}
