//! The only door into the store: a snapshot is made in a work folder, filled, sealed, and published at once.

use crate::digest::sparse::copy_disk;
use crate::error::{Error, Kind, Result};
use crate::store::record::{HashedFile, Record, modified_ns};
use crate::store::root::{Store, is_taken_away};
use crate::store::stored::StoredSnapshot;
use crate::store::workdir::WorkDir;
use forkd_format::manifest::{MEMORY, ROOTFS, SNAPSHOT_JSON};
use forkd_format::{NeededRun, Snapshot, Tag};
use forkd_sys::DiskIo;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A snapshot in the making: a folder of a [`WorkDir`], of which nobody sees anything before it is [`SealedSnapshot::publish`]ed.
#[derive(Debug)]
pub(crate) struct StagedSnapshot {
    store: Store,
    tag: Tag,
    dir: PathBuf,
}

/// Where `snapshot.json` says that the root disk is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RootfsPath<'a> {
    /// It says nothing: beside it, if anywhere.
    Unnamed,
    /// In the snapshot's own folder, with its path.
    Own,
    /// Where that of another snapshot says: in this one's own folder, if it was in that one's.
    As(&'a StoredSnapshot),
}

impl StagedSnapshot {
    /// Makes an empty folder.
    pub(crate) fn create(work: &WorkDir, name: &str, tag: &Tag) -> Result<Self> {
        let (store, dir) = (work.store().clone(), work.path().join(name));
        store.disk().make_dir(&dir).map_err(Error::io("create", &dir))?;
        Ok(Self { store, tag: tag.clone(), dir })
    }

