//! What can be fetched or made again: parts of images (`blobs/<hex>`) and disks made of them (`rootfs/<hex>.ext4`). What is not yet
//! whole ends in `.partial` and is locked by its writer. Other files of the cache folder belong to others and are left alone.
//!
//! Each step that opens and locks a file holds a shared lock on its folder, and each deletion an exclusive one: nobody is
//! handed a file that is about to go.

use crate::cache::entry::{CacheEntry, CacheSlot, CacheWriter, is_named, lock_folder, other};
use crate::env::Env;
use crate::error::{Error, Result};
use forkd_format::Digest;
use forkd_sys::{DiskIo, LockKind, NO_FOLLOW, try_lock};
use std::fs::{self, FileTimes, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const RETRY: Duration = Duration::from_millis(40);

/// A wait shorter than this is not worth a line.
const QUIET: Duration = Duration::from_millis(300);

/// An unfinished file that nobody came back to for so long is the first to go.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

const PARTIAL: &str = ".partial";

/// What a cached file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheKind {
    /// A layer, configuration or manifest of an image, named by the digest of its bytes.
    Blob,
    /// A disk made of an image, named by the digest of what it was made from.
    Rootfs,
    /// In which blobs the files of a snapshot lie, named by the digest of what decides that.
    Release,
}

impl CacheKind {
    const ALL: [Self; 3] = [Self::Blob, Self::Rootfs, Self::Release];

    fn folder(self) -> &'static str {
        match self {
            Self::Blob => "blobs",
            Self::Rootfs => "rootfs",
            Self::Release => "releases",
        }
    }

    fn ending(self) -> &'static str {
        match self {
            Self::Blob | Self::Release => "",
            Self::Rootfs => ".ext4",
        }
    }

    /// The digest in a file's name, and whether the file is unfinished.
    fn parse(self, name: &str) -> Option<(Digest, bool)> {
        let whole = name.strip_suffix(PARTIAL);
        let hex = whole.unwrap_or(name).strip_suffix(self.ending())?;
        Some((hex.parse().ok()?, whole.is_some()))
    }
}

/// A cache folder. Nothing in it is made before something is put there.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
    disk: DiskIo,
}

/// What [`Cache::list`] says of a file.
#[derive(Debug, Clone)]
pub struct CacheInfo {
    pub kind: CacheKind,
    pub name: Digest,
    pub path: PathBuf,
    /// What it takes on the disk.
    pub bytes_on_disk: u64,
    /// When it was last made, found or written to.
    pub used: SystemTime,
    /// Whether it is unfinished.
    pub partial: bool,
    /// Whether somebody holds it now.
    pub in_use: bool,
}

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// Files.
    pub entries: u64,
    /// Their bytes on the disk.
    pub bytes: u64,
}

