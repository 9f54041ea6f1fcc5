use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::store::lock::LockKind;
use crate::store::record::{HashedFile, Record};
use crate::store::root::Store;
use crate::store::staged::write_sealed;
use forkd_format::Tag;
use forkd_format::manifest::{ROOTFS, SNAPSHOT_JSON};
use std::path::PathBuf;

/// Gives a snapshot a second tag. The two share their files on the disk; removing one leaves the other whole.
///
/// # Errors
/// [`Kind::NotFound`], [`Kind::General`] where the new tag is taken by other bytes.
pub fn retag(store: &Store, old: &Tag, new: &Tag, env: Env<'_>) -> Result<PathBuf> {
    if old == new {
        return Err(Error::new(Kind::Usage, format!("'{old}' has that tag already")));
    }
    store.load(old)?;
    // In the order of the tags, as everyone who locks several.
    let mut wanted = [(old, LockKind::Shared), (new, LockKind::Exclusive)];
    wanted.sort_by_key(|(tag, _)| *tag);
    let _locks = [store.lock(wanted[0].0, wanted[0].1, env)?, store.lock(wanted[1].0, wanted[1].1, env)?];
    let stored = store.load(old)?;
    let target = store.dir(new);
    if store.contains(new) {
        return Err(Error::new(
            Kind::General,
            format!("'{new}' is already at {}; `forkd rmi {new}` first", target.display()),
        ));
    }
    let staging = store.stage(env)?;
    let dir = staging.dir("tag")?;
    let disk = store.disk();
    for (name, path) in stored.bodies().into_iter().filter(|(_, path)| path.starts_with(&stored.dir)) {
        let to = dir.join(name);
        disk.link(&path, &to).map_err(Error::io("link", &to))?;
    }
    let inside = stored.dir.join(ROOTFS).exists() && stored.snapshot.rootfs().is_some();
    let own = inside.then(|| target.join(ROOTFS).display().to_string());
    let rootfs = own.as_deref().or(stored.snapshot.rootfs());
    let text = stored.snapshot.relocated(&format!("{}/", target.display()), rootfs).to_bytes();
    let mtime_ns = write_sealed(disk, &dir.join(SNAPSHOT_JSON), &text)?;
    if let Some(mut record) = stored.record {
        record.files.retain(|file| file.path != SNAPSHOT_JSON);
        record.files.insert(0, HashedFile::of(&text, mtime_ns).recorded(SNAPSHOT_JSON));
        let text = serde_json::to_vec(&record).map_err(|e| Error::new(Kind::General, e.to_string()))?;
        write_sealed(disk, &dir.join(Record::NAME), &text)?;
    }
    store.publish(&dir, new)?;
    Ok(target)
}