    /// Goes on with the folder that an earlier run left, or makes one; of what is there only these files stay.
    pub(crate) fn resume(
        work: &WorkDir,
        name: &str,
        tag: &Tag,
        stays: impl Fn(&OsStr) -> bool,
    ) -> Result<Self> {
        let dir = work.path().join(name);
        if !dir.is_dir() {
            return Self::create(work, name, tag);
        }
        let store = work.store().clone();
        for entry in fs::read_dir(&dir).map_err(Error::io("read", &dir))? {
            let entry = entry.map_err(Error::io("read", &dir))?;
            if !stays(&entry.file_name()) {
                store.disk().remove_file(&entry.path()).map_err(Error::io("remove", &entry.path()))?;
            }
        }
        Ok(Self { store, tag: tag.clone(), dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes a file in it.
    pub(crate) fn create_file(&self, name: &str) -> Result<(PathBuf, File)> {
        let path = self.dir.join(name);
        let file = self.store.disk().create(&path, 0o644).map_err(Error::io("create", &path))?;
        Ok((path, file))
    }

    /// Shares a file of another snapshot.
    pub(crate) fn link_file(&self, name: &str, from: &Path) -> Result<()> {
        let (to, disk) = (self.dir.join(name), self.store.disk());
        match disk.link(from, &to) {
            // Others' files are not linked where the kernel protects hard links: theirs may be of a store that a group shares.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                copy_disk(disk, from, &to)?;
                let file = File::open(&to).map_err(Error::io("open", &to))?;
                // The record believes it by its time.
                let copied = from.metadata().and_then(|found| file.set_modified(found.modified()?));
                copied.map_err(Error::io("copy", from))?;
                complete(disk, &file, &to).map(drop)
            }
            linked => linked.map_err(Error::io("link", &to)),
        }
    }

    /// Shares all files of a snapshot that lie in its own folder.
    pub(crate) fn link_bodies(&self, of: &StoredSnapshot) -> Result<()> {
        let own = of.bodies().into_iter().filter(|(_, path)| path.starts_with(&of.dir));
        own.into_iter().try_for_each(|(name, path)| self.link_file(name, &path))
    }

    /// Writes the description, with paths as they will be, and the record; seals and syncs both. All other files are complete by now, and the record
    /// names them; without one the snapshot has none.
    pub(crate) fn seal(
        self,
        snapshot: &Snapshot,
        rootfs: RootfsPath<'_>,
        record: Option<Record>,
    ) -> Result<SealedSnapshot> {
        let Self { store, tag, dir } = self;
        let target = store.dir(&tag);
        let own = || target.join(ROOTFS).display().to_string();
        let rootfs = match rootfs {
            RootfsPath::Unnamed => None,
            RootfsPath::Own => Some(own()),
            RootfsPath::As(other) => {
                let named = other.snapshot.rootfs();
                named.map(|path| if other.dir.join(ROOTFS).exists() { own() } else { path.to_owned() })
            }
        };
        Self { store, tag, dir }.describe(snapshot, rootfs.as_deref(), record)
    }

    fn describe(
        self,
        snapshot: &Snapshot,
        rootfs: Option<&str>,
        record: Option<Record>,
    ) -> Result<SealedSnapshot> {
        let Self { store, tag, dir } = self;
        let snapshot = snapshot.relocated(&format!("{}/", store.dir(&tag).display()), rootfs);
        let text = snapshot.to_bytes();
        // What nobody could read again is not written.
        Snapshot::parse(&text).map_err(Error::malformed(tag.to_string()))?;
        let mtime_ns = write_sealed(store.disk(), &dir.join(SNAPSHOT_JSON), &text)?;
        let record = match record {
            Some(mut record) => {
                record.files.retain(|file| file.path != SNAPSHOT_JSON);
                record.files.insert(0, HashedFile::of(&text, mtime_ns).recorded(SNAPSHOT_JSON));
                let text =
                    serde_json::to_vec(&record).map_err(|e| Error::new(Kind::General, e.to_string()))?;
                write_sealed(store.disk(), &dir.join(Record::NAME), &text)?;
                Some(record)
            }
            None => None,
        };
        Ok(SealedSnapshot { store, stored: StoredSnapshot { tag, dir, snapshot, record } })
    }
}

/// A whole snapshot that only waits to be seen.
#[derive(Debug)]
pub(crate) struct SealedSnapshot {
    store: Store,
    stored: StoredSnapshot,
}

impl SealedSnapshot {
    /// As it lies in the work folder.
    pub(crate) fn stored(&self) -> &StoredSnapshot {
        &self.stored
    }

    /// The same with another working set in its description; without one, as it is.
    pub(crate) fn with_working_set(self, runs: &[NeededRun]) -> Result<Self> {
        if runs.is_empty() {
            return Ok(self);
        }
        let Self { store, stored: StoredSnapshot { tag, dir, snapshot, record } } = self;
        for name in [SNAPSHOT_JSON, Record::NAME] {
            let path = dir.join(name);
            if path.exists() {
                store.disk().remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        let named = snapshot.rootfs().map(str::to_owned);
        let staged = StagedSnapshot { store, tag, dir };
        staged.describe(&snapshot.with_working_set(runs), named.as_deref(), record)
    }

    /// Puts it in the place of its tag, at once, and syncs. What was there before is left in the work folder.
    pub(crate) fn publish(self) -> Result<PathBuf> {
        let StoredSnapshot { tag, dir: staged, .. } = self.stored;
        let (store, disk) = (&self.store, self.store.disk());
        let (target, snapshots) = (store.dir(&tag), store.snapshots());
        disk.sync_dir(&staged).map_err(Error::io("sync", &staged))?;
        if store.contains(&tag) {
            disk.exchange(&staged, &target).map_err(|e| match e.raw_os_error() {
                Some(22 | 38 | 95) => Error::new(
                    Kind::General,
                    format!("the filesystem of {} cannot replace a folder at once", target.display()),
                )
                .hint(format!("`forkd rmi {tag}` first")),
                _ => Error::Io { action: "replace", path: target.clone(), source: e },
            })?;
        } else {
            let mut tries = 0;
            while let Err(source) = create_tag(store, &staged, &target, &snapshots) {
                if !is_taken_away(&source) || tries == 100 {
                    return Err(Error::Io { action: "create", path: target, source });
                }
                tries += 1;
            }
        }
        disk.sync_dir(&snapshots).map_err(Error::io("sync", &snapshots))?;
        Ok(target)
    }
}

fn create_tag(store: &Store, staged: &Path, target: &Path, snapshots: &Path) -> std::io::Result<()> {
    if !snapshots.is_dir() {
        store.disk().make_dirs(snapshots)?;
        store.disk().sync_dir(store.root())?;
    }
    store.disk().rename(staged, target)
}

/// Takes the write permission from a file of the store: nobody writes to it any more. Memory keeps its owner's write permission, because QEMU
/// 7.2 opens it for writing even where all its writes are private.
fn seal_file(disk: &DiskIo, file: &File, path: &Path) -> std::io::Result<()> {
    let kept = if path.file_name().is_some_and(|name| name == MEMORY) { 0o644 } else { 0o444 };
    // What the umask withheld when the file was made stays withheld.
    disk.set_mode(file, path, file.metadata()?.mode() & kept)
}

/// Writes a small file, sealed and synced; says when it was last written, in nanoseconds since 1970.
pub(crate) fn write_sealed(disk: &DiskIo, path: &Path, bytes: &[u8]) -> Result<i64> {
    let file = disk.create(path, 0o644).map_err(Error::io("create", path))?;
    disk.write_at(&file, path, bytes, 0).map_err(Error::io("write", path))?;
    complete(disk, &file, path)
}

/// Seals and syncs a file whose bytes are all written; says when that was.
pub(crate) fn complete(disk: &DiskIo, file: &File, path: &Path) -> Result<i64> {
    seal_file(disk, file, path).map_err(Error::io("seal", path))?;
    disk.sync_file(file, path).map_err(Error::io("sync", path))?;
    Ok(modified_ns(&file.metadata().map_err(Error::io("read", path))?))
}
