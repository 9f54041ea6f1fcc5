//! The local store (`docs/format/store.md`): one folder a tag, staging beside them, locks.

mod assembled;
mod lock;
mod partial;
mod record;
mod staging;

pub(crate) use assembled::adopt_assembled;
pub use lock::{LockKind, TagLock};
pub(crate) use partial::Partial;
pub(crate) use record::{HashedFile, check_file, check_untouched, modified_ns};
pub use record::{Record, RecordedFile, Source};
pub use staging::Scratch;
pub(crate) use staging::Staging;

use crate::{Error, Kind, Progress, Result};
use forkd_format::manifest::{MEMORY, ROOTFS, SNAPSHOT_JSON, VMSTATE};
use forkd_format::{Snapshot, Tag};
use forkd_sys::Disk;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The store of one user.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    disk: Disk,
    lock_timeout: Duration,
    holder: String,
}

/// A snapshot as it lies in the store.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its tag.
    pub tag: Tag,
    /// Its folder.
    pub dir: PathBuf,
    /// Its description.
    pub snapshot: Snapshot,
    /// What forkd noted when it put the snapshot there; absent in snapshots that another host made.
    pub record: Option<Record>,
}

impl Stored {
    /// The root disk: in the folder, or where `snapshot.json` says.
    #[must_use]
    pub fn rootfs(&self) -> Option<PathBuf> {
        let inside = self.dir.join(ROOTFS);
        if inside.exists() {
            return Some(inside);
        }
        self.snapshot.rootfs().map(PathBuf::from)
    }

    /// Opens one of its files. Those in its folder must be regular files there: no link leads elsewhere, no pipe hangs.
    ///
    /// # Errors
    /// [`Kind::Integrity`] where it is something else.
    pub(crate) fn open(&self, path: &Path) -> Result<fs::File> {
        let inside = path.starts_with(&self.dir);
        let metadata = if inside { path.symlink_metadata() } else { path.metadata() };
        if !metadata.map_err(Error::io("open", path))?.is_file() {
            return Err(Error::new(Kind::Integrity, format!("{} is not a regular file", path.display())));
        }
        fs::File::open(path).map_err(Error::io("open", path))
    }

    /// The files that exist apart from `snapshot.json`, by their name in a pack.
    #[must_use]
    pub fn bodies(&self) -> Vec<(&'static str, PathBuf)> {
        let mut files = vec![(VMSTATE, self.dir.join(VMSTATE))];
        files.extend(self.rootfs().map(|path| (ROOTFS, path)));
        files.push((MEMORY, self.dir.join(MEMORY)));
        files
    }
}

impl Store {
    /// The store under a folder, which need not exist yet. `holder` names this process to those who wait for its locks.
    #[must_use]
    pub fn new(root: &Path, holder: &str) -> Self {
        Self {
            root: root.to_owned(),
            disk: Disk::default(),
            lock_timeout: Duration::from_secs(300),
            holder: holder.to_owned(),
        }
    }

    /// The same store with another wait for locks.
    #[must_use]
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// The same store with its changes passing through a probe (tests).
    #[must_use]
    pub fn with_disk(mut self, disk: Disk) -> Self {
        self.disk = disk;
        self
    }

    /// Its folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    fn staging_root(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// The folder of a tag, whether or not it exists.
    #[must_use]
    pub fn dir(&self, tag: &Tag) -> PathBuf {
        self.snapshots().join(tag.as_str())
    }

    /// Whether the tag is taken.
    #[must_use]
    pub fn contains(&self, tag: &Tag) -> bool {
        self.dir(tag).symlink_metadata().is_ok()
    }

    /// Reads a snapshot's description.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where the tag is not in the store; [`Kind::Integrity`] where its description is malformed.
    pub fn load(&self, tag: &Tag) -> Result<Stored> {
        let dir = self.dir(tag);
        if !self.contains(tag) {
            let message =
                format!("no snapshot '{tag}' in {}; see `forkd images`", self.snapshots().display());
            return Err(Error::new(Kind::NotFound, message));
        }
        let snapshot = describe(&dir)?;
        Ok(Stored { tag: tag.clone(), record: Record::load(&dir)?, dir, snapshot })
    }

