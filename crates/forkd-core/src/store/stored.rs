//! A snapshot as it lies in the store, and whether it is as it was put there.

use crate::error::{Error, Kind, Result};
use crate::store::record::{HashedFile, Record, RecordedFile, modified_ns};
use crate::store::small_file::read_small;
use forkd_format::manifest::{MEMORY, ROOTFS, SNAPSHOT_JSON, VMSTATE};
use forkd_format::paged::FileRoot;
use forkd_format::{Digest, Snapshot, Tag};
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

/// A snapshot as it lies in the store.
#[derive(Debug, Clone)]
pub struct StoredSnapshot {
    pub tag: Tag,
    pub dir: PathBuf,
    pub snapshot: Snapshot,
    /// What forkd noted when it put the snapshot there; absent in snapshots that another host made.
    pub record: Option<Record>,
}

impl StoredSnapshot {
    /// When it was made: as was recorded, else when its memory was written last. RFC 3339, UTC, whole seconds.
    #[must_use]
    pub fn made_at(&self) -> Option<String> {
        if let Some(made) = self.record.as_ref().and_then(|record| record.created_at.clone()) {
            return Some(made);
        }
        let written = self.dir.join(MEMORY).metadata().and_then(|found| found.modified()).ok()?;
        let since = written.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?;
        let time = jiff::Timestamp::from_second(i64::try_from(since.as_secs()).ok()?).ok()?;
        Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    }

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

    /// The digest of one of its files: from the record where the file is untouched since, else by reading it. `read` makes it
    /// read the file whatever the record says.
    pub(crate) fn digest(&self, name: &str, path: &Path, read: bool) -> Result<Digest> {
        let metadata = path.metadata().map_err(Error::io("read", path))?;
        match self.untouched(name, &metadata).filter(|file| !read && !file.declared) {
            Some(file) => Ok(file.sha256),
            None => Ok(HashedFile::read(path, &mut |_| Ok(()))?.sha256),
        }
    }

    /// The same for its root.
    pub(crate) fn root(&self, name: &str, path: &Path, read: bool) -> Result<FileRoot> {
        let metadata = path.metadata().map_err(Error::io("read", path))?;
        match self.untouched(name, &metadata).filter(|_| !read).and_then(|file| file.root) {
            Some(root) => Ok(root),
            None => Ok(HashedFile::read(path, &mut |_| Ok(()))?.root),
        }
    }

    /// What was recorded of a file, where its size and time are still those.
    pub(crate) fn untouched(&self, name: &str, metadata: &Metadata) -> Option<&RecordedFile> {
        let recorded = self.record.as_ref().and_then(|record| record.file(name));
        recorded.filter(|file| file.size == metadata.len() && file.mtime_ns == modified_ns(metadata))
    }
}

/// Reads the `snapshot.json` of a folder.
pub(crate) fn describe(dir: &Path) -> Result<Snapshot> {
    let bytes = read_small(&dir.join(SNAPSHOT_JSON), Snapshot::MAX_LEN)?;
    Snapshot::parse(&bytes).map_err(Error::malformed(dir.display().to_string()))
}

/// The parent's tag of a loaded snapshot.
pub(crate) fn parent_of(stored: Option<&StoredSnapshot>) -> Result<Option<Tag>> {
    let Some(stored) = stored else { return Ok(None) };
    let parent = stored.snapshot.parent().map_err(Error::malformed(stored.dir.display().to_string()))?;
    Ok(parent.map(|parent| parent.tag))
}

/// Checks that no file of a snapshot was altered since it was stored: by size and time and, where these differ, by digest. A machine
/// that is given another memory or disk than it was frozen with misbehaves silently.
///
/// # Errors
/// [`Kind::Integrity`] naming the file.
pub(crate) fn check_untouched(stored: &StoredSnapshot) -> Result<()> {
    check_file(stored, SNAPSHOT_JSON, &stored.dir.join(SNAPSHOT_JSON))?;
    stored.bodies().iter().try_for_each(|(name, path)| check_file(stored, name, path))
}

/// What to say of a file that a snapshot lacks.
pub(crate) fn missing_file(tag: &Tag, path: &Path) -> Error {
    let message = format!("{} is missing", path.display());
    Error::new(Kind::Integrity, message).hint(format!("`forkd rmi {tag}`, then pull or bake it again"))
}

/// The same for one of its files.
pub(crate) fn check_file(stored: &StoredSnapshot, name: &str, path: &Path) -> Result<()> {
    let metadata = path.metadata().map_err(Error::io("read", path))?;
    let Some(recorded) = stored.record.as_ref().and_then(|record| record.file(name)) else { return Ok(()) };
    if stored.untouched(name, &metadata).is_none() && !HashedFile::read(path, &mut |_| Ok(()))?.is(recorded) {
        let message = format!("{}: altered since it was stored", path.display());
        let hint = format!("`forkd verify {}` shows where", stored.tag);
        return Err(Error::new(Kind::Integrity, message).hint(hint));
    }
    Ok(())
}
