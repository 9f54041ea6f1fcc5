//! Downloads that outlive the run that began them: `partial/<key>/`, gone on with by the next pull of the same.

use crate::env::Env;
use crate::error::{Error, Result};
use crate::store::lock::TagLock;
use crate::store::root::Store;
use forkd_sys::LockKind;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// What has landed so far of one download. It is locked for as long as its owner lives; dropped, it stays for another to go on with.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    store: Store,
    // Against gc, then against another pull of the same.
    _lock: File,
    _turn: TagLock,
}

impl Store {
    pub(crate) fn partial_root(&self) -> PathBuf {
        self.root.join("partial")
    }

    /// Opens the folder of a download, or makes it. Whoever is at the same one, under whatever name, is waited for.
    pub(crate) fn partial(&self, key: &str, env: Env<'_>) -> Result<Partial> {
        let turn = self.lock_name(key, "a download of the same pack", LockKind::Exclusive, env)?;
        let parent = self.partial_root();
        let mut tries = 0;
        loop {
            match self.try_partial(&parent, key) {
                Err(Error::Io { source, .. })
                    if crate::store::root::is_taken_away(&source) && tries < 100 =>
                {
                    tries += 1
                }
                other => {
                    let (path, lock) = other?;
                    return Ok(Partial { path, store: self.clone(), _lock: lock, _turn: turn });
                }
            }
        }
    }

    fn try_partial(&self, parent: &Path, key: &str) -> Result<(PathBuf, File)> {
        self.disk.make_dirs(parent).map_err(Error::io("create", parent))?;
        // Nobody sweeps while it is opened but not locked yet.
        let guard = File::open(parent).map_err(Error::io("open", parent))?;
        while !forkd_sys::try_lock(&guard, LockKind::Shared).map_err(Error::io("lock", parent))? {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let path = parent.join(key);
        if !path.is_dir() {
            self.disk.make_dir(&path).map_err(Error::io("create", &path))?;
        }
        let lock = File::open(&path).map_err(Error::io("open", &path))?;
        if !forkd_sys::try_lock(&lock, LockKind::Exclusive).map_err(Error::io("lock", &path))? {
            let (resource, holder) = (path.display().to_string(), "another process".to_owned());
            return Err(Error::Locked { resource, holder });
        }
        Ok((path, lock))
    }

    /// Deletes downloads that nobody is at. Says how many.
    pub(crate) fn sweep_partial(&self) -> Result<u64> {
        let parent = self.partial_root();
        if !parent.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Ok(0);
        }
        let guard = File::open(&parent).map_err(Error::io("open", &parent))?;
        if !forkd_sys::try_lock(&guard, LockKind::Exclusive).map_err(Error::io("lock", &parent))? {
            return Ok(0);
        }
        let mut count = 0;
        for entry in fs::read_dir(&parent).map_err(Error::io("read", &parent))?.flatten() {
            let path = entry.path();
            let Ok(dir) = File::open(&path) else { continue };
            if entry.file_type().is_ok_and(|kind| kind.is_dir())
                && forkd_sys::try_lock(&dir, LockKind::Exclusive).unwrap_or(false)
            {
                self.disk.remove_tree(&path).map_err(Error::io("remove", &path))?;
                count += 1;
            }
        }
        drop(guard);
        self.remove_empty(&[parent]);
        Ok(count)
    }
}

impl Partial {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file in it for reading and writing; makes it where it is not there.
    pub(crate) fn file(&self, name: &str) -> Result<(PathBuf, File)> {
        let path = self.path.join(name);
        let file = match File::options().read(true).write(true).open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => self.store.disk.create(&path, 0o600),
            file => file,
        };
        Ok((path.clone(), file.map_err(Error::io("open", &path))?))
    }

    /// Whether nothing has landed.
    pub(crate) fn is_empty(&self) -> bool {
        let landed = |name: &str| self.path.join(name).metadata().is_ok_and(|found| found.len() > 0);
        !landed("journal") && !landed("pack")
    }

    /// Deletes all but one of its files.
    pub(crate) fn clear_but(&self, kept: &str) -> Result<()> {
        for entry in fs::read_dir(&self.path).map_err(Error::io("read", &self.path))? {
            let entry = entry.map_err(Error::io("read", &self.path))?;
            let (path, disk) = (entry.path(), &self.store.disk);
            if entry.file_type().map_err(Error::io("read", &path))?.is_dir() {
                disk.remove_tree(&path).map_err(Error::io("remove", &path))?;
            } else if entry.file_name() != kept {
                disk.remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// It is done with, or worth nothing.
    pub(crate) fn remove(self) -> Result<()> {
        self.store.disk.remove_tree(&self.path).map_err(Error::io("remove", &self.path))?;
        self.store.remove_empty(&[self.store.partial_root(), self.store.snapshots()]);
        Ok(())
    }
}
