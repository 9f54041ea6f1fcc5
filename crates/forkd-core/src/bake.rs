//! From a running machine to a snapshot in the store, and from there to children.

use crate::engine::{Child, Engine, Machine};
use crate::store::{HashedFile, LockKind, Record, complete, write_sealed};
use crate::{Env, Error, Kind, Result, Store};
use forkd_format::manifest::{MEMORY, ROOTFS, SNAPSHOT_JSON, VMSTATE};
use forkd_format::{PAGE_SIZE, PIECE_SIZE, Snapshot, Tag};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Boots, freezes and seals a machine; the tag appears when all of it is on the disk.
///
/// # Errors
/// [`Kind::General`] where the tag is taken; what the engine and the disk say.
pub fn bake(
    store: &Store,
    engine: &dyn Engine,
    tag: &Tag,
    machine: &Machine,
    created_at: &str,
    env: Env<'_>,
) -> Result<PathBuf> {
    let _lock = store.lock(tag, LockKind::Exclusive, env)?;
    let target = store.dir(tag);
    if store.contains(tag) {
        return Err(Error::new(
            Kind::General,
            format!("'{tag}' is already at {}; `forkd rmi {tag}` first", target.display()),
        ));
    }
    let staging = store.stage(env)?;
    let dir = staging.dir("bake")?;
    let fields = engine.bake(machine, &dir, env)?;
    let mut record =
        Record { record_version: 1, created_at: Some(created_at.to_owned()), ..Record::default() };
    for name in [VMSTATE, ROOTFS, MEMORY] {
        let path = dir.join(name);
        punch_zero_pages(&path)?;
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        complete(store.disk(), &file, &path)?;
        record.files.push(HashedFile::read(&path, &mut |_| env.cancel.check())?.recorded(name));
    }
    let text = Snapshot::new(fields).relocated(&format!("{}/", target.display()), None).to_bytes();
    let mtime_ns = write_sealed(store.disk(), &dir.join(SNAPSHOT_JSON), &text)?;
    record.files.insert(0, HashedFile::of(&text, mtime_ns).recorded(SNAPSHOT_JSON));
    let text = serde_json::to_vec(&record).map_err(|e| Error::new(Kind::General, e.to_string()))?;
    write_sealed(store.disk(), &dir.join(Record::NAME), &text)?;
    env.cancel.check()?;
    store.publish(&dir, tag)?;
    Ok(target)
}

/// A guest's memory file is allocated in full; its zero pages are found by content and given back.
fn punch_zero_pages(path: &Path) -> Result<()> {
    let failed = || Error::io("rewrite", path);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed())?;
    let size = file.metadata().map_err(failed())?.len();
    let mut buffer = vec![0; PIECE_SIZE];
    let mut at = 0;
    while at < size {
        let len = (size - at).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..len], at).map_err(failed())?;
        let mut zero_from = None;
        for (i, page) in buffer[..len].chunks(PAGE_SIZE).enumerate() {
            let start = at + (i * PAGE_SIZE) as u64;
            match (forkd_sys::is_zero(page), zero_from) {
                (true, None) => zero_from = Some(start),
                (false, Some(from)) => {
                    forkd_sys::punch_hole(&file, from, start - from).map_err(failed())?;
                    zero_from = None;
                }
                _ => {}
            }
        }
        at += len as u64;
        if let Some(from) = zero_from {
            forkd_sys::punch_hole(&file, from, at - from).map_err(failed())?;
        }
    }
    Ok(())
}

/// Forks a snapshot into children and waits for each to answer.
///
/// # Errors
/// [`Kind::NotFound`], [`Kind::Incompatible`], [`Kind::Integrity`] where a file was altered since it was put there.
pub fn fork(
    store: &Store,
    engine: &dyn Engine,
    tag: &Tag,
    count: usize,
    env: Env<'_>,
    answered: &mut dyn FnMut(&Child),
) -> Result<()> {
    let _lock = store.lock(tag, LockKind::Shared, env)?;
    let stored = store.load(tag)?;
    if let Some(parent) = crate::store::parent_of(Some(&stored))? {
        let message =
            format!("'{tag}' is a chain link on top of '{parent}'; this forkd forks flat snapshots only");
        return Err(Error::new(Kind::Incompatible, message));
    }
    engine.check(&stored)?;
    // A machine that is given another memory or disk than it was frozen with misbehaves silently.
    for (name, path) in stored.bodies() {
        let metadata = path.metadata().map_err(Error::io("read", &path))?;
        let Some(recorded) = stored.record.as_ref().and_then(|record| record.file(name)) else { continue };
        let untouched =
            metadata.len() == recorded.size && crate::store::modified_ns(&metadata) == recorded.mtime_ns;
        if !untouched && stored.digest(name, &path, true)? != recorded.sha256 {
            let message =
                format!("{}: altered since it was stored; `forkd verify {tag}` shows where", path.display());
            return Err(Error::new(Kind::Integrity, message));
        }
    }
    engine.fork(&stored, count, env, answered)
}