impl Cache {
    /// The cache in a folder.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self::with_disk(root, DiskIo::default())
    }

    /// One that changes its folder through this disk.
    #[must_use]
    pub fn with_disk(root: &Path, disk: DiskIo) -> Self {
        Self { root: root.to_owned(), disk }
    }

    /// Its folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn target(&self, kind: CacheKind, name: &Digest) -> PathBuf {
        self.root.join(kind.folder()).join(format!("{name}{}", kind.ending()))
    }

    /// Opens a file if it is there, holds it, and counts it as used now.
    ///
    /// # Errors
    /// Where the filesystem says no.
    pub fn find(&self, kind: CacheKind, name: &Digest) -> Result<Option<CacheEntry>> {
        let _steady = match lock_folder(&self.root.join(kind.folder()), LockKind::Shared) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            lock => lock?,
        };
        self.open(kind, name)
    }

    /// Under the folder's lock.
    fn open(&self, kind: CacheKind, name: &Digest) -> Result<Option<CacheEntry>> {
        let path = self.target(kind, name);
        let file = match OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(Error::io("open", &path))?,
        };
        // Whoever holds it alone is not of this cache; a reader that cannot hold it can read it all the same.
        let _ = try_lock(&file, LockKind::Shared).map_err(Error::io("lock", &path))?;
        // A file named by a digest has no other use for its time, and reading does not change it as it does the access time.
        let _ = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
        let len = file.metadata().map_err(Error::io("read", &path))?.len();
        Ok(Some(CacheEntry { disk: self.disk.clone(), path, file, len }))
    }

    /// Begins a file, or goes on with what an earlier writer left, once no other process is at it. The other may have finished it:
    /// see [`Cache::find_or_create`].
    ///
    /// # Errors
    /// Where the filesystem says no; [`Error::Interrupted`].
    pub fn create(&self, kind: CacheKind, name: &Digest, env: Env<'_>) -> Result<CacheWriter> {
        match self.slot(kind, name, false, env)? {
            CacheSlot::Free(writer) => Ok(writer),
            CacheSlot::Found(entry) => {
                Err(Error::Locked { resource: entry.path.display().to_string(), holder: other() })
            }
        }
    }

    /// Finds a file, or begins it: of several who want the same, one makes it and the others wait and find it.
    ///
    /// # Errors
    /// As [`Cache::create`].
    pub fn find_or_create(&self, kind: CacheKind, name: &Digest, env: Env<'_>) -> Result<CacheSlot> {
        self.slot(kind, name, true, env)
    }

    fn slot(&self, kind: CacheKind, name: &Digest, find: bool, env: Env<'_>) -> Result<CacheSlot> {
        let dir = self.root.join(kind.folder());
        let target = self.target(kind, name);
        let path = dir.join(format!("{name}{}{PARTIAL}", kind.ending()));
        let begun = Instant::now();
        let mut told = false;
        self.disk.make_dirs(&dir).map_err(Error::io("create", &dir))?;
        loop {
            env.cancel.check()?;
            let steady = lock_folder(&dir, LockKind::Shared)?;
            if let Some(entry) = if find { self.open(kind, name)? } else { None } {
                return Ok(CacheSlot::Found(entry));
            }
            let mut options = OpenOptions::new();
            let file = match options.read(true).write(true).custom_flags(NO_FOLLOW).open(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => self.disk.create(&path, 0o600),
                file => file,
            };
            let file = match file {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                file => file.map_err(Error::io("create", &path))?,
            };
            if try_lock(&file, LockKind::Exclusive).map_err(Error::io("lock", &path))? {
                // It may have been finished, and so renamed, between the two steps.
                if !is_named(&path, &file) || (find && target.exists()) {
                    continue;
                }
                let len = file.metadata().map_err(Error::io("read", &path))?.len();
                return Ok(CacheSlot::Free(CacheWriter { file, path, target, len, disk: self.disk.clone() }));
            }
            drop((file, steady));
            if !told && begun.elapsed() > QUIET {
                env.progress.note(&format!("waiting for another process that makes {}", target.display()));
                told = true;
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Every file, in no order.
    ///
    /// # Errors
    /// Where a folder cannot be read.
    pub fn list(&self) -> Result<Vec<CacheInfo>> {
        let mut list = Vec::new();
        for kind in CacheKind::ALL {
            let dir = self.root.join(kind.folder());
            let entries = match fs::read_dir(&dir) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(Error::io("read", &dir))?,
            };
            for entry in entries.flatten() {
                let named = entry.file_name().to_str().and_then(|name| kind.parse(name));
                let Some((name, partial)) = named else { continue };
                let Some(metadata) = entry.metadata().ok().filter(fs::Metadata::is_file) else { continue };
                let _steady = lock_folder(&dir, LockKind::Exclusive)?;
                list.push(CacheInfo {
                    kind,
                    name,
                    path: entry.path(),
                    bytes_on_disk: forkd_sys::allocated(&metadata),
                    used: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                    partial,
                    in_use: !is_free(&entry.path()),
                });
            }
        }
        Ok(list)
    }

    /// Deletes what was used least recently until the rest takes no more than `limit` bytes on the disk. What is in use stays.
    ///
    /// # Errors
    /// Where the filesystem says no; [`Error::Interrupted`].
    pub fn trim(&self, limit: u64, env: Env<'_>) -> Result<Freed> {
        self.free(limit, &mut |info| {
            env.cancel.check()?;
            self.delete(info)
        })
    }

    /// What [`Cache::trim`] would delete, were nothing in use.
    ///
    /// # Errors
    /// Where the cache cannot be listed.
    pub fn beyond(&self, limit: u64) -> Result<Freed> {
        self.free(limit, &mut |_| Ok(true))
    }

    fn free(&self, limit: u64, delete: &mut dyn FnMut(&CacheInfo) -> Result<bool>) -> Result<Freed> {
        let mut list = self.list()?;
        let stale = SystemTime::now().checked_sub(STALE).unwrap_or(SystemTime::UNIX_EPOCH);
        list.sort_by_key(|info| (!(info.partial && info.used < stale), info.used));
        let mut left: u64 = list.iter().map(|info| info.bytes_on_disk).sum();
        let mut freed = Freed::default();
        for info in &list {
            if left <= limit {
                break;
            }
            if delete(info)? {
                left -= info.bytes_on_disk;
                freed.entries += 1;
                freed.bytes += info.bytes_on_disk;
            }
        }
        Ok(freed)
    }

    /// Deletes servers' answers that were not asked for again in so long a time; says how many. A lost one costs a transfer.
    #[must_use]
    pub fn sweep_answers(&self, unused: Duration) -> u64 {
        let mut count = 0;
        for entry in fs::read_dir(self.answers()).into_iter().flatten().flatten() {
            let age = entry
                .metadata()
                .and_then(|found| found.modified())
                .map(|at| at.elapsed().unwrap_or_default());
            if age.is_ok_and(|age| age > unused) {
                count += u64::from(fs::remove_file(entry.path()).is_ok());
            }
        }
        count
    }

    /// Where servers' answers are kept.
    pub(crate) fn answers(&self) -> PathBuf {
        self.root.join("answers")
    }

    /// Deletes all that is not in use.
    ///
    /// # Errors
    /// As [`Cache::trim`].
    pub fn clear(&self, env: Env<'_>) -> Result<Freed> {
        let mut freed = Freed::default();
        for info in self.list()? {
            env.cancel.check()?;
            if self.delete(&info)? {
                freed.entries += 1;
                freed.bytes += info.bytes_on_disk;
            }
        }
        Ok(freed)
    }

    /// Deletes a file unless somebody holds it, or has used it since it was listed.
    fn delete(&self, info: &CacheInfo) -> Result<bool> {
        let _alone = lock_folder(&self.root.join(info.kind.folder()), LockKind::Exclusive)?;
        let used = info.path.symlink_metadata().and_then(|found| found.modified());
        if used.is_ok_and(|used| used != info.used) || !is_free(&info.path) {
            return Ok(false);
        }
        match self.disk.remove_file(&info.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true).map_err(Error::io("remove", &info.path)),
        }
    }
}

/// Whether nobody holds a file; under the folder's exclusive lock nobody begins to.
fn is_free(path: &Path) -> bool {
    let file = OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(path);
    file.is_ok_and(|file| try_lock(&file, LockKind::Exclusive).unwrap_or(false))
}
