//! A file in progress outside the store: locked and swept as the store's own folders are.

use crate::error::{Error, Result};
use forkd_sys::{DiskIo, LockKind, try_lock};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One that was made just now may not be locked yet.
const SETTLED: Duration = Duration::from_secs(2);

/// A new file, locked for as long as this lives and deleted with it, unless it was put into a place of its own.
#[derive(Debug)]
pub(crate) struct WorkFile<'a> {
    disk: &'a DiskIo,
    path: PathBuf,
    file: File,
}

impl<'a> WorkFile<'a> {
    /// Makes `<prefix><pid><suffix>`, and clears away what dead owners left under the same prefix. The umask applies to `mode`.
    pub(crate) fn create(
        disk: &'a DiskIo,
        folder: &Path,
        (prefix, suffix): (&str, &str),
        mode: u32,
    ) -> Result<Self> {
        sweep(folder, prefix);
        let stem = format!("{prefix}{}", std::process::id());
        let (mut path, mut number) = (folder.join(format!("{stem}{suffix}")), 0);
        let file = loop {
            match disk.create(&path, mode) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                made => break made.map_err(Error::io("create a file in", folder))?,
            }
            path = folder.join(format!("{stem}-{number}{suffix}"));
        };
        let made = Self { disk, path, file };
        try_lock(&made.file, LockKind::Exclusive).map_err(Error::io("lock", &made.path))?;
        Ok(made)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Syncs it and gives it a place, replacing what is there at once.
    pub(crate) fn put(self, target: &Path) -> Result<()> {
        self.disk.sync_file(&self.file, target).map_err(Error::io("sync", target))?;
        self.disk.replace(&self.path, target).map_err(Error::io("create", target))?;
        let folder = target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.disk.sync_dir(folder).map_err(Error::io("sync", folder))
    }
}

impl Drop for WorkFile<'_> {
    fn drop(&mut self) {
        // Where it was put into its place this name is gone already.
        let _ = fs::remove_file(&self.path);
    }
}

/// Deletes files of this name whose owner is gone: those that nobody holds a lock on.
fn sweep(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(prefix));
        // A link is never followed: the folder may be one that all users share.
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let settled = modified.is_ok_and(|at| at.elapsed().unwrap_or_default() > SETTLED);
        let Ok(file) = File::open(entry.path()) else { continue };
        if settled && try_lock(&file, LockKind::Exclusive).unwrap_or(false) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
