use crate::env::{Env, Progress};
use crate::error::{Error, Kind, Result};
use crate::store::root::Store;
use forkd_sys::LockKind;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

impl Store {
    /// Makes a staging folder, and clears away what killed runs left.
    pub(crate) fn stage(&self, env: Env<'_>) -> Result<Staging> {
        Staging::create(self, env.progress)
    }

    /// Deletes what killed runs left in staging, downloads that were not finished, and assembled memories of chains that are gone.
    ///
    /// # Errors
    /// [`Error::Io`] where a leftover cannot be deleted.
    pub fn gc(&self, progress: &dyn Progress) -> Result<u64> {
        let removed = sweep(self, progress)?
            + self.sweep_partial()?
            + self.sweep_assembled()?.len() as u64
            + super::lock::sweep(self);
        self.remove_empty(&[self.staging_root(), self.snapshots()]);
        Ok(removed)
    }
}

/// Removes temporary packs whose owner is gone: those that nobody holds a lock on.
pub(crate) fn sweep_files(temp: &Path, prefix: &str) {
    for entry in fs::read_dir(temp).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(prefix));
        // A link is never followed: the folder may be one that all users share.
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let old = entry
            .metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|at| at.elapsed().unwrap_or_default() > Duration::from_secs(2));
        let Ok(file) = fs::File::open(entry.path()) else { continue };
        if old && forkd_sys::try_lock(&file, forkd_sys::LockKind::Exclusive).unwrap_or(false) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A folder in the store's own filesystem where an operation prepares what it will publish. It is locked for as long as its owner
/// lives, so that anyone may clear away what a killed owner left.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    store: Store,
    _lock: File,
}

impl Staging {
    pub(crate) fn create(store: &Store, progress: &dyn Progress) -> Result<Self> {
        sweep(store, progress)?;
        let mut tries = 0;
        loop {
            match Self::try_create(store) {
                Err(Error::Io { source, .. })
                    if crate::store::root::is_taken_away(&source) && tries < 100 =>
                {
                    tries += 1
                }
                other => return other,
            }
        }
    }

    fn try_create(store: &Store) -> Result<Self> {
        let parent = store.staging_root();
        store.disk.make_dirs(&parent).map_err(Error::io("create", &parent))?;
        // Nobody sweeps while a new folder is made but not locked yet.
        let guard = File::open(&parent).map_err(Error::io("open", &parent))?;
        while !forkd_sys::try_lock(&guard, LockKind::Shared).map_err(Error::io("lock", &parent))? {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let path = (0u32..)
            .map(|n| parent.join(format!("{}-{n}", std::process::id())))
            .find(|path| path.symlink_metadata().is_err())
            .unwrap_or_else(|| parent.join("x"));
        store.disk.make_dir(&path).map_err(Error::io("create", &path))?;
        let lock = File::open(&path).map_err(Error::io("open", &path))?;
        forkd_sys::try_lock(&lock, LockKind::Exclusive).map_err(Error::io("lock", &path))?;
        Ok(Self { path, store: store.clone(), _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder in it.
    pub(crate) fn dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        self.store.disk.make_dir(&path).map_err(Error::io("create", &path))?;
        Ok(path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = self.store.disk.remove_tree(&self.path);
        self.store.remove_empty(&[self.store.staging_root(), self.store.snapshots()]);
    }
}

/// A store for a while, in the staging folder of another: it goes with this value, or is swept when its owner is gone.
#[derive(Debug)]
pub struct Scratch {
    store: Store,
    _staging: Staging,
}

impl Scratch {
    /// Its store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }
}

impl Store {
    /// Makes a store for a while on the same disk.
    ///
    /// # Errors
    /// What the disk says.
    pub fn scratch(&self, env: crate::env::Env<'_>) -> Result<Scratch> {
        let staging = self.stage(env)?;
        let store = Store { root: staging.path().join("scratch"), ..self.clone() };
        Ok(Scratch { store, _staging: staging })
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Deletes the folders in staging whose owner is gone. Says how many.
pub(crate) fn sweep(store: &Store, progress: &dyn Progress) -> Result<u64> {
    let parent = store.staging_root();
    let Ok(metadata) = parent.symlink_metadata() else { return Ok(0) };
    if !metadata.is_dir() {
        let message = format!("{} is not a folder of its own; move it away", parent.display());
        return Err(Error::new(Kind::General, message));
    }
    let entries = fs::read_dir(&parent).map_err(Error::io("read", &parent))?;
    let guard = File::open(&parent).map_err(Error::io("open", &parent))?;
    if !forkd_sys::try_lock(&guard, LockKind::Exclusive).map_err(Error::io("lock", &parent))? {
        return Ok(0);
    }
    let mut count = 0;
    for entry in entries.flatten() {
        let path = entry.path();
        // Only what `create` makes: a folder named after a process.
        let ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.split_once('-').is_some_and(|(pid, n)| is_number(pid) && is_number(n)));
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let Ok(dir) = File::open(&path) else { continue };
        if forkd_sys::try_lock(&dir, LockKind::Exclusive).unwrap_or(false) {
            store.disk.remove_tree(&path).map_err(Error::io("remove", &path))?;
            progress.note(&format!("removed {}, left by an interrupted run", path.display()));
            count += 1;
        }
    }
    Ok(count)
}