    /// The tags in the store, sorted. Folders that are no snapshot are passed over.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be read; a store that does not exist is empty.
    pub fn tags(&self) -> Result<Vec<Tag>> {
        let dir = self.snapshots();
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::io("read", &dir))?,
        };
        let mut tags = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("read", &dir))?;
            let tag = entry.file_name().to_str().and_then(|name| name.parse::<Tag>().ok());
            tags.extend(tag.filter(|tag| self.dir(tag).join(SNAPSHOT_JSON).is_file()));
        }
        tags.sort();
        Ok(tags)
    }

    /// A snapshot and its ancestors, root first.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where a parent is missing, [`Kind::Integrity`] where the chain has a cycle.
    pub fn chain(&self, head: &Tag) -> Result<Vec<Stored>> {
        let mut links = vec![self.load(head)?];
        while let Some(parent) = parent_of(links.last())? {
            if links.iter().any(|link| link.tag == parent) || links.len() >= forkd_format::manifest::MAX_CHAIN
            {
                let message = format!(
                    "the chain of '{head}' never reaches a base: '{parent}' comes twice or it is too long"
                );
                return Err(Error::new(Kind::Integrity, message));
            }
            let child = links.last().map(|link| link.tag.to_string()).unwrap_or_default();
            links.push(self.load(&parent).map_err(|e| match e.kind() {
                Kind::NotFound => {
                    let message = format!(
                        "'{parent}', the chain parent of '{child}', is missing; pull or unpack it first"
                    );
                    Error::new(Kind::NotFound, message)
                }
                _ => e,
            })?);
        }
        links.reverse();
        Ok(links)
    }

    /// The tags whose parent is one of these and that are not among them, by parent.
    ///
    /// # Errors
    /// [`Error::Io`] where the store cannot be read.
    pub fn dependents(&self, tags: &[Tag]) -> Result<Vec<(Tag, Tag)>> {
        let mut found = Vec::new();
        for tag in self.tags()?.into_iter().filter(|tag| !tags.contains(tag)) {
            // A damaged record makes a snapshot no less a dependent.
            let Ok(snapshot) = describe(&self.dir(&tag)) else { continue };
            if let Ok(Some(parent)) = snapshot.parent()
                && tags.contains(&parent.tag)
            {
                found.push((parent.tag, tag));
            }
        }
        Ok(found)
    }

    /// Locks a tag, waiting as long as the store's timeout says.
    ///
    /// # Errors
    /// [`Error::Locked`] after the timeout; [`Error::Interrupted`].
    pub fn lock(&self, tag: &Tag, kind: LockKind, env: crate::Env<'_>) -> Result<TagLock> {
        self.lock_name(tag.as_str(), &format!("snapshot '{tag}'"), kind, env)
    }

    /// Locks several tags in their order, so that two who do so never wait for each other.
    ///
    /// # Errors
    /// As [`Store::lock`].
    pub fn lock_all(&self, tags: &[Tag], kind: LockKind, env: crate::Env<'_>) -> Result<Vec<TagLock>> {
        let mut sorted: Vec<&Tag> = tags.iter().collect();
        sorted.sort();
        sorted.dedup();
        sorted.into_iter().map(|tag| self.lock(tag, kind, env)).collect()
    }

    pub(crate) fn lock_name(
        &self,
        name: &str,
        what: &str,
        kind: LockKind,
        env: crate::Env<'_>,
    ) -> Result<TagLock> {
        lock::acquire(self, name, what, kind, env)
    }

    /// Makes a staging folder, and clears away what killed runs left.
    pub(crate) fn stage(&self, env: crate::Env<'_>) -> Result<Staging> {
        Staging::create(self, env.progress)
    }

    /// Deletes what killed runs left in staging, downloads that were not finished, and assembled memories of chains that are gone.
    ///
    /// # Errors
    /// [`Error::Io`] where a leftover cannot be deleted.
    pub fn gc(&self, progress: &dyn Progress) -> Result<u64> {
        let removed = staging::sweep(self, progress)?
            + self.sweep_partial()?
            + self.sweep_assembled()?.len() as u64
            + lock::sweep(self);
        self.remove_empty(&[self.staging_root(), self.snapshots()]);
        Ok(removed)
    }

    fn create_tag(&self, staged: &Path, target: &Path, snapshots: &Path) -> std::io::Result<()> {
        if !snapshots.is_dir() {
            self.disk.make_dirs(snapshots)?;
            self.disk.sync_dir(&self.root)?;
        }
        self.disk.rename(staged, target)
    }

    /// Takes folders of the store away where nothing is in them, and the store's own: what was refused leaves no trace.
    fn remove_empty(&self, dirs: &[PathBuf]) {
        for dir in dirs.iter().chain([&self.root]) {
            let _ = fs::remove_dir(dir);
        }
    }

    /// Puts a staged folder in the place of a tag, at once, and syncs. What was there before is left in the staged folder's place.
    pub(crate) fn publish(&self, staged: &Path, tag: &Tag) -> Result<()> {
        let (target, snapshots) = (self.dir(tag), self.snapshots());
        self.disk.sync_dir(staged).map_err(Error::io("sync", staged))?;
        if self.contains(tag) {
            self.disk.exchange(staged, &target).map_err(|e| match e.raw_os_error() {
                Some(22 | 38 | 95) => Error::new(
                    Kind::General,
                    format!(
                        "the filesystem of {} cannot replace a folder at once; `forkd rmi {tag}` first",
                        target.display()
                    ),
                ),
                _ => Error::Io { action: "replace", path: target.clone(), source: e },
            })?;
        } else {
            let mut tries = 0;
            while let Err(source) = self.create_tag(staged, &target, &snapshots) {
                if !is_taken_away(&source) || tries == 100 {
                    return Err(Error::Io { action: "create", path: target, source });
                }
                tries += 1;
            }
        }
        self.disk.sync_dir(&snapshots).map_err(Error::io("sync", &snapshots))
    }
}

