//! A file of the cache that is held, and one that is being made.

use crate::error::{Error, Result};
use forkd_sys::{DiskIo, LockKind, try_lock};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A whole file of the cache. For as long as this lives, [`crate::cache::Cache::trim`] and [`crate::cache::Cache::clear`] leave the file alone.
#[derive(Debug)]
pub struct CacheEntry {
    pub(crate) disk: DiskIo,
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) len: u64,
}

/// A file that is being made, locked for its writer. Dropped without [`CacheWriter::commit`], what is there stays for another
/// to go on with.
#[derive(Debug)]
pub struct CacheWriter {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) len: u64,
    pub(crate) disk: DiskIo,
}

/// A file of the cache, or the right to make it.
#[derive(Debug)]
pub enum CacheSlot {
    Found(CacheEntry),
    /// It is to be made.
    Free(CacheWriter),
}

impl CacheEntry {
    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for reading at offsets: others may share its position.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its length.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes away the name of a file that turned out to be damaged, so that it is made again.
    ///
    /// # Errors
    /// Where the filesystem says no.
    pub fn discard(&self) -> Result<()> {
        if !is_named(&self.path, &self.file) {
            return Ok(());
        }
        self.disk.remove_file(&self.path).map_err(Error::io("remove", &self.path))
    }
}

impl CacheWriter {
    /// The file, open for reading and writing.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it lies until it is whole.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes an earlier writer left.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is there yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes at an offset.
    ///
    /// # Errors
    /// Where the filesystem says no; [`crate::error::Kind::NoSpace`] on a full disk.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.disk.write_at(&self.file, &self.path, bytes, offset).map_err(Error::io("write", &self.path))
    }

    /// Takes over the bytes of another file, holes as holes.
    ///
    /// # Errors
    /// Where the filesystem says no.
    pub fn copy_from(&self, entry: &CacheEntry) -> Result<()> {
        forkd_sys::copy_sparse(&entry.file, &self.file).map_err(Error::io("copy to", &self.path))
    }

    /// Drops what is there.
    ///
    /// # Errors
    /// Where the filesystem says no.
    pub fn restart(&mut self) -> Result<()> {
        self.len = 0;
        self.disk.set_len(&self.file, &self.path, 0).map_err(Error::io("empty", &self.path))
    }

    /// Syncs the file and gives it its name.
    ///
    /// # Errors
    /// Where the filesystem says no; nothing is visible then.
    pub fn commit(self) -> Result<CacheEntry> {
        self.disk.sync_file(&self.file, &self.path).map_err(Error::io("sync", &self.path))?;
        let dir = self.target.parent().unwrap_or(&self.target).to_owned();
        // Others are kept from deleting while the writer's lock becomes a reader's, which the kernel does in two steps.
        let _steady = lock_folder(&dir, LockKind::Shared)?;
        self.disk.replace(&self.path, &self.target).map_err(Error::io("create", &self.target))?;
        let file = self.file.try_clone().map_err(Error::io("open", &self.target))?;
        if !try_lock(&file, LockKind::Shared).map_err(Error::io("lock", &self.target))? {
            return Err(Error::Locked { resource: self.target.display().to_string(), holder: other() });
        }
        self.disk.sync_dir(&dir).map_err(Error::io("sync", &dir))?;
        let len = file.metadata().map_err(Error::io("read", &self.target))?.len();
        Ok(CacheEntry { disk: self.disk.clone(), path: self.target.clone(), file, len })
    }

    /// Takes away what is there.
    ///
    /// # Errors
    /// Where the filesystem says no.
    pub fn abandon(self) -> Result<()> {
        self.disk.remove_file(&self.path).map_err(Error::io("remove", &self.path))
    }
}

impl Drop for CacheWriter {
    fn drop(&mut self) {
        // The lock is still held, so the name is this writer's. Nothing worth going on with: nothing stays.
        if self.file.metadata().is_ok_and(|found| found.len() == 0) && is_named(&self.path, &self.file) {
            let _ = self.disk.remove_file(&self.path);
        }
    }
}

/// Held for moments only, so waited for without a word.
pub(crate) fn lock_folder(dir: &Path, kind: LockKind) -> Result<File> {
    let folder = File::open(dir).map_err(Error::io("open", dir))?;
    while !try_lock(&folder, kind).map_err(Error::io("lock", dir))? {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(folder)
}

/// Whether the path names the open file.
pub(crate) fn is_named(path: &Path, file: &File) -> bool {
    match (path.symlink_metadata(), file.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

pub(crate) fn other() -> String {
    "another process".to_owned()
}
