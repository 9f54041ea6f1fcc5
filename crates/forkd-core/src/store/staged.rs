use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::store::record::{HashedFile, Record, modified_ns};
use crate::store::root::{Store, is_taken_away};
use crate::store::stored::Stored;
use forkd_format::manifest::{MEMORY, ROOTFS, SNAPSHOT_JSON, VMSTATE};
use forkd_format::{Digest, Snapshot, Tag};
use forkd_sys::Disk;
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

impl Store {
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

    fn create_tag(&self, staged: &Path, target: &Path, snapshots: &Path) -> std::io::Result<()> {
        if !snapshots.is_dir() {
            self.disk.make_dirs(snapshots)?;
            self.disk.sync_dir(&self.root)?;
        }
        self.disk.rename(staged, target)
    }
}

/// Where a tag that must be free will be.
pub(crate) fn free_target(store: &Store, tag: &Tag) -> Result<PathBuf> {
    let target = store.dir(tag);
    if store.contains(tag) {
        let message = format!("'{tag}' is already at {}; `forkd rmi {tag}` first", target.display());
        return Err(Error::new(Kind::General, message));
    }
    Ok(target)
}

/// A link's place in its chain, for [`seal`].
pub(crate) struct Link {
    pub(crate) parent: Tag,
    pub(crate) parent_content_hash: Digest,
    /// Digest of the memory that the chain up to the link assembles to.
    pub(crate) memory: Digest,
    pub(crate) memory_bytes: u64,
    pub(crate) zero_pages: Vec<(u64, u64)>,
}

/// Describes, seals and syncs the files of a staged folder.
pub(crate) fn seal(
    store: &Store,
    dir: &Path,
    target: &Path,
    base: &Snapshot,
    link: Option<&Link>,
    created_at: &str,
    env: Env<'_>,
) -> Result<Stored> {
    let mut record =
        Record { record_version: 1, created_at: Some(created_at.to_owned()), ..Record::default() };
    let (mut snapshot, mut frozen) = (base.clone(), Map::new());
    for (key, name) in [("memory", MEMORY), ("vmstate", VMSTATE), ("rootfs", ROOTFS)] {
        let path = dir.join(name);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        complete(store.disk(), &file, &path)?;
        let hashed = HashedFile::read(&path, &mut |_| env.cancel.check())?;
        frozen.insert(key.into(), json!({ "bytes": hashed.size, "sha256": hashed.sha256.to_string() }));
        record.files.push(hashed.recorded(name));
    }
    if let Some(link) = link {
        frozen.insert(
            "memory".into(),
            json!({ "bytes": link.memory_bytes, "sha256": link.memory.to_string() }),
        );
        snapshot = snapshot
            .with("parent_tag", Some(json!(link.parent.as_str())))
            .with("parent_content_hash", Some(json!(link.parent_content_hash.to_string())));
        if !link.zero_pages.is_empty() {
            snapshot = snapshot.with("zero_pages", Some(json!(link.zero_pages)));
        }
    }
    let snapshot = snapshot.with("frozen", Some(Value::Object(frozen)));
    let snapshot = snapshot.relocated(&format!("{}/", target.display()), None);
    let text = snapshot.to_bytes();
    let mtime_ns = write_sealed(store.disk(), &dir.join(SNAPSHOT_JSON), &text)?;
    record.files.insert(0, HashedFile::of(&text, mtime_ns).recorded(SNAPSHOT_JSON));
    let text = serde_json::to_vec(&record).map_err(|e| Error::new(Kind::General, e.to_string()))?;
    write_sealed(store.disk(), &dir.join(Record::NAME), &text)?;
    let tag = target.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let tag = tag.parse().map_err(Error::malformed(target.display().to_string()))?;
    Ok(Stored { tag, dir: dir.to_owned(), snapshot, record: Some(record) })
}

/// Takes the write permission from a file of the store: nobody writes to it any more. Memory keeps its owner's write permission, because QEMU
/// 7.2 opens it for writing even where all its writes are private.
pub(crate) fn seal_file(disk: &Disk, file: &fs::File, path: &Path) -> std::io::Result<()> {
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
    seal_file(disk, file, path).map_err(Error::io("seal", path))?;
    disk.sync_file(file, path).map_err(Error::io("sync", path))?;
    Ok(modified_ns(&file.metadata().map_err(Error::io("read", path))?))
}