/// Whether another process, which had nothing to keep, may just have taken an empty folder away while we made it or used it.
/// (Making it then fails with either error.)
fn is_taken_away(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::AlreadyExists)
}

/// Reads the `snapshot.json` of a folder.
fn describe(dir: &Path) -> Result<Snapshot> {
    let bytes = read_small(&dir.join(SNAPSHOT_JSON), Snapshot::MAX_LEN)?;
    Snapshot::parse(&bytes).map_err(Error::malformed(dir.display().to_string()))
}

/// The parent's tag of a loaded snapshot.
pub(crate) fn parent_of(stored: Option<&Stored>) -> Result<Option<Tag>> {
    let Some(stored) = stored else { return Ok(None) };
    let parent = stored.snapshot.parent().map_err(Error::malformed(stored.dir.display().to_string()))?;
    Ok(parent.map(|parent| parent.tag))
}

/// Takes the write permission from a file of the store: nobody writes to it any more. Memory keeps its owner's write permission, because QEMU
/// 7.2 opens it for writing even where all its writes are private.
fn seal(disk: &Disk, file: &fs::File, path: &Path) -> std::io::Result<()> {
    let kept = if path.file_name().is_some_and(|name| name == MEMORY) { 0o644 } else { 0o444 };
    // What the umask withheld when the file was made stays withheld.
    disk.set_mode(file, path, std::os::unix::fs::MetadataExt::mode(&file.metadata()?) & kept)
}

/// Writes a small file of a staged folder, sealed and synced; says when it was last written.
pub(crate) fn write_sealed(disk: &Disk, path: &Path, bytes: &[u8]) -> Result<i64> {
    let file = disk.create(path, 0o644).map_err(Error::io("create", path))?;
    disk.write_at(&file, path, bytes, 0).map_err(Error::io("write", path))?;
    complete(disk, &file, path)
}

/// Seals and syncs a file whose bytes are all written; says when that was.
pub(crate) fn complete(disk: &Disk, file: &fs::File, path: &Path) -> Result<i64> {
    seal(disk, file, path).map_err(Error::io("seal", path))?;
    disk.sync_file(file, path).map_err(Error::io("sync", path))?;
    Ok(modified_ns(&file.metadata().map_err(Error::io("read", path))?))
}

/// Reads a file that must be small.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = fs::File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(Kind::Integrity, format!("{}: more than {limit} bytes", path.display())));
    }
    Ok(bytes)
}
